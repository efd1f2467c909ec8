"""A4: a one-class detector of single characters on pictures (a small YOLOX), 416x416."""

import itertools
from collections.abc import Iterator

import numpy as np

from knerex_jax.e2e.boxes import count_matches, suppress_repeats
from knerex_jax.zoo.fetch import packaged_file
from knerex_jax.zoo.images import PHOTOS, load_labelled_photos, load_photo, random_crop
from knerex_jax.zoo.lettering import CLEAR_CHARACTERS, Box, draw_text, random_colour, text_size
from knerex_jax.zoo.model import Sample, Tensors, ZooModel

_PACKAGE = "ddddocr"
_SIDE = 416
_STRIDES = (8, 16, 32)
_PER_PICTURE = 4
_SIZES = (40, 64)  # of the font in pixels, the second excluded
_OUTLINE = 3
_GAP = 12  # between the boxes of one picture, in pixels
_LEAST_SCORE, _MOST_OVERLAP = 0.3, 0.45
_SAME_BOX = 0.4  # least intersection over union of a found box and a true one


def _free_place(height: int, width: int, taken: list[Box], generator: np.random.Generator) -> tuple[int, int]:
    """Top and left of a random place in the picture that keeps its distance from the boxes."""
    while True:
        top, left = (int(generator.integers(_GAP, _SIDE - n - _GAP)) for n in (height, width))
        apart = (
            left >= box_right + _GAP
            or box_left >= left + width + _GAP
            or top >= box_bottom + _GAP
            or box_top >= top + height + _GAP
            for box_left, box_top, box_right, box_bottom in taken
        )
        if all(apart):
            return top, left


def _draw_characters(photo: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[Box]]:
    """A random square of a photo, 416x416, with four outlined characters, and their boxes."""
    picture = random_crop(photo, _SIDE, generator, smallest=0.6)
    boxes: list[Box] = []
    for _ in range(_PER_PICTURE):
        character, size = str(generator.choice(list(CLEAR_CHARACTERS))), int(generator.integers(*_SIZES))
        top, left = _free_place(*text_size(character, size, _OUTLINE), boxes, generator)
        picture, box = draw_text(picture, character, size, top, left, random_colour(generator), _OUTLINE)
        boxes.append(box)
    return picture, boxes


def _normalize(picture: np.ndarray) -> np.ndarray:
    """uint8 RGB [416, 416, 3] -> float32 [3, 416, 416], BGR, 0 to 255."""
    return np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)).astype(np.float32)


def _calibration_samples() -> Iterator[Sample]:
    """Characters on random squares of the unlabelled photos, photo after photo, without end."""
    generator = np.random.default_rng(40)
    for photo in itertools.cycle([load_photo(name) for name in PHOTOS]):
        yield {"images": _normalize(_draw_characters(photo, generator)[0])}


def _labelled_samples() -> Iterator[tuple[Sample, np.ndarray]]:
    """Characters on two random squares of each of the 20 ImageNet photos, first one of all photos, then the other."""
    generator = np.random.default_rng(41)
    photos = [photo for photo, _ in load_labelled_photos()]
    for photo in photos * 2:
        picture, boxes = _draw_characters(photo, generator)
        yield {"images": _normalize(picture)}, np.array(boxes)


def found_boxes(output: np.ndarray) -> np.ndarray:
    """Decodes the detector's output for one picture.

    Args:
      output: [3549, 6]: x and y in cells from the cell, log width and log height in cells, objectness, class; cells row
        by row, the finest grid first.

    Returns:
      Boxes [n, 4] in pixels, the best first.
    """
    places, sizes = [], []
    for stride in _STRIDES:
        rows, columns = np.divmod(np.arange((_SIDE // stride) ** 2), _SIDE // stride)
        places.append(np.stack([columns, rows], axis=1))
        sizes.append(np.full((len(rows), 1), stride))
    cell, stride = np.concatenate(places), np.concatenate(sizes)
    scores = output[:, 4] * output[:, 5]
    good = scores > _LEAST_SCORE
    centre = ((output[:, :2] + cell) * stride)[good]
    half = (np.exp(output[good, 2:4].astype(np.float64)) * stride[good]) / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes[suppress_repeats(boxes, scores[good], _MOST_OVERLAP)]


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    found = [found_boxes(picture) for picture in outputs["output"]]
    reference = [found_boxes(picture) for picture in float_outputs["output"]]
    kept = [count_matches(boxes, true, _SAME_BOX) for boxes, true in zip(found, reference, strict=True)]
    measures = {"float_boxes_kept": sum(n for n, _ in kept) / max(sum(map(len, reference)), 1)}
    if labels is not None:
        right = [count_matches(boxes, true, _SAME_BOX) for boxes, true in zip(found, labels, strict=True)]
        measures["characters_found"] = sum(n for n, _ in right) / labels[:, :, 0].size
        measures["false_boxes_per_picture"] = sum(n for _, n in right) / len(right)
    return measures


A4 = ZooModel(
    name="A4",
    title="character detector (YOLOX-like, SiLU, spatial pyramid pooling), 416x416",
    licence="MIT",
    packages=(_PACKAGE, "foolbox", "scikit-image"),
    locate=lambda: packaged_file(_PACKAGE, "ddddocr/common_det.onnx"),
    calibration_samples=_calibration_samples,
    calibration_count=128,
    labelled_samples=_labelled_samples,
    note="40 random squares of 20 ImageNet photos with 4 outlined characters drawn on each; labels are their boxes, "
    "left, top, right, bottom in pixels [N, 4, 4]; calibration draws on other photos",
    score=_score,
)
