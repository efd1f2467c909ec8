"""Where the bytes of an element are (docs/npu_program.md): every axis adds its part of the address."""

import sys
from collections.abc import Sequence
from math import prod

import numpy as np

from knerex_jax.csim.memory import Memory
from knerex_jax.errors import SimulationError
from knerex_jax.npu.isa import Buffer


def axis_places(buffer: Buffer, platform: str) -> list[np.ndarray]:
    """For every axis of the buffer's shape, what its indices add to the address of the (low) byte."""
    shape = buffer.shape or (1,)
    if buffer.format == "RAW":
        steps = [prod(shape[k + 1 :]) * element_bytes(buffer) for k in range(len(shape))]
        return [np.arange(n) * step for n, step in zip(shape, steps, strict=True)]
    channel, rows, column = _roles(shape, buffer.axis)
    high, wide = prod(shape[k] for k in rows), shape[column] if column is not None else 1
    found: list[np.ndarray] = [np.zeros(n, np.int64) for n in shape]
    c = np.arange(shape[channel])
    w = np.arange(wide)
    match buffer.order:
        case "1W16C8B":
            of_c, of_w, of_h = c // 16 * (high * wide * 16) + c % 16, w * 16, wide * 16
        case "16W1C8B":
            line = -(-wide // 16) * 16
            swapped = platform == "520"
            of_c, of_w, of_h = c * line * (1 if swapped else high), w, line * (len(c) if swapped else 1)
        case "4W4C8B":
            grain = 16 if platform == "520" else 4
            line = -(-wide // grain) * grain
            of_c, of_w, of_h = c // 4 * (high * line * 4) + c % 4, w * 4, line * 4
        case other:
            raise SimulationError(f"unknown format {other}", where="buffer", fix="use the simulator of its version")
    found[channel] = of_c
    if column is not None:
        found[column] = of_w
    step = of_h
    for k in reversed(rows):
        found[k] = np.arange(shape[k]) * step
        step *= shape[k]
    return [_two_bytes(v) for v in found] if buffer.format.endswith("HL") else found


def _roles(shape: Sequence[int], axis: int | None) -> tuple[int, list[int], int | None]:
    """Axes that are C, H (several) and W."""
    channel = axis if axis is not None else (1 if len(shape) > 2 else len(shape) - 1)
    others = [k for k in range(len(shape)) if k != channel]
    return channel, others[:-1], others[-1] if others else None


def _two_bytes(place: np.ndarray) -> np.ndarray:
    """Low bytes fill an entry, high bytes the next one."""
    return place // 16 * 32 + place % 16


def byte_size(buffer: Buffer, platform: str) -> int:
    """Bytes of a buffer, those that belong to no element included."""
    shape = buffer.shape or (1,)
    if buffer.format == "RAW" or not all(shape):
        return prod(shape) * element_bytes(buffer)
    channel, rows, column = _roles(shape, buffer.axis)
    wide = shape[column] if column is not None else 1
    channels, columns = {
        "1W16C8B": (16, 1), "16W1C8B": (1, 16), "4W4C8B": (4, 16 if platform == "520" else 4)
    }[buffer.order]  # fmt: skip
    planes = _up(shape[channel], channels) * prod(shape[k] for k in rows) * _up(wide, columns)
    return planes * (2 if buffer.format.endswith("HL") else 1)


def _up(n: int, k: int) -> int:
    return -(-n // k) * k


def element_bytes(buffer: Buffer) -> int:
    """Bytes of an element in RAW."""
    return {8: 1, 15: 2}[buffer.bits] if buffer.bits else np.dtype(buffer.dtype).itemsize


def addresses(buffer: Buffer, start: Sequence[int], stop: Sequence[int], platform: str) -> np.ndarray:
    """Address of the (low or first) byte of every element of a box, shaped like it."""
    total = np.full((), buffer.offset, np.int64)
    parts = axis_places(buffer, platform)
    box = list(zip(start, stop, strict=True)) or [(0, 1)]
    for k, (part, (a, b)) in enumerate(zip(parts, box, strict=True)):
        if not 0 <= a < b <= len(part):
            raise SimulationError(f"{a} to {b} along axis {k} of {buffer.shape}", where="tile", fix="compile again")
        total = total + part[a:b].reshape([-1 if j == k else 1 for j in range(len(parts))])
    return total.reshape([b - a for a, b in zip(start, stop, strict=True)])


def load(memory: Memory, buffer: Buffer, place: np.ndarray) -> np.ndarray:
    """Codes (int64) or plain values of elements at addresses."""
    if buffer.format.endswith("HL"):
        low, high = memory.read(place).astype(np.int64), memory.read(place + 16).view(np.int8).astype(np.int64)
        if (low > 127).any():
            raise SimulationError("the low byte of a 15-bit code has 7 bits", where=memory.name, fix="compile again")
        return high * 128 + low
    if buffer.bits == 8:
        return memory.read(place).view(np.int8).astype(np.int64)
    dtype = np.dtype("<i2") if buffer.bits else np.dtype(buffer.dtype).newbyteorder("<")
    raw = memory.read(place[..., None] + np.arange(dtype.itemsize))
    value = np.ascontiguousarray(raw).view(dtype)[..., 0]
    return value.astype(np.int64) >> 1 if buffer.bits else value.astype(np.dtype(buffer.dtype))


def store(memory: Memory, buffer: Buffer, place: np.ndarray, values: np.ndarray) -> None:
    """Writes codes or plain values at addresses."""
    if buffer.bits:
        limit = 1 << (buffer.bits - 1)
        if values.size and (values.min() < -limit or values.max() >= limit):
            raise SimulationError(f"a code beyond {buffer.bits} bits", where=memory.name, fix="report this as a defect")
    if buffer.format.endswith("HL"):
        memory.write(place, (values & 127).astype(np.uint8))
        memory.write(place + 16, (values >> 7).astype(np.int8).view(np.uint8))
    elif buffer.bits == 8:
        memory.write(place, values.astype(np.int8).view(np.uint8))
    else:
        dtype = np.dtype("<i2") if buffer.bits else np.dtype(buffer.dtype).newbyteorder("<")
        whole = (values * 2 if buffer.bits else np.asarray(values)).astype(dtype)
        raw = np.ascontiguousarray(whole).reshape(*whole.shape, 1).view(np.uint8)
        memory.write(place[..., None] + np.arange(dtype.itemsize), raw)


assert sys.byteorder == "little", "bytes are viewed in place"
