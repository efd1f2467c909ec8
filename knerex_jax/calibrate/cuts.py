"""From counted magnitudes to ranges: drop the largest share of |x|, take minimum and maximum of the rest.

Source: section 6 of the arithmetic contract (percentage). Every final result is a function of the multiset of values
alone: a magnitude is reported as the middle of the bin of the order statistic (or as the exact extreme where nothing is
dropped), so batch size, merging and the number of readings leave no trace. Bins of 9 bits put it within 0.1 % of the
true value; what shares the threshold's bin counts as kept. Magnitudes under the smallest normal float32 count as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from knerex_jax.calibrate.ranges import Cut
from knerex_jax.calibrate.state import TensorState, code_of, middle, split_keys


def dropped(pct: float, count: int) -> int:
    """How many of `count` magnitudes a cut drops: floor((1 - pct) * count), pct read as the decimal it is written as.

    At least one value is kept. (In binary, (1 - 0.9) * 10 would be 0.999... and drop nothing.)
    """
    return min(int((1 - Fraction(repr(float(pct)))) * count), count - 1)


def cut_ranges(state: TensorState, shares: Sequence[float]) -> list[tuple[Cut, bool]]:
    """Ranges at some cuts, per layer and per channel.

    A side of which every value was dropped ends at 0.

    Args:
      state: of the tensor.
      shares: of the magnitudes, to keep.

    Returns:
      For every share the ranges, and whether all of them are final. If not, some threshold lies under what has been
      counted, and the ranges stated are upper bounds: another reading is needed (`TensorState.next_window`).
    """
    channels, layer = _tower_of_channels(state), _tower_of_layer(state)
    cuts = []
    for share in shares:
        lows, highs, all_final = _cut(channels, dropped(share, state.values))
        low, high, final = _cut(layer, dropped(share, state.size))
        cuts.append((Cut(float(low[0]), float(high[0]), lows, highs), all_final and final))
    return cuts


def is_final(state: TensorState, shares: Sequence[float]) -> bool:
    """Whether `cut_ranges` can tell all thresholds; far cheaper than telling them."""
    drops = [(dropped(share, state.values), dropped(share, state.size)) for share in shares]
    if not any(drop for pair in drops for drop in pair):
        return True
    channels, layer = _tower_of_channels(state), _tower_of_layer(state)
    return all(_count(channels, c).final.all() and _count(layer, la).final.all() for c, la in drops)


@dataclass(frozen=True)
class Thresholds:
    """Down to where a share of the largest magnitudes reaches.

    Attributes:
      layer: bin, as `code_of`, of the smallest of them; where it is not counted, the lowest bin that surely is.
      channels: int64 [C], the same of each channel.
      final: all of them are counted.
    """

    layer: int
    channels: np.ndarray
    final: bool


def thresholds(state: TensorState, shares: Sequence[float]) -> list[Thresholds]:
    """Bins of the smallest magnitudes among the largest `share` of all, and of each channel; at least one belongs."""
    channels, layer = _tower_of_channels(state), _tower_of_layer(state)

    def of(share: float) -> Thresholds:
        below, all_final = _lowest(channels, dropped(complement(share), state.values))
        lowest, final = _lowest(layer, dropped(complement(share), state.size))
        return Thresholds(int(lowest[0]), below, all_final and final)

    known = {share: of(share) for share in dict.fromkeys(shares)}
    return [known[share] for share in shares]


def complement(share: float) -> float:
    """1 - share, read as the decimal it is written as."""
    return float(1 - Fraction(repr(float(share))))


def _lowest(tower: "_Tower", drop: int) -> tuple[np.ndarray, bool]:
    where = _count(tower, drop)
    return np.where(where.inside, _threshold(tower, drop), tower.complete << tower.bits), bool(where.final.all())


@dataclass(frozen=True)
class _Tower:
    """The counts of G groups (the channels, or the layer as one), stacked by octave.

    Attributes:
      low: float32 [G], exact minimum.
      high: float32 [G], exact maximum.
      complete: int [G], the octave from which on every value is counted.
      below: float32 [2, G], largest value of each sign that is not counted.
      octaves: int [O >= 1], rising.
      row: int [G, O, 2], place of each row in `counts`; R stands for an empty row.
      counts: int [R, 2**bits].
      bits: mantissa bits of a bin.
    """

    low: np.ndarray
    high: np.ndarray
    complete: np.ndarray
    below: np.ndarray
    octaves: np.ndarray
    row: np.ndarray
    counts: np.ndarray
    bits: int

    @cached_property
    def totals(self) -> np.ndarray:
        """Values per row, int64 [G, O, 2]."""
        return np.append(self.counts.sum(1, dtype=np.int64), 0)[self.row]

    @cached_property
    def trusted(self) -> np.ndarray:
        """Rows in which every value is counted, bool [G, O]."""
        return self.octaves >= self.complete[:, None]

    @cached_property
    def from_top(self) -> np.ndarray:
        """Values in trusted rows, from each octave upwards, int64 [G, O]."""
        return np.cumsum(np.where(self.trusted, self.totals.sum(2), 0)[:, ::-1], axis=1)[:, ::-1]

    @cached_property
    def rest(self) -> np.ndarray:
        """Largest value of each sign under the trusted rows, float32 [2, G]: counted there, or not counted at all."""
        there = [self.highest((self.totals[:, :, sign] > 0) & ~self.trusted, sign) for sign in (0, 1)]
        return np.maximum(np.stack(there), self.below)

    def bins(self, place: np.ndarray, sign: int) -> np.ndarray:
        """Counts of one row per group, int [G, 2**bits]; `place` [G] counts octaves."""
        row = self.row[np.arange(len(place)), place, sign]
        if not len(self.counts):
            return np.zeros((len(row), 1 << self.bits), np.int64)
        found = self.counts[np.minimum(row, len(self.counts) - 1)]
        found[row == len(self.counts)] = 0
        return found

    def highest(self, allowed: np.ndarray, sign: int) -> np.ndarray:
        """Largest value of one sign in allowed rows (bool [G, O], none of them empty), float32 [G]; 0 without any."""
        place = allowed.shape[1] - 1 - np.argmax(allowed[:, ::-1], axis=1)
        best, _ = _top_bin(self.bins(place, sign))
        return np.where(allowed.any(1), middle((self.octaves[place] << self.bits) + best, self.bits), np.float32(0))


def _tower_of_channels(state: TensorState) -> _Tower:
    channel, sign, octave = split_keys(state.keys)
    octaves = np.unique(octave) if len(octave) else np.ones(1, np.int64)
    row = np.full((state.channels, len(octaves), 2), len(state.keys))
    row[channel, np.searchsorted(octaves, octave), sign] = np.arange(len(state.keys))
    return _Tower(state.low, state.high, state.floor, state.below, octaves, row, state.counts, state.bits)


def _tower_of_layer(state: TensorState) -> _Tower:
    _, sign, octave = split_keys(state.keys)
    octaves = np.unique(octave) if len(octave) else np.ones(1, np.int64)
    counts = np.zeros((2 * len(octaves), state.counts.shape[1]), np.int64)
    for i, o in enumerate(octaves):
        for s in (0, 1):
            counts[2 * i + s] = state.counts[(octave == o) & (sign == s)].sum(0, dtype=np.int64)
    below = state.below.max(1, keepdims=True)
    # A channel is complete down to its largest uncounted value, however high its window ends.
    unseen = below.max()
    complete = (code_of(unseen, 0) + 1).reshape(1) if unseen > 0 else np.zeros(1, np.int64)
    row = np.arange(2 * len(octaves)).reshape(1, len(octaves), 2)
    low, high = state.low.min(keepdims=True), state.high.max(keepdims=True)
    return _Tower(low, high, complete, below, octaves, row, counts, state.bits)


@dataclass(frozen=True)
class _Counted:
    """Where the (drop + 1)-th largest magnitude of every group is.

    Attributes:
      inside: bool [G], in a trusted row.
      final: bool [G], there, or else known to be the largest of `_Tower.rest`: because exactly the dropped values are
        in trusted rows, or because all others are 0.
    """

    inside: np.ndarray
    final: np.ndarray


def _count(tower: _Tower, drop: int) -> _Counted:
    counted = tower.from_top[:, 0]
    return _Counted(counted > drop, (counted >= drop) | (tower.rest.max(0) == 0))


def _cut(tower: _Tower, drop: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Drops the `drop` largest magnitudes of every group: float32 minimum [G] and maximum [G], and whether final."""
    if drop == 0:
        return tower.low, tower.high, True
    where = _count(tower, drop)
    threshold = _threshold(tower, drop)
    sides = []
    for sign in (0, 1):
        kept = _largest_kept(tower, threshold, sign)
        known = np.where(where.inside & (kept > 0), kept, _rounded(tower.rest[sign], tower.bits))
        sides.append(np.where(where.final, known, tower.rest[sign]))
    high = np.where(tower.high <= 0, tower.high, np.minimum(sides[0], tower.high))
    low = np.where(tower.low >= 0, tower.low, np.maximum(-sides[1], tower.low))
    return low.astype(np.float32), high.astype(np.float32), bool(where.final.all())


def _threshold(tower: _Tower, drop: int) -> np.ndarray:
    """Bin (as `code_of`) of the (drop + 1)-th largest magnitude, int64 [G]; meaningless where it is not counted."""
    place = np.maximum((tower.from_top > drop).sum(1) - 1, 0)
    above = np.pad(tower.from_top, ((0, 0), (0, 1)))[np.arange(len(place)), place + 1]
    bins = tower.bins(place, 0).astype(np.int64) + tower.bins(place, 1)
    from_bin = np.cumsum(bins[:, ::-1], axis=1) + above[:, None]
    return (tower.octaves[place] << tower.bits) + bins.shape[1] - 1 - np.argmax(from_bin > drop, axis=1)


def _largest_kept(tower: _Tower, threshold: np.ndarray, sign: int) -> np.ndarray:
    """Largest trusted value of one sign in a bin not above the threshold's, float32 [G]; 0 if there is none."""
    octave = threshold >> tower.bits
    place = np.searchsorted(tower.octaves, octave)
    upto = np.arange(1 << tower.bits) <= (threshold & ((1 << tower.bits) - 1))[:, None]
    best, any_there = _top_bin(tower.bins(place, sign) * upto)
    lower = (tower.totals[:, :, sign] > 0) & tower.trusted & (tower.octaves < octave[:, None])
    return np.where(any_there, middle((octave << tower.bits) + best, tower.bits), tower.highest(lower, sign))


def _top_bin(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest bin that is not empty, int [G], and whether there is one."""
    there = rows > 0
    return rows.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1), there.any(1)


def _rounded(magnitude: np.ndarray, bits: int) -> np.ndarray:
    """Magnitudes as a bin would report them."""
    code = code_of(magnitude, bits)
    return np.where(code >> bits > 0, middle(code, bits), np.float32(0))
