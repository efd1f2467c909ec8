"""The weight segment: constants as bytes, equal ones once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from knerex_jax.compiler.layout import ENTRY, up
from knerex_jax.npu.isa import Constant, Memory

_INTEGERS = ("int8", "int16", "int32", "int64")


@dataclass
class WeightSegment:
    """Grows while commands are written."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    _places: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: bytes) -> int:
        """Offset of these bytes, which begin an entry."""
        if data not in self._places:
            self._places[data] = self.size
            self.parts.append(data.ljust(up(len(data), ENTRY), b"\0"))
            self.size += len(self.parts[-1])
        return self._places[data]

    def to_bytes(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)


@dataclass(frozen=True)
class Blob:
    """Constants of one command, in one piece.

    Attributes:
      data: each array begins an entry.
      items: (name, offset within the piece, dtype, shape).
    """

    data: bytes
    items: tuple[tuple[str, int, str, tuple[int, ...]], ...]

    def constants(self, memory: Memory, start: int) -> tuple[Constant, ...]:
        """The same with the piece at a place."""
        return tuple(Constant(name, memory, start + at, dtype, shape) for name, at, dtype, shape in self.items)


def executed(constants: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Constants without those that only say what the others mean."""
    return {k: v for k, v in constants.items() if k not in ("weight_radix", "weight_scale")}


def pack(constants: Mapping[str, np.ndarray], weight_bits: int = 8) -> Blob:
    """Integer constants in the narrowest type each.

    Args:
      constants: name -> integers.
      weight_bits: 4: the array "weight" goes two codes to a byte.
    """
    data, items = b"", []
    for name, array in constants.items():
        four = name == "weight" and weight_bits == 4
        dtype = "int4" if four else _narrowest(array)
        items.append((name, len(data), dtype, tuple(array.shape)))
        raw = pack_int4(array) if four else np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()
        data += raw.ljust(up(len(raw), ENTRY), b"\0")
    return Blob(data, tuple(items))


def pack_host(constants: Mapping[str, np.ndarray]) -> Blob:
    """Constants of host operators, of any type, as they are."""
    data, items = b"", []
    for name, array in constants.items():
        items.append((name, len(data), array.dtype.name, tuple(array.shape)))
        raw = np.ascontiguousarray(array).tobytes()
        data += raw.ljust(up(len(raw), ENTRY), b"\0")
    return Blob(data, tuple(items))


def pack_int4(codes: np.ndarray) -> bytes:
    """Two codes to a byte, the first in the low four bits."""
    flat = np.asarray(codes).reshape(-1).astype(np.int8).view(np.uint8) & 0x0F
    flat = np.pad(flat, (0, len(flat) % 2))
    return (flat[::2] | flat[1::2] << 4).tobytes()


def item_bytes(name: str, array: np.ndarray, weight_bits: int) -> float:
    """Bytes that one entry of a constant takes when it is packed."""
    return 0.5 if name == "weight" and weight_bits == 4 else np.dtype(_narrowest(array)).itemsize


def _narrowest(array: np.ndarray) -> str:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    return next(t for t in _INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
