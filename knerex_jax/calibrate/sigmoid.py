"""Ranges of outputs that a sigmoid outside the model follows: the error is measured behind it.

Source: section 6 of the arithmetic contract (post_sigmoid). What saturates the sigmoid need not be told apart, so a
clip far below the largest value often wins resolution where it matters. Outputs have one format for all channels.
"""

import numpy as np
from scipy.special import expit

from knerex_jax.calibrate.magnitudes import by_channel, in_all
from knerex_jax.calibrate.mmse import SEARCHED
from knerex_jax.calibrate.observers import MANTISSA, TAIL_BITS
from knerex_jax.calibrate.state import TensorState, code_of, middle
from knerex_jax.fixedpoint.qformat import data_limits

_DEEP_ENOUGH = 2.0
"""The counts have to reach down to where a sigmoid is curved."""

_OCTAVES_BELOW = 4
"""So far a clip may lie below the largest value, or below the curve where that is lower."""

_PER_OCTAVE_BITS = 6
_CHUNK = 64
_POINTS = 4
"""Values that stand for a bin; a step of 8 bits is 4 bins wide or more."""


def is_counted(state: TensorState) -> bool:
    """Whether a state tells enough about an output for `sigmoid_clips`."""
    unseen = float(state.below.max())
    return unseen == 0 or (len(state.keys) > 0 and unseen < _DEEP_ENOUGH)


def sigmoid_clips(state: TensorState) -> tuple[np.ndarray, bool]:
    """The clips of an output with the least squared error behind a sigmoid, signs being symmetric.

    Candidates are the largest magnitude and what lies below it, whether or not such values occur.

    Returns:
      float32 [2], by width (`SEARCHED`), and whether all candidates were counted.
    """
    groups = in_all(by_channel(state), state.size)
    largest = groups.largest[0]
    if not len(groups.keys):
        return np.repeat(largest, len(SEARCHED)), is_counted(state)
    lowest = max(float(state.below.max()), min(float(largest), _DEEP_ENOUGH) * 2.0**-_OCTAVES_BELOW)
    low, high = (int(code_of(np.float32(end), _PER_OCTAVE_BITS)) for end in (lowest, largest))
    clips = np.append(middle(np.arange(low + 1, high), _PER_OCTAVE_BITS), largest)
    x, weight = _points(groups.keys, groups.counts, groups.bits)
    tail, tail_weight = _points(groups.tail_keys, groups.tail, TAIL_BITS)
    x, weight = np.append(x, tail), np.append(weight, tail_weight)
    best = [clips[np.argmin(_costs(x, weight, clips.astype(np.float64), data_limits(b)[1]))] for b in SEARCHED]
    return np.array(best, np.float32), is_counted(state)


def _costs(x: np.ndarray, weight: np.ndarray, clips: np.ndarray, qmax: int) -> np.ndarray:
    exact = expit(x)
    costs = []
    for start in range(0, len(clips), _CHUNK):
        step = clips[start : start + _CHUNK, None] / qmax
        costs.append((expit(np.minimum(np.rint(x / step), qmax) * step) - exact) ** 2 @ weight)
    return np.concatenate(costs)


def _counted_bins(keys: np.ndarray, counts: np.ndarray, bits: int) -> np.ndarray:
    """Bins (as `code_of`) of one group that are not empty, rising."""
    row, place = np.nonzero(counts)
    return ((keys[row] & 255) << bits) + place


def _points(keys: np.ndarray, counts: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Values that stand for the bins of one group, float64, and their weights."""
    codes = _counted_bins(keys, counts, bits)
    width = 1 << (MANTISSA - bits)
    inside = ((np.arange(_POINTS) + 0.5) / _POINTS * width).astype(np.int64)
    x = ((codes[:, None] << (MANTISSA - bits)) + inside).astype(np.int32).view(np.float32).astype(np.float64)
    weight = np.repeat(counts[counts > 0] / _POINTS, _POINTS)
    return x.ravel(), weight
