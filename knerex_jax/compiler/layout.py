"""Bytes of tensors in memory: docs/npu_program.md, "Buffers and layouts"."""

from collections.abc import Sequence
from math import prod

import numpy as np

from knerex_jax.compiler.box import Box
from knerex_jax.npu.isa import Buffer, Format
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


def buffer_of(tensor: CodeTensor | PlainTensor, format: Format, memory: str, offset: int) -> Buffer:
    """A buffer for all of a tensor; codes of 15 bits take the HL form."""
    if isinstance(tensor, PlainTensor):
        return Buffer(memory, offset, "RAW", tensor.shape, None, 0, tensor.dtype)  # type: ignore[arg-type]
    wide = format if format == "RAW" or tensor.bits == 8 else f"{format}HL"
    return Buffer(memory, offset, wide, tensor.shape, tensor.axis, tensor.bits)  # type: ignore[arg-type]


def byte_size(buffer: Buffer, platform: str) -> int:
    """Bytes that a buffer takes."""
    c, h, w = view(buffer.shape, buffer.axis)
    width = 1 if buffer.bits in (8,) else 2
    match buffer.format.removesuffix("HL"):
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
    form = buffer.format.removesuffix("HL")
    if form == "RAW":
        return True
    rank = len(buffer.shape) or 1
    c = channel_axis(rank, buffer.axis)
    others = [k for k in range(rank) if k != c]
    columns = box[others[-1]][0] if others and box else 0
    channel = box[c][0] if box else 0
    return channel % _PLAIN_STEP[form] == 0 and (form != "16W1C8B" or columns % 16 == 0)


def encode(codes: np.ndarray, buffer: Buffer) -> bytes:
    """The bytes of a constant tensor in 1W16C8B (HL) or RAW; what belongs to no element is 0."""
    if buffer.format == "RAW":
        if not buffer.bits:
            return np.ascontiguousarray(codes, np.dtype(buffer.dtype)).tobytes()
        return (
            codes.astype("<i1").tobytes() if buffer.bits == 8 else (codes.astype(np.int32) * 2).astype("<i2").tobytes()
        )
    c, h, w = view(buffer.shape, buffer.axis)
    shaped = np.asarray(codes, np.int32).reshape(buffer.shape or (1,))
    first = np.moveaxis(shaped, channel_axis(shaped.ndim, buffer.axis), 0).reshape(c, h * w)
    padded = np.zeros((up(c, 16), h * w), np.int32)
    padded[:c] = first
    entries = padded.reshape(-1, 16, h * w).transpose(0, 2, 1)
    if buffer.bits == 8:
        return np.ascontiguousarray(entries).astype("<i1").tobytes()
    value = entries * 2
    return np.stack([(value >> 1) & 0x7F, (value >> 8) & 0xFF], axis=2).astype(np.uint8).tobytes()


def input_format(shape: Shape, axis: int | None) -> Format:
    """The usual format of a model input: pictures of up to 4 channels have formats of their own."""
    c = view(shape, axis)[0]
    if len(shape) == 4 and c == 1:
        return "16W1C8B"
    return "4W4C8B" if len(shape) == 4 and c <= 4 else "1W16C8B"


def up(n: int, k: int) -> int:
    """The least multiple of k that is not below n."""
    return -(-n // k) * k
