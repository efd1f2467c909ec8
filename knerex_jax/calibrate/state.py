"""What calibration knows of a model's tensors, on the host: mergeable in any order, saveable, exact in its counts.

A tensor's magnitudes are counted in rows: one row per channel, sign and octave that occurs, `2**bits` bins each.
Rows are complete from an octave (`floor`) upwards; below it only the largest magnitude of each sign is known, which is
where a second reading of the data goes on. With no rows at all, that is just the exact range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.calibrate.npz import read_npz, write_npz
from knerex_jax.calibrate.observers import MANTISSA, Extremes, Grid, Histogram
from knerex_jax.errors import ArtifactError, ConfigError

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
        counts = np.asarray(window.counts).reshape(signs, grid.size + 2, self.channels)
        inner = counts[:, 1:-1].reshape(signs, grid.octaves, 1 << grid.bits, self.channels)
        new = base + np.arange(grid.octaves)[:, None] < self.floor
        sign, row, channel = np.nonzero((inner.max(2) > 0) & active & new)
        keys, rows = (channel * 2 + sign) * 256 + base[channel] + row, inner[sign, row, :, channel]
        above, excess = self._excess(counts, grid)
        keys, rows = (
            np.append(keys, above),
            _enough(np.concatenate([rows, excess]) if len(above) else rows, self.values),
        )
        below = np.zeros((2, self.channels), np.float32)
        below[:signs] = np.asarray(window.below)
        below = np.where(active, _normal(below), self.below)
        floor = _floor(np.where(active, base, self.floor), below)
        return replace(self, floor=floor, below=below, bits=grid.bits, **self._with_rows(keys, rows))

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
        values = self.values + other.values
        parts = [part._cut(floor) for part in (self, other)]
        one, two = parts if len(parts[0].keys) else parts[::-1]
        return replace(
            one,
            values=values,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            floor=floor,
            below=np.maximum(one.below, two.below),
            bits=self.bits or other.bits,
            **replace(one, values=values)._with_rows(two.keys, two.counts),
        )

    def _with_rows(self, keys: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
        """`keys` and `counts` with more rows: sorted, those of equal key added up."""
        if np.array_equal(keys, self.keys) and len(keys):
            return {"keys": keys, "counts": _enough(self.counts, self.values) + counts}
        if len(self.keys):
            keys = np.concatenate([self.keys, keys])
            counts = np.concatenate([_enough(a, self.values) for a in (self.counts, counts) if len(a)])
        order = np.argsort(keys, kind="stable")
        keys, first = np.unique(keys[order], return_index=True)
        counts = counts if (np.diff(order) == 1).all() else counts[order]
        return {"keys": keys, "counts": counts if len(keys) == len(order) else np.add.reduceat(counts, first, axis=0)}

    def _cut(self, floor: np.ndarray) -> "TensorState":
        """Forgets the rows under a higher floor, except for the largest value in them."""
        channel, sign, row = split_keys(self.keys)
        gone = row < floor[channel]
        if not gone.any():
            return replace(self, floor=floor)
        highest = (1 << self.bits) - 1 - np.argmax(self.counts[gone][:, ::-1] > 0, axis=1)
        below = self.below.copy()
        np.maximum.at(below, (sign[gone], channel[gone]), middle((row[gone] << self.bits) + highest, self.bits))
        return replace(self, floor=floor, below=below, keys=self.keys[~gone], counts=self.counts[~gone])


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

    def save(self, path: str | Path) -> None:
        """Writes an `.npz`, whole or not at all.

        Raises:
          ArtifactError: it cannot be written.
        """
        listed = [{"name": t, "axis": s.axis, "values": s.values, "bits": s.bits} for t, s in self.tensors.items()]
        arrays = {f"{i}/{key}": getattr(s, key) for i, s in enumerate(self.tensors.values()) for key in _ARRAYS}
        write_npz(path, "calibration state", {"samples": self.samples, "tensors": listed}, arrays)

    @classmethod
    def load(cls, path: str | Path) -> "CalibrationState":
        """Reads what `save` wrote.

        Raises:
          ArtifactError: missing, damaged, of another kind or newer.
        """
        meta, arrays = read_npz(path, "calibration state")
        try:
            tensors = {
                entry.pop("name"): TensorState(**entry, **{key: arrays[f"{i}/{key}"] for key in _ARRAYS})
                for i, entry in enumerate(meta["tensors"])
            }
            return cls(meta["samples"], tensors)
        except (KeyError, TypeError, AttributeError) as e:
            raise ArtifactError(f"incomplete: {e}", where=str(path), fix="measure and save again") from e


_ARRAYS = ("low", "high", "floor", "below", "keys", "counts")


def state_of_range(axis: int | None, values: int, seen: Extremes) -> TensorState:
    """The state of a tensor of which only the range is known (on the host)."""
    low, high = np.asarray(seen.low), np.asarray(seen.high)
    below = _normal(np.stack([high, -low]))
    return TensorState(
        axis=axis,
        values=values,
        low=low,
        high=high,
        floor=_floor(np.full(len(low), NOTHING), below),
        below=below,
        bits=0,
        keys=np.zeros(0, np.int64),
        counts=np.zeros((0, 1), np.int32),
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


def _bins_differ(a: TensorState, b: TensorState) -> bool:
    return bool(a.bits and b.bits and a.bits != b.bits)


def _merge_two(a: CalibrationState, b: CalibrationState) -> CalibrationState:
    if list(a.tensors) != list(b.tensors):
        raise ConfigError("these states are of different models", where="merge", fix="merge states of one model")
    return CalibrationState(a.samples + b.samples, {t: s.merge(b.tensors[t]) for t, s in a.tensors.items()})
