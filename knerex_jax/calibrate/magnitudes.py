"""Counted magnitudes by octave, as the search of ranges reads them: one row of features per octave of candidates.

A candidate for a range lies in some octave, and what matters for it looks the same in every octave once lengths are
divided by `2**octave`: the bins of the octave itself, ever fewer bins in the octaves below (the quantizer's step is the
same for all), and three moments of what lies above, which would be clipped. So one table of errors serves all.
"""

from dataclasses import dataclass

import numpy as np

from knerex_jax.calibrate.observers import TAIL_BITS
from knerex_jax.calibrate.state import TensorState, code_of, split_keys

BITS = 9
"""Mantissa bits of a candidate: `2**BITS` of them in an octave."""

WIDTHS = tuple(max(1 << BITS >> depth, 1 << TAIL_BITS) for depth in range(16))
"""Bins of the candidates' octave and of those below it; under the last, everything is less than half a step."""

_LEVELS = {width: np.array([d for d, w in enumerate(WIDTHS) if w == width]) for width in WIDTHS}
"""Width -> octaves below the candidates' own that have as many bins; their columns lie side by side."""

MOMENTS = 3
"""Columns before the bins: number, sum of x - 2 and sum of (x - 2)**2 of the values x >= 2 above the octave [1, 2)."""

COLUMNS = MOMENTS + sum(WIDTHS)

_FEW = 4
"""Rows of one key up to which all first ones, all second ones and so on are added at once."""


@dataclass(frozen=True)
class Magnitudes:
    """Magnitudes of G groups: the channels of a tensor, or all of it as one.

    Attributes:
      largest: float32 [G], exact.
      keys: int64 [R], sorted: `group * 256 + octave`.
      counts: int [R, 2**bits], magnitudes per bin.
      tail_keys: int64 [T], sorted, like `keys`.
      tail: int [T, 2**TAIL_BITS], further magnitudes in coarse bins.
      bits: mantissa bits of a bin.
    """

    largest: np.ndarray
    keys: np.ndarray
    counts: np.ndarray
    tail_keys: np.ndarray
    tail: np.ndarray
    bits: int


def by_channel(state: TensorState) -> Magnitudes:
    """The channels of a tensor, signs dropped."""
    channel, _, octave = split_keys(state.keys)
    largest = np.maximum(np.abs(state.low), np.abs(state.high))
    # Values that a later compilation rounded up across an octave stand at the largest float.
    octave = np.minimum(octave, code_of(largest, 0)[channel])
    keys, counts = _summed(channel * 256 + octave, state.counts, state.values)
    return Magnitudes(largest, keys, counts, state.tail_keys, state.tail, state.bits)


def in_all(channels: Magnitudes, size: int) -> Magnitudes:
    """All channels, of `size` values together, as one group."""
    keys, counts = _summed(channels.keys & 255, channels.counts, size)
    tail_keys, tail = _summed(channels.tail_keys & 255, channels.tail, size)
    return Magnitudes(channels.largest.max(keepdims=True), keys, counts, tail_keys, tail, channels.bits)


def features(groups: Magnitudes, keys: np.ndarray) -> np.ndarray:
    """What decides on the candidates of some octaves.

    Args:
      groups: counted.
      keys: int64 [P], those of `groups.keys` from some octave of each group upwards.

    Returns:
      float32 [P, COLUMNS]: moments of the values above the octave, then counts of the bins at and below it, from the
      octave's own downwards, each octave in rising order. Lengths are in units of 2**octave.
    """
    found = np.empty((len(keys), COLUMNS), np.float32)
    found[:, :MOMENTS] = _above(groups, keys)
    column, fine = MOMENTS, groups.counts
    for width, depths in _LEVELS.items():
        fine = resample(fine, width)
        # Octave 0 holds zeros.
        wanted = np.where((keys & 255)[:, None] > depths, keys[:, None] - depths, -1).ravel()
        rows = _rows(groups.keys, fine, wanted)
        if _places(groups.tail_keys, wanted)[1].any():
            rows = rows + resample(_rows(groups.tail_keys, groups.tail, wanted), width)
        found[:, column : column + len(depths) * width] = rows.reshape(len(keys), len(depths) * width)
        column += len(depths) * width
    return found


def resample(counts: np.ndarray, width: int) -> np.ndarray:
    """Counts [R, B] in `width` bins: added up, or spread evenly."""
    while counts.shape[1] > width:
        # Two strided operands: a reduction over an axis of length 2 takes ten times as long.
        counts = counts[:, ::2] + counts[:, 1::2]
    spread = width // counts.shape[1]
    return np.repeat(counts, spread, axis=1) / np.float64(spread) if spread > 1 else counts


def _above(groups: Magnitudes, keys: np.ndarray) -> np.ndarray:
    """Moments of the values in higher octaves, float32 [P, MOMENTS]; all terms are positive, so nothing cancels."""
    bins = groups.counts.shape[1]
    middles = (np.arange(bins) + 0.5) / bins
    powers = np.stack([np.ones(bins), middles, middles**2 + 1 / (12 * bins**2)])
    # Not a matrix product: BLAS would wake threads for it, whose waiting costs more than the work.
    moments = np.einsum("pb,mb->pm", _rows(groups.keys, groups.counts, keys), powers)
    found = np.zeros((len(keys), MOMENTS))
    distances = code_of(groups.largest, 0)[keys >> 8] - (keys & 255)
    for distance in range(1, int(distances.max(initial=0)) + 1):
        (under,) = np.nonzero(distances >= distance)
        n, first, second = _rows(keys, moments, keys[under] + distance).T
        k = 2.0**distance
        found[under] += np.stack(
            [n, k * first + (k - 2) * n, k * k * second + 2 * k * (k - 2) * first + (k - 2) ** 2 * n], axis=1
        )
    # What float32 cannot hold is never worth clipping.
    return np.where(found < np.finfo(np.float32).max / 16, found, np.inf).astype(np.float32)


def _rows(keys: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of each wanted key, 0 where there is none."""
    place, there = _places(keys, wanted)
    if not len(keys):
        return np.zeros((len(wanted), rows.shape[1]), rows.dtype)
    found = rows[place]
    found[~there] = 0
    return found


def _places(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted key is, and whether it is there at all."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted


def _summed(keys: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys, rows of equal key added up; no bin of the result counts more than `most`."""
    if (np.diff(keys) > 0).all():
        return keys, counts
    counts = counts.astype(np.int32 if most < 2**31 else np.int64, copy=False)
    order = np.argsort(keys, kind="stable")
    keys, first, repeats = np.unique(keys[order], return_index=True, return_counts=True)
    if repeats.max() > _FEW:
        parts = [counts[order[k : k + n]] for k, n in zip(first, repeats, strict=True)]
        return keys, np.stack([rows.sum(0, dtype=counts.dtype) for rows in parts])
    total = counts[order[first]]
    for nth in range(1, repeats.max()):
        (more,) = np.nonzero(repeats > nth)
        total[more] += counts[order[first[more] + nth]]
    return keys, total
