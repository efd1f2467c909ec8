"""Boxes of detectors: overlap, suppression of repeats, and comparison with other boxes.

Boxes are float [n, 4] in pixels: left, top, right, bottom.
"""

import numpy as np


def box_overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every box [n, 4] with every other [m, 4]: [n, m]."""
    first, second = boxes[:, None, :], others[None, :, :]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(b[..., 2:] - b[..., :2], axis=-1) for b in (first, second)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def suppress_repeats(boxes: np.ndarray, scores: np.ndarray, most: float) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
      boxes: [n, 4].
      scores: [n].
      most: a box that overlaps a better one by more than this is dropped.

    Returns:
      Indices of the boxes that stay, best first; equal scores in their order.
    """
    overlaps = box_overlaps(boxes, boxes)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if not kept or overlaps[index, kept].max() <= most:
            kept.append(int(index))
    return np.array(kept, np.int64)


def count_matches(boxes: np.ndarray, true: np.ndarray, least: float) -> tuple[int, int]:
    """Compares found boxes [n, 4] with true ones [m, 4].

    Returns:
      How many of the true boxes some box overlaps by at least `least`, and how many boxes overlap no true one so.
    """
    match = box_overlaps(boxes, true) >= least
    return int(np.count_nonzero(match.any(axis=0))), int(np.count_nonzero(~match.any(axis=1)))
