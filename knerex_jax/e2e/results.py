"""What a post-processing function returns, as plain data, and how far two of them agree.

It returns a list of `Box`, `Label`, `HeatMap` or text; or anything else that JSON can hold, which is not drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knerex_jax.e2e.boxes import box_overlaps

LEAST_OVERLAP = 0.5
"""Intersection over union from which two boxes are the same object."""


@dataclass(frozen=True)
class Box:
    """An object.

    Attributes:
      label: its class.
      score: how sure, usually 0 to 1.
      xyxy: left, top, right, bottom in pixels of the picture.
      points: keypoints (x, y) in pixels of the picture.
    """

    label: str
    score: float
    xyxy: tuple[float, float, float, float]
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Label:
    """A class of the whole picture and its score; the first of a list is the answer."""

    name: str
    score: float


@dataclass(frozen=True)
class HeatMap:
    """A mask or a map of probabilities: [h, w], 0 to 1, stretched over the picture. Drawn, not written as numbers."""

    values: np.ndarray
    name: str = ""


def to_json(value: Any) -> Any:
    """Plain data, numbers of numpy included.

    Raises:
      TypeError: there is no JSON for it.
    """
    match value:
        case Box():
            points = [[float(c) for c in p] for p in value.points]
            xyxy = [float(c) for c in value.xyxy]
            return {"type": "box", "label": str(value.label), "score": float(value.score), "xyxy": xyxy} | (
                {"points": points} if points else {}
            )
        case Label():
            return {"type": "label", "name": str(value.name), "score": float(value.score)}
        case HeatMap():
            mean = float(np.mean(value.values))
            return {"type": "heat map", "name": value.name, "shape": list(np.shape(value.values)), "mean": mean}
        case None | bool() | int() | float() | str():
            return value
        case np.generic() | np.ndarray():
            return value.tolist()
        case Mapping():
            return {str(k): to_json(v) for k, v in value.items()}
        case Sequence():
            return [to_json(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def agreement(reference: Any, other: Any) -> float:
    """How far two results of one picture agree, 0 to 1.

    Boxes: F1 of those that overlap by half with the same label, 1 where there are none. Labels: whether the first is
    the same. Heat maps alone: intersection over union of what is above a half. Anything else: whether it is equal.
    """
    ours, theirs = _listed(reference), _listed(other)
    boxes = [[r for r in results if isinstance(r, Box)] for results in (ours, theirs)]
    if any(boxes):
        return _box_f1(*boxes)
    labels = [[r for r in results if isinstance(r, Label)] for results in (ours, theirs)]
    if all(labels):
        return float(labels[0][0].name == labels[1][0].name)
    maps = [[r for r in results if isinstance(r, HeatMap)] for results in (ours, theirs)]
    if all(maps):
        return _mask_overlap(maps[0][0].values, maps[1][0].values)
    return float(to_json(reference) == to_json(other))


def _listed(result: Any) -> Sequence[Any]:
    return result if isinstance(result, list | tuple) else [result]


def _box_f1(reference: Sequence[Box], other: Sequence[Box]) -> float:
    if not reference or not other:
        return 0.0
    overlaps = box_overlaps(*(np.array([b.xyxy for b in boxes], np.float64) for boxes in (reference, other)))
    same = np.array([[a.label == b.label for b in other] for a in reference])
    overlaps, matched = np.where(same, overlaps, 0.0), 0
    while overlaps.max() >= LEAST_OVERLAP:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        overlaps[row], overlaps[:, column] = 0.0, 0.0
        matched += 1
    return 2 * matched / (len(reference) + len(other))


def _mask_overlap(reference: np.ndarray, other: np.ndarray) -> float:
    a, b = np.asarray(reference) > 0.5, np.asarray(other) > 0.5
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0
