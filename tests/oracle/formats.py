"""Formats of section 1: what the plan says about a tensor, and the own format of weights."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import OracleError
from .integers import floor_log2, signed_range

MIN_RADIX, MAX_RADIX = -16, 31
BELOW_TWO = np.nextafter(np.float32(2), np.float32(0))


@dataclass(frozen=True)
class Format:
    """Format of a datapath tensor: real = code / (scale * 2**radix).

    `radix` (int64) and `scale` (float64 holding float32 values) have length 1 or the size of `axis`;
    `axis` counts from 0 in `shape`, the static shape of the tensor in the model.
    """

    name: str
    bits: int
    axis: int | None
    radix: np.ndarray
    scale: np.ndarray
    shape: tuple[int, ...]

    @property
    def low(self) -> int:
        return signed_range(self.bits)[0]

    @property
    def high(self) -> int:
        return signed_range(self.bits)[1]

    def is_per_layer(self) -> bool:
        return bool(np.all(self.radix == self.radix[0]) and np.all(self.scale == self.scale[0]))

    def layer(self) -> tuple[int, float]:
        """The one radix and scale of a per-layer tensor."""
        if not self.is_per_layer():
            raise OracleError(f"{self.name}: a per-layer format is required here, the plan has one per channel")
        return int(self.radix[0]), float(self.scale[0])

    def along(self, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Radix and scale as vectors of `size` along `axis`; an error if they vary along another axis."""
        if self.is_per_layer():
            return np.full(size, self.radix[0]), np.full(size, self.scale[0])
        if self.axis != axis:
            raise OracleError(f"{self.name}: the format varies along axis {self.axis}, the node needs axis {axis}")
        return np.broadcast_to(self.radix, (size,)).copy(), np.broadcast_to(self.scale, (size,)).copy()

    def radix_map(self) -> np.ndarray:
        """The radix with the rank of the tensor, size 1 except along the channel axis."""
        return self._spread(self.radix)

    def scale_map(self) -> np.ndarray:
        return self._spread(self.scale)

    def factor_map(self) -> np.ndarray:
        """scale * 2**radix in float64, with the rank of the tensor."""
        return np.ldexp(self.scale_map(), self.radix_map().astype(np.int32))

    def full_radix(self) -> np.ndarray:
        """The radix of every element of the tensor."""
        return np.broadcast_to(self.radix_map(), self.shape)

    def _spread(self, values: np.ndarray) -> np.ndarray:
        rank = len(self.shape)
        if np.all(values == values[0]):
            return values[:1].reshape((1,) * rank)
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


def read_format(name: str, entry: dict[str, Any], shape: tuple[int, ...]) -> Format:
    """A Format from the plan's entry, checked against the tensor's shape."""
    bits, axis = int(entry["bits"]), entry["axis"]
    if bits not in (8, 15):
        raise OracleError(f"{name}: datapath tensors have 8 or 15 bits, not {bits}")
    if axis is not None:
        axis = int(axis) + (len(shape) if int(axis) < 0 else 0)
        if not 0 <= axis < len(shape):
            raise OracleError(f"{name}: channel axis {entry['axis']} does not exist in shape {shape}")
    lengths = (1,) if axis is None else (1, shape[axis])
    radix = np.asarray(entry["radix"], dtype=np.int64).reshape(-1)
    scale = np.asarray(entry["scale"], dtype=np.float32).astype(np.float64).reshape(-1)
    if radix.size not in lengths or scale.size not in lengths:
        raise OracleError(f"{name}: {radix.size} radix and {scale.size} scale values for shape {shape}, axis {axis}")
    if not (np.all(scale > 0) and np.all(np.isfinite(scale))):
        raise OracleError(f"{name}: scales must be positive and finite")
    return Format(name, bits, axis, radix, scale, shape)


def own_format(absmax: float, bits: int) -> tuple[int, float]:
    """Radix and scale of section 1 (own scale) for a range and a width; the scale holds a float32 value."""
    qmax = 2 ** (bits - 1) - 1
    if absmax == 0:
        return bits - 1, 1.0
    radix = floor_log2(qmax / absmax)
    scale = np.float32(qmax / math.ldexp(absmax, radix))
    if scale == 2:
        radix, scale = radix + 1, np.float32(1)
    clamped = min(max(radix, MIN_RADIX), MAX_RADIX)
    if clamped != radix:
        radix, scale = clamped, min(np.float32(qmax / math.ldexp(absmax, clamped)), BELOW_TWO)
    return radix, float(scale)
