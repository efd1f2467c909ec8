"""What calibration knows of a model's tensors, on the host: mergeable in any order, exact in its counts.

A tensor's magnitudes are counted in rows: one row per channel, sign and octave that occurs, `2**bits` bins each.
Rows are complete from an octave (`floor`) upwards; below it the largest magnitude of each sign is known, which is where
a second reading of the data goes on, and a tail of some octaves is counted coarsely, without signs: enough for the
search of ranges, which wants to know how much lies within a few steps of 0. With no rows at all, a state is just the
exact range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from knerex_jax.calibrate.observers import MANTISSA, TAIL_BITS, Extremes, Grid, Histogram
from knerex_jax.errors import ConfigError

NOTHING = 255
"""Octave above every finite value: the floor of a tensor without rows."""

TOP_ROW = 254
"""Octave of the largest floats; values above a window that was set too low are counted in its last bin."""


@dataclass(frozen=True)
class TensorState:
    """Range and magnitudes of one tensor.

    Attributes:
      axis: channel axis of the tensor, None for one channel in all.
      values: number of values per channel.
      low: float32 [C], exact minimum.
      high: float32 [C], exact maximum.
      floor: int32 [C], the octave from which on all values are counted (0: all are, apart from zeros).
      below: float32 [2, C], largest magnitude under the floor: positive values, negative values; 0 if none.
      bits: mantissa bits of a bin.
      keys: int64 [R], sorted: `(channel * 2 + negative) * 256 + octave`.
      counts: int [R, 2**bits], values per bin in rising order; int64 where int32 could overflow.
      tail_floor: int32 [C], the octave from which on magnitudes under the floor are counted in the tail.
      tail_keys: int64 [T], sorted: `channel * 256 + octave`.
      tail: int [T, 2**TAIL_BITS], magnitudes per bin of both signs.
    """

    axis: int | None
    values: int
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    below: np.ndarray
    bits: int
    keys: np.ndarray = field(repr=False)
    counts: np.ndarray = field(repr=False)
    tail_floor: np.ndarray = field(repr=False)
    tail_keys: np.ndarray = field(repr=False)
    tail: np.ndarray = field(repr=False)

    @property
    def channels(self) -> int:
        return len(self.low)

    @property
    def size(self) -> int:
        """Number of values in all."""
        return self.values * self.channels

    def next_window(self, octaves: int) -> np.ndarray:
        """Lowest octave, int32 [C], of the window that ends at the largest value not counted yet."""
        largest = self.below.max(0)
        return np.where(largest > 0, np.maximum(code_of(largest, 0) - octaves + 1, 1), NOTHING).astype(np.int32)

    def extend(self, window: Histogram, grid: Grid) -> "TensorState":
        """Adds a reading of all the data with a window under the floor.

        Args:
          window: of the same values, on the host (counts may be int64).
          grid: its bins.
        """
        base = np.asarray(window.base)
        active = base < NOTHING
        signs = 2 if grid.signed else 1
        counts = np.asarray(window.counts).reshape(grid.rows, self.channels)
        fine = counts[: signs * (grid.size + 2)].reshape(signs, grid.size + 2, self.channels)
        inner = fine[:, 1:-1].reshape(signs, grid.octaves, 1 << grid.bits, self.channels)
        new = base + np.arange(grid.octaves)[:, None] < self.floor
        sign, row, channel = np.nonzero((inner.max(2) > 0) & active & new)
        keys, rows = (channel * 2 + sign) * 256 + base[channel] + row, inner[sign, row, :, channel]
        above, excess = self._excess(fine, grid)
        keys, rows = np.append(keys, above), np.concatenate([rows, excess]) if len(above) else rows
        below = np.zeros((2, self.channels), np.float32)
        below[:signs] = np.asarray(window.below)
        below = np.where(active, _normal(below), self.below)
        keys, rows = _added(self.keys, self.counts, keys, rows, self.values)
        tail_keys, tail = self._new_tail(counts[signs * (grid.size + 2) :], base, grid)
        return replace(
            self,
            floor=_floor(np.where(active, base, self.floor), below),
            below=below,
            bits=grid.bits,
            keys=keys,
            counts=rows,
            tail_floor=_floor(np.where(active, grid.tail_base(base), self.tail_floor), below),
            tail_keys=tail_keys,
            tail=tail,
        )

    def _new_tail(self, counts: np.ndarray, base: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """The tail (keys, rows) once the channels with a window have it under that window instead."""
        active = base < NOTHING
        octaves = counts.reshape(grid.tail, 1 << TAIL_BITS, self.channels)
        row, channel = np.nonzero((octaves.max(1) > 0) & active)
        keys, rows = channel * 256 + grid.tail_base(base)[channel] + row, octaves[row, :, channel]
        stays = ~active[self.tail_keys >> 8]
        return _added(self.tail_keys[stays], self.tail[stays], keys, rows, 2 * self.values)

    def _excess(self, counts: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Rows (keys, counts) for values above the first window, as if at the largest float.

        They occur where the window was set before the range was known, or where the float model, compiled anew for the
        second reading, rounds its maximum up across an octave.
        """
        sign, channel = np.nonzero((counts[:, -1] > 0) & (self.floor == NOTHING))
        rows = np.zeros((len(sign), 1 << grid.bits), counts.dtype)
        rows[:, -1] = counts[sign, -1, channel]
        return (channel * 2 + sign) * 256 + TOP_ROW, rows

    def merge(self, other: "TensorState") -> "TensorState":
        """The state of both data sets together."""
        if (self.axis, self.channels) != (other.axis, other.channels) or _bins_differ(self, other):
            raise ConfigError(
                "these states do not describe the same measurement", where="merge",
                fix="merge states of one model, measured with the same settings",
            )  # fmt: skip
        floor = np.maximum(self.floor, other.floor)
        tail_floor = np.maximum(self.tail_floor, other.tail_floor)
        values = self.values + other.values
        one, two = (part._cut(floor, tail_floor) for part in (self, other))
        keys, counts = _added(one.keys, one.counts, two.keys, two.counts, values)
        tail_keys, tail = _added(one.tail_keys, one.tail, two.tail_keys, two.tail, 2 * values)
        return TensorState(
            axis=self.axis,
            values=values,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            floor=floor,
            below=np.maximum(one.below, two.below),
            bits=self.bits or other.bits,
            keys=keys,
            counts=counts,
            tail_floor=tail_floor,
            tail_keys=tail_keys,
            tail=tail,
        )

    def _cut(self, floor: np.ndarray, tail_floor: np.ndarray) -> "TensorState":
        """Moves the rows under a higher floor to the tail, and keeps the largest value in them."""
        channel, sign, row = split_keys(self.keys)
        gone = row < floor[channel]
        keys, rows, below = self.tail_keys, self.tail, self.below
        if gone.any():
            highest = (1 << self.bits) - 1 - np.argmax(self.counts[gone][:, ::-1] > 0, axis=1)
            below = below.copy()
            np.maximum.at(below, (sign[gone], channel[gone]), middle((row[gone] << self.bits) + highest, self.bits))
            coarse = self.counts[gone].reshape(gone.sum(), 1 << TAIL_BITS, -1).sum(2)
            keys, rows = _added(keys, rows, (channel * 256 + row)[gone], coarse, 2 * self.values)
        kept = (keys & 255) >= tail_floor[keys >> 8]
        return replace(
            self, below=below, keys=self.keys[~gone], counts=self.counts[~gone], tail_keys=keys[kept], tail=rows[kept]
        )


@dataclass(frozen=True)
class CalibrationState:
    """States of all observed tensors, in the order they were asked for.

    Attributes:
      samples: number of samples they rest on.
      tensors: tensor name -> state.
    """

    samples: int
    tensors: Mapping[str, TensorState]

    def merge(self, *others: "CalibrationState") -> "CalibrationState":
        """The state of all the data together; commutative and associative.

        Raises:
          ConfigError: the states are not of one model and one kind of measurement.
        """
        return reduce(_merge_two, others, self)

    def packed(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON-able data and arrays by name, for a file."""
        listed = [{"name": t, "axis": s.axis, "values": s.values, "bits": s.bits} for t, s in self.tensors.items()]
        arrays = {f"{i}/{key}": getattr(s, key) for i, s in enumerate(self.tensors.values()) for key in _ARRAYS}
        return {"samples": self.samples, "tensors": listed}, arrays

    @classmethod
    def unpacked(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "CalibrationState":
        """The state that `packed` took apart; KeyError, TypeError or AttributeError where something is missing."""
        tensors = {
            entry["name"]: TensorState(
                entry["axis"], entry["values"], bits=entry["bits"], **{key: arrays[f"{i}/{key}"] for key in _ARRAYS}
            )
            for i, entry in enumerate(meta["tensors"])
        }
        return cls(meta["samples"], tensors)


_ARRAYS = ("low", "high", "floor", "below", "keys", "counts", "tail_floor", "tail_keys", "tail")


def state_of_range(axis: int | None, values: int, seen: Extremes) -> TensorState:
    """The state of a tensor of which only the range is known (on the host)."""
    low, high = np.asarray(seen.low), np.asarray(seen.high)
    below = _normal(np.stack([high, -low]))
    floor = _floor(np.full(len(low), NOTHING), below)
    return TensorState(
        axis=axis,
        values=values,
        low=low,
        high=high,
        floor=floor,
        below=below,
        bits=0,
        keys=np.zeros(0, np.int64),
        counts=np.zeros((0, 1), np.int32),
        tail_floor=floor,
        tail_keys=np.zeros(0, np.int64),
        tail=np.zeros((0, 1 << TAIL_BITS), np.int32),
    )


def code_of(magnitude: np.ndarray, bits: int) -> np.ndarray:
    """Bin of float32 magnitudes: `(octave << bits) + bin`, int64; octave 0 holds zero and the subnormal numbers."""
    return np.asarray(magnitude, np.float32).view(np.int32).astype(np.int64) >> (MANTISSA - bits)


def middle(code: np.ndarray, bits: int) -> np.ndarray:
    """The float32 in the middle of a bin: within 2**-(bits + 1) of every value in it."""
    shift = MANTISSA - bits
    return ((code << shift) | (1 << (shift - 1))).astype(np.int32).view(np.float32)


def split_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(channel, negative, octave) of rows."""
    return keys >> 9, keys >> 8 & 1, keys & 255


def _normal(below: np.ndarray) -> np.ndarray:
    """Subnormal numbers (and negative ones) as 0."""
    return np.where(below >= np.finfo(np.float32).tiny, below, np.float32(0))


def _floor(floor: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A channel with nothing under its floor is counted completely."""
    return np.where(below.max(0) > 0, floor, 0).astype(np.int32)


def _enough(counts: np.ndarray, values: int) -> np.ndarray:
    """No bin counts more than `values`; int32 holds them almost always and halves the memory."""
    return counts.astype(np.int32 if values < 2**31 else np.int64, copy=False)


def _added(
    keys: np.ndarray, counts: np.ndarray, more_keys: np.ndarray, more: np.ndarray, values: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows (keys, counts) and more rows in any order: sorted, those of equal key added up.

    No bin of the result counts more than `values`.
    """
    if not (len(keys) and len(more_keys)):
        keys, counts = (keys, counts) if len(keys) else (more_keys, more)
        counts = _enough(counts, values)
    elif np.array_equal(keys, more_keys):
        return keys, _enough(counts, values) + more
    else:
        keys = np.concatenate([keys, more_keys])
        counts = np.concatenate([_enough(part, values) for part in (counts, more)])
    order = np.argsort(keys, kind="stable")
    keys, first = np.unique(keys[order], return_index=True)
    counts = counts if (np.diff(order) == 1).all() else counts[order]
    return keys, counts if len(keys) == len(order) else np.add.reduceat(counts, first, axis=0)


def _bins_differ(a: TensorState, b: TensorState) -> bool:
    return bool(a.bits and b.bits and a.bits != b.bits)


def _merge_two(a: CalibrationState, b: CalibrationState) -> CalibrationState:
    if list(a.tensors) != list(b.tensors):
        raise ConfigError("these states are of different models", where="merge", fix="merge states of one model")
    return CalibrationState(a.samples + b.samples, {t: s.merge(b.tensors[t]) for t, s in a.tensors.items()})
