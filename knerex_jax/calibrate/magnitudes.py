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

MOMENTS = 3
"""Columns before the bins: number, sum of x - 2 and sum of (x - 2)**2 of the values x >= 2 above the octave [1, 2)."""

COLUMNS = MOMENTS + sum(WIDTHS)


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
    keys, counts = _summed(channel * 256 + octave, state.counts)
    return Magnitudes(largest, keys, counts, state.tail_keys, state.tail, state.bits)


def in_all(channels: Magnitudes) -> Magnitudes:
    """All channels as one group."""
    keys, counts = _summed(channels.keys & 255, channels.counts)
    tail_keys, tail = _summed(channels.tail_keys & 255, channels.tail)
    return Magnitudes(channels.largest.max(keepdims=True), keys, counts, tail_keys, tail, channels.bits)


def features(groups: Magnitudes, keys: np.ndarray) -> np.ndarray:
    """What decides on the candidates of some octaves.

    Args:
      groups: counted.
      keys: int64 [P], `group * 256 + octave`.

    Returns:
      float32 [P, COLUMNS]: moments of the values above the octave, then counts of the bins at and below it, from the
      octave's own downwards, each octave in rising order. Lengths are in units of 2**octave.
    """
    fine = {len(groups.counts[0]) if len(groups.counts) else 1: groups.counts}
    parts = [_above(groups, keys)]
    for depth, width in enumerate(WIDTHS):
        if width not in fine:
            fine[width] = resample(fine[min(fine, key=lambda have: (have < width, have))], width)
        there = (keys & 255) > depth
        counts = _rows(groups.keys, fine[width], np.where(there, keys - depth, -1))
        tail = _rows(groups.tail_keys, groups.tail, np.where(there, keys - depth, -1))
        parts.append(counts + resample(tail, width))
    return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")


def resample(counts: np.ndarray, width: int) -> np.ndarray:
    """Counts [R, B] in `width` bins: added up, or spread evenly."""
    have = counts.shape[1]
    if have >= width:
        return counts if have == width else counts.reshape(len(counts), width, have // width).sum(2)
    return np.repeat(counts, width // have, axis=1) / np.float32(width // have)


def _above(groups: Magnitudes, keys: np.ndarray) -> np.ndarray:
    """Moments of the values in higher octaves, float32 [P, MOMENTS]; all terms are positive, so nothing cancels."""
    bins = groups.counts.shape[1]
    middles = (np.arange(bins) + 0.5) / bins
    moments = np.stack(
        [groups.counts.sum(1), groups.counts @ middles, groups.counts @ (middles**2 + 1 / (12 * bins**2))], axis=1
    )
    found = np.zeros((len(keys), MOMENTS))
    top = code_of(groups.largest, 0)[keys >> 8]
    for distance in range(1, int((top - (keys & 255)).max(initial=0)) + 1):
        within = (keys & 255) + distance <= 255
        n, first, second = _rows(groups.keys, moments, np.where(within, keys + distance, -1)).T
        k = 2.0**distance
        found += np.stack([n, k * first + (k - 2) * n, k * k * second + 2 * k * (k - 2) * first + (k - 2) ** 2 * n], 1)
    # What float32 cannot hold is never worth clipping.
    return np.where(found < np.finfo(np.float32).max / 16, found, np.inf).astype(np.float32)


def _rows(keys: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of each wanted key, 0 where there is none."""
    if not len(keys):
        return np.zeros((len(wanted), rows.shape[1]), rows.dtype)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = rows[place]
    found[keys[place] != wanted] = 0
    return found


def _summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys, rows of equal key added up (in int64)."""
    if (np.diff(keys) > 0).all():
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys, first = np.unique(keys[order], return_index=True)
    return keys, np.add.reduceat(counts[order], first, axis=0, dtype=np.int64)
