"""From counted magnitudes to ranges: drop the largest share of |x|, take minimum and maximum of the rest.

Source: section 6 of the arithmetic contract (percentage). Every final result is a function of the multiset of values
alone: a magnitude is reported as the middle of the bin of the order statistic (or as the exact extreme where nothing is
dropped), so batch size, merging and the number of readings leave no trace. Bins of 9 bits put it within 0.1 % of the
true value. Magnitudes under the smallest normal float32 count as 0.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from knerex_jax.calibrate.ranges import Cut
from knerex_jax.calibrate.state import TensorState, code_of, middle, split_keys


def dropped(pct: float, count: int) -> int:
    """How many of `count` magnitudes a cut drops: floor((1 - pct) * count), pct read as the decimal it is written as.

    At least one value is kept. (In binary, (1 - 0.9) * 10 would be 0.999... and drop nothing.)
    """
    return min(int((1 - Fraction(repr(float(pct)))) * count), count - 1)


def cut_ranges(state: TensorState, pct: float) -> tuple[Cut, bool]:
    """Ranges at one cut, per layer and per channel.

    A side of which every value was dropped ends at 0.

    Returns:
      The ranges, and whether all of them are final. If not, some threshold lies under what has been counted, and the
      ranges stated are upper bounds: another reading is needed (`TensorState.next_window`).
    """
    channel_low, channel_high, channels_final = _cut(_tower_of_channels(state), dropped(pct, state.values))
    layer_low, layer_high, layer_final = _cut(_tower_of_layer(state), dropped(pct, state.size))
    cut = Cut(float(layer_low[0]), float(layer_high[0]), channel_low, channel_high)
    return cut, channels_final and layer_final


def is_final(state: TensorState, pct: float) -> bool:
    """Whether `cut_ranges` can tell all thresholds; far cheaper than telling them."""
    towers = (_tower_of_channels(state), dropped(pct, state.values)), (_tower_of_layer(state), dropped(pct, state.size))
    return all(drop == 0 or bool(_count(tower, drop).final.all()) for tower, drop in towers)


@dataclass(frozen=True)
class _Tower:
    """The counts of G groups (the channels, or the layer as one), stacked by octave.

    Attributes:
      low: float32 [G], exact minimum.
      high: float32 [G], exact maximum.
      complete: int [G], the octave from which on every value is counted.
      below: float32 [2, G], largest value of each sign that is not counted.
      octaves: int [O >= 1], rising.
      row: int [G, O, 2], place of each row in `counts`, whose last row is empty and stands for none.
      counts: int [R + 1, 2**bits].
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


def _tower_of_channels(state: TensorState) -> _Tower:
    channel, sign, octave = split_keys(state.keys)
    octaves = np.unique(octave) if len(octave) else np.ones(1, np.int64)
    row = np.full((state.channels, len(octaves), 2), len(state.keys))
    row[channel, np.searchsorted(octaves, octave), sign] = np.arange(len(state.keys))
    counts = np.concatenate([state.counts, np.zeros((1, state.counts.shape[1]), state.counts.dtype)])
    return _Tower(state.low, state.high, state.floor, state.below, octaves, row, counts, state.bits)


def _tower_of_layer(state: TensorState) -> _Tower:
    _, sign, octave = split_keys(state.keys)
    octaves = np.unique(octave) if len(octave) else np.ones(1, np.int64)
    counts = np.zeros((2 * len(octaves) + 1, state.counts.shape[1]), np.int64)
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
    """Where the (drop + 1)-th largest magnitude of every group can be.

    Attributes:
      totals: int64 [G, O, 2], values per row.
      trusted: bool [G, O], rows where every value is counted.
      from_top: int64 [G, O], trusted values from each octave upwards.
      rest: float32 [2, G], largest value of each sign that is not in a trusted row.
      inside: bool [G], it is in a trusted row.
      final: bool [G], it is there, or else known to be the largest of `rest`: exactly the dropped values are in trusted
        rows, or all others are 0.
    """

    totals: np.ndarray
    trusted: np.ndarray
    from_top: np.ndarray
    rest: np.ndarray
    inside: np.ndarray
    final: np.ndarray


def _count(tower: _Tower, drop: int) -> _Counted:
    totals = tower.counts.sum(1, dtype=np.int64)[tower.row]
    trusted = tower.octaves >= tower.complete[:, None]
    from_top = np.cumsum(np.where(trusted, totals.sum(2), 0)[:, ::-1], axis=1)[:, ::-1]
    rest = np.stack([_largest_rest(tower, totals[:, :, sign], trusted, sign) for sign in (0, 1)])
    inside = from_top[:, 0] > drop
    final = inside | (from_top[:, 0] == drop) | (rest.max(0) == 0)
    return _Counted(totals, trusted, from_top, rest, inside, final)


def _cut(tower: _Tower, drop: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Drops the `drop` largest magnitudes of every group: float32 minimum [G] and maximum [G], and whether final."""
    if drop == 0:
        return tower.low, tower.high, True
    c = _count(tower, drop)
    threshold = _threshold(tower, c.from_top, drop)
    sides = []
    for sign in (0, 1):
        kept = _largest_kept(tower, c.totals[:, :, sign] * c.trusted, threshold, sign)
        known = np.where(c.inside & (kept > 0), kept, _rounded(c.rest[sign], tower.bits))
        sides.append(np.where(c.final, known, c.rest[sign]))
    high = np.where(tower.high <= 0, tower.high, np.minimum(sides[0], tower.high))
    low = np.where(tower.low >= 0, tower.low, np.maximum(-sides[1], tower.low))
    return low.astype(np.float32), high.astype(np.float32), bool(c.final.all())


def _largest_rest(tower: _Tower, totals: np.ndarray, trusted: np.ndarray, sign: int) -> np.ndarray:
    """Largest value of one sign under the trusted octaves, float32 [G]: counted there, or not counted at all."""
    there = (totals > 0) & ~trusted
    return np.maximum(_highest(tower, there, sign), tower.below[sign])


def _threshold(tower: _Tower, from_top: np.ndarray, drop: int) -> np.ndarray:
    """Code of the bin of the (drop + 1)-th largest magnitude, int64 [G]; meaningless where so many are not counted.

    Args:
      from_top: int [G, O], trusted counts from each octave upwards.
    """
    groups = np.arange(len(from_top))
    place = np.maximum((from_top > drop).sum(1) - 1, 0)
    above = np.concatenate([from_top, np.zeros_like(from_top[:, :1])], axis=1)[groups, place + 1]
    bins = sum(tower.counts[tower.row[groups, place, sign]].astype(np.int64) for sign in (0, 1))
    from_bin = np.cumsum(np.asarray(bins)[:, ::-1], axis=1) + above[:, None]
    bin_ = from_bin.shape[1] - 1 - np.argmax(from_bin > drop, axis=1)
    return (tower.octaves[place] << tower.bits) + bin_


def _largest_kept(tower: _Tower, totals: np.ndarray, threshold: np.ndarray, sign: int) -> np.ndarray:
    """Largest counted value of one sign in a bin not above the threshold's, float32 [G]; 0 if there is none."""
    octave = threshold >> tower.bits
    place = np.searchsorted(tower.octaves, octave)
    rows = tower.counts[tower.row[np.arange(len(place)), place, sign]]
    upto = np.arange(rows.shape[1]) <= (threshold & ((1 << tower.bits) - 1))[:, None]
    best, any_there = _top_bin(np.where(upto, rows, 0))
    lower = _highest(tower, (totals > 0) & (tower.octaves < octave[:, None]), sign)
    return np.where(any_there, middle((octave << tower.bits) + best, tower.bits), lower)


def _highest(tower: _Tower, allowed: np.ndarray, sign: int) -> np.ndarray:
    """Largest value of one sign in the allowed rows (bool [G, O], none of them empty), float32 [G]; 0 if there is none."""
    place = allowed.shape[1] - 1 - np.argmax(allowed[:, ::-1], axis=1)
    best, _ = _top_bin(tower.counts[tower.row[np.arange(len(place)), place, sign]])
    return np.where(allowed.any(1), middle((tower.octaves[place] << tower.bits) + best, tower.bits), np.float32(0))


def _top_bin(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest bin that is not empty, int [G], and whether there is one."""
    there = rows > 0
    return rows.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1), there.any(1)


def _rounded(magnitude: np.ndarray, bits: int) -> np.ndarray:
    """Magnitudes as a bin would report them."""
    code = code_of(magnitude, bits)
    return np.where(code >> bits > 0, middle(code, bits), np.float32(0))
