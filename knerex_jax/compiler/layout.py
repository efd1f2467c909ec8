"""Bytes of tensors in memory: docs/npu_program.md, "Buffers and layouts"."""

from collections.abc import Sequence
from math import prod
from typing import cast

import numpy as np

from knerex_jax.compiler.box import Box
from knerex_jax.npu.isa import Buffer, Format, Memory
from knerex_jax.program.primitives import Shape
from knerex_jax.program.program import CodeTensor, PlainTensor

ENTRY = 16
"""Bytes of an entry: what memory is read and written by."""

_PLAIN_STEP = {"1W16C8B": 16, "4W4C8B": 4, "16W1C8B": 1, "RAW": 1}


def channel_axis(rank: int, axis: int | None) -> int:
    """The axis that formats call C."""
    return axis if axis is not None else min(1, rank - 1) if rank > 2 else rank - 1


def view(shape: Sequence[int], axis: int | None) -> tuple[int, int, int]:
    """(C, H, W) of a tensor."""
    shape = tuple(shape) or (1,)
    c = channel_axis(len(shape), axis)
    others = [n for k, n in enumerate(shape) if k != c]
    return shape[c], prod(others[:-1]), others[-1] if others else 1


def buffer_of(tensor: CodeTensor | PlainTensor, format: Format, memory: Memory, offset: int) -> Buffer:
    """A buffer for all of a tensor; codes of 15 bits take the HL form."""
    if isinstance(tensor, PlainTensor):
        return Buffer(memory, offset, "RAW", tensor.shape, None, 0, tensor.dtype)
    wide = format if format == "RAW" or tensor.bits == 8 else cast(Format, f"{format}HL")
    return Buffer(memory, offset, wide, tensor.shape, tensor.axis, tensor.bits)


def byte_size(buffer: Buffer, platform: str) -> int:
    """Bytes that a buffer takes."""
    c, h, w = view(buffer.shape, buffer.axis)
    width = 1 if buffer.bits in (8,) else 2
    match buffer.order:
        case "1W16C8B":
            return up(c, 16) * h * w * width
        case "16W1C8B":
            return h * c * up(w, 16) * width
        case "4W4C8B":
            return up(c, 4) * h * up(w, 16 if platform == "520" else 4) * width
        case _:
            return prod(buffer.shape) * (width if buffer.bits else np.dtype(buffer.dtype).itemsize)


def starts_an_entry(buffer: Buffer, box: Box) -> bool:
    """Whether a Dma may begin at this box."""
    form = buffer.order
    if form == "RAW":
        return True
    rank = len(buffer.shape) or 1
    c = channel_axis(rank, buffer.axis)
    others = [k for k in range(rank) if k != c]
    columns = box[others[-1]][0] if others and box else 0
    channel = box[c][0] if box else 0
    return channel % _PLAIN_STEP[form] == 0 and (form != "16W1C8B" or columns % 16 == 0)


def encode(values: np.ndarray, buffer: Buffer, platform: str) -> bytes:
    """The bytes of a tensor (codes, or plain values in RAW); what belongs to no element is 0."""
    if not buffer.bits:
        return np.ascontiguousarray(values, np.dtype(buffer.dtype)).tobytes()
    codes = np.asarray(values, np.int64).reshape(buffer.shape)
    if buffer.format == "RAW":
        return codes.astype("<i1").tobytes() if buffer.bits == 8 else (codes * 2).astype("<i2").tobytes()
    entries = _entries(codes, buffer, platform, 0)
    if buffer.bits == 8:
        return entries.astype("<i1").tobytes()
    container = entries * 2
    low, high = (container >> 1) & 0x7F, (container >> 8) & 0xFF
    return np.stack([low, high], axis=1).astype(np.uint8).tobytes()


def decode(data: bytes, buffer: Buffer, platform: str) -> np.ndarray:
    """What `encode` made bytes of: int32 codes, or plain values, in the buffer's shape."""
    if not buffer.bits:
        return np.frombuffer(data, np.dtype(buffer.dtype)).reshape(buffer.shape)
    if buffer.format == "RAW":
        values = np.frombuffer(data, "<i1" if buffer.bits == 8 else "<i2").astype(np.int32)
        return (values if buffer.bits == 8 else values // 2).reshape(buffer.shape)
    places = _entries(np.arange(prod(buffer.shape)).reshape(buffer.shape), buffer, platform, -1)
    if buffer.bits == 8:
        found = np.frombuffer(data, "<i1").reshape(places.shape).astype(np.int32)
    else:
        pairs = np.frombuffer(data, np.uint8).reshape(-1, 2, ENTRY).astype(np.int32)
        found = (pairs[:, 0] | (pairs[:, 1] ^ 0x80) - 0x80 << 7).reshape(places.shape)
    codes = np.zeros(prod(buffer.shape), np.int32)
    codes[places[places >= 0]] = found[places >= 0]
    return codes.reshape(buffer.shape)


def _entries(values: np.ndarray, buffer: Buffer, platform: str, fill: int) -> np.ndarray:
    """A tensor's numbers as entries of 16, in the order of the 8-bit form."""
    c, h, w = view(buffer.shape, buffer.axis)
    shaped = values.reshape(buffer.shape or (1,))
    planes = np.moveaxis(shaped, channel_axis(shaped.ndim, buffer.axis), 0).reshape(c, h, w)

    def padded(channels: int, columns: int) -> np.ndarray:
        wider = ((0, up(c, channels) - c), (0, 0), (0, up(w, columns) - w))
        return np.pad(planes, wider, constant_values=fill)

    match buffer.order:
        case "1W16C8B":
            ordered = padded(16, 1).reshape(-1, 16, h, w).transpose(0, 2, 3, 1)
        case "4W4C8B":
            columns = padded(4, 16 if platform == "520" else 4)
            ordered = columns.reshape(-1, 4, h, columns.shape[2]).transpose(0, 2, 3, 1)
        case _:  # 16W1C8B
            ordered = padded(1, 16).transpose(1, 0, 2) if platform == "520" else padded(1, 16)
    return np.ascontiguousarray(ordered).reshape(-1, ENTRY)


def input_format(shape: Shape, axis: int | None) -> Format:
    """The usual format of a model input: pictures of up to 4 channels have formats of their own."""
    c = view(shape, axis)[0]
    if len(shape) == 4 and c == 1:
        return "16W1C8B"
    return "4W4C8B" if len(shape) == 4 and c <= 4 else "1W16C8B"


def up(n: int, k: int) -> int:
    """The least multiple of k that is not below n."""
    return -(-n // k) * k
