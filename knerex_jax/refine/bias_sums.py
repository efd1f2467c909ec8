"""Exact sums over positions and samples: means that no order of summation, batch or device can change.

Floats count as rint(x * 2**24) and partial sums as they are, integers below 2**47 in float64; sums of codes are int32.
Long sums are folded first: eight parts of a tensor are added element by element, which is several times as fast as any
reduction. Everything leaves the device as int32; `bias_totals` goes on with it on the host.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.emulator.methods import Method
from knerex_jax.fixedpoint.arith import exact64
from knerex_jax.program.primitives import Mac

FRACTION = 24
"""Bits of the fraction that a float keeps: it counts as rint(x * 2**24)."""

LARGEST = 2.0**22
"""Magnitude from which on floats are not summed."""

LIMB, HALF = 24, 16
"""Bits of the limbs and of the halves in which sums leave the device."""

_PARTS = 8


def float_sums(x: Array, axis: int, reach: np.ndarray | None = None) -> Array:
    """Sums of rint(x * 2**24) over everything but `axis`.

    Args:
      x: float32.
      axis: channel axis.
      reach: float32 [2, C], limits that x is clipped to.

    Returns:
      int32 [4, C]: limbs of 24 bits, the last one signed, and 1 for channels with a value that is not finite or not
      below `LARGEST`, whose sums mean nothing.
    """
    rows = _rows(x, axis)
    held = rows if reach is None else jnp.clip(rows, *reach)
    with exact64():
        scaled = jnp.rint(held.astype(jnp.float64) * np.float64(1 << FRACTION))
        return _limbs(jnp.where(jnp.abs(rows) < np.float32(LARGEST), scaled, np.nan))


def accumulator_sums(p: Array, axis: int) -> Array:
    """The same sums of partial sums: p int32, or int64 of up to 48 bits inside `exact64()`."""
    with exact64():
        return _limbs(_rows(p, axis).astype(jnp.float64))


def code_sums(x: Array, i: Mac) -> Array:
    """Sums of the codes that every weight of a node meets, over all positions of its output.

    Args:
      x: codes of its operand; their sum fits int32 (`is_linear`).
      i: a mac that is no transposed convolution.

    Returns:
      int32 [I, *kernel]; [I] for a dense or diagonal one.
    """
    if i.window is None:
        return _folded_sum(_rows(x, _channels(i)))
    image = x[0] if len(x) == 1 else x.sum(axis=0, dtype=jnp.int32)  # several images of one sample meet equal weights
    v, w = jnp.moveaxis(image, 0, -1), i.window
    # Each step turns the first axis, a spatial one, into the taps along it, the last one.
    for kernel, stride, dilation, (begin, end) in zip(w.kernel, w.strides, w.dilations, w.pads, strict=True):
        out = (len(v) + begin + end - (kernel - 1) * dilation - 1) // stride + 1
        firsts = [tap * dilation - begin for tap in range(kernel)]
        v = jnp.stack(_strided_sums(v, firsts, stride, out), axis=-1)
    return v


def is_linear(i: Mac, method: Method, x_shape: Sequence[int]) -> bool:
    """Whether p is nothing but sum w*x + bias for every input, and sums of the operand's codes fit int32.

    Then the sum of p over positions follows from the sums of the codes, and p need not be computed for it.
    """
    plain = method.entry == "none" and not method.saturates and i.kind != "conv_transpose"
    return plain and largest_sum(i, x_shape) < 1 << 31


def largest_sum(i: Mac, x_shape: Sequence[int]) -> int:
    """Magnitude that no sum of codes of one sample exceeds; x_shape: of the operand."""
    channels = x_shape[1] if i.window else x_shape[_channels(i)]
    return math.prod(x_shape) // channels << (i.x_bits - 1)


def weight_rows(i: Mac, weight: np.ndarray) -> np.ndarray:
    """Weights as `piece_products` reads them, on the host: [G, O / G, products]; of a diagonal node [O]."""
    return weight if i.kind == "diagonal" else weight.reshape(i.group, len(weight) // i.group, -1)


def piece_bits(i: Mac, rows: Array | np.ndarray) -> int:
    """How long pieces of sums of codes may be for `piece_products`; less than 1: too many products for any."""
    if _multiplies_bytes(i, rows):
        return 7
    count = 1 if i.kind == "diagonal" else rows.shape[-1]
    return 30 - (i.weight_bits - 1) - (count - 1).bit_length()


def piece_products(i: Mac, rows: Array, halves: Array, largest: int) -> Array:
    """Sums of products of a linear node from sums of codes, cut in pieces whose products fit int32.

    Args:
      i: the instruction.
      rows: its weights (`weight_rows`).
      halves: of the sums of its codes by group (`group_sums`).
      largest: magnitude that these sums do not exceed.

    Returns:
      int32 [2, pieces, O]; piece k counts 2**(k * `piece_bits`).
    """
    bits = piece_bits(i, rows)
    count = -(-largest.bit_length() // bits)
    with exact64():
        low, high = halves.astype(jnp.int64)
        sums = low + (high << HALF)
        pieces = [sums >> k * bits & (1 << bits) - 1 for k in range(count - 1)] + [sums >> (count - 1) * bits]
        columns = jnp.stack(pieces, axis=1).astype(jnp.int32)
    if i.kind == "diagonal":
        return columns * rows.astype(jnp.int32)
    columns = columns.reshape(2 * count, i.group, -1)
    if _multiplies_bytes(i, rows):
        bytes_ = columns[:, 0].astype(jnp.int8)
        made = lax.dot_general(rows[0], bytes_, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
        return made.T.reshape(2, count, -1)
    made = rows.astype(jnp.int32) * columns[:, :, None]
    return made.sum(axis=-1, dtype=jnp.int32).reshape(2, count, -1)


def _multiplies_bytes(i: Mac, rows: Array | np.ndarray) -> bool:
    """Whether weights and pieces are multiplied as bytes: a CPU has a fast, exact kernel for one matrix."""
    fast = jax.default_backend() == "cpu" and i.group == 1
    return fast and i.kind != "diagonal" and rows.dtype == np.int8 and rows.shape[-1] < 1 << 16


def group_sums(values: Array, groups: Array) -> Array:
    """Sums over samples by group: int32 [N, ...], 0 or 1 int32 [G, N] -> int32 [2, G, ...], two halves.

    `bias_totals.whole` joins them. Exact for fewer than 2**15 samples.
    """
    spread = groups.reshape(*groups.shape, *(1,) * (values.ndim - 1))
    return jnp.stack(
        [(half * spread).sum(axis=1, dtype=jnp.int32) for half in (values & ((1 << HALF) - 1), values >> HALF)]
    )


def _channels(i: Mac) -> int:
    """Channel axis of the operand of a dense or diagonal node."""
    axis = -1 if i.kind == "dense" else i.axis
    assert axis is not None, f"{i.name}: diagonal without channels"
    return axis


def _rows(x: Array, axis: int) -> Array:
    """[positions, C]."""
    return jnp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def _fold(values: Array) -> Array:
    """Eight parts of the first axis added; behind a barrier, or the compiler would merge it with what adds the rest."""
    size = -(-len(values) // _PARTS)
    parts = [values[k : k + size] for k in range(0, len(values), size)]
    parts[-1] = jnp.pad(parts[-1], [(0, size - len(parts[-1]))] + [(0, 0)] * (values.ndim - 1))
    while len(parts) > 1:
        odd = parts[-1:] if len(parts) % 2 else []
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    return lax.optimization_barrier(parts[0])


def _limbs(rows: Array) -> Array:
    """Integers in float64 up to 2**47, [positions, C] -> int32 [4, C], the last one 1 where a NaN is among them."""
    rows = _fold(_fold(rows))  # up to 2**53
    high = jnp.floor(rows * 2.0**-LIMB)
    sums = [v.sum(axis=0) for v in (rows - high * 2.0**LIMB, high)]
    bad = jnp.isnan(sums[1])
    low, high = (jnp.where(bad, 0, v).astype(jnp.int64) for v in sums)
    high, mask = high + (low >> LIMB), (1 << LIMB) - 1
    return jnp.stack([low & mask, high & mask, high >> LIMB, bad.astype(jnp.int64)]).astype(jnp.int32)


def _folded_sum(values: Array) -> Array:
    """int32, summed over the first axis; 64 codes of 8 bits fit 16."""
    values = values.astype(jnp.int16 if values.dtype == jnp.int8 else jnp.int32)
    return _fold(_fold(values)).sum(axis=0, dtype=jnp.int32)


def _strided_sums(v: Array, firsts: Sequence[int], stride: int, count: int) -> list[Array]:
    """For each first row the sum, int32, of `count` rows `stride` apart; rows outside count as zeros.

    Every row is added once, with all of its phase; what a window does not reach at either end is taken off again.
    """
    phases: dict[int, tuple[Array, Array]] = {}
    found = []
    for first in firsts:
        phase = first % stride
        if phase not in phases:
            rows = v[phase::stride]
            phases[phase] = rows, _folded_sum(rows) if len(rows) else jnp.zeros(v.shape[1:], "int32")
        rows, total = phases[phase]
        begin = min(max((first - phase) // stride, 0), len(rows))
        end = max(min((first - phase) // stride + count, len(rows)), begin)
        for outside in (rows[:begin], rows[end:]):
            total = total - outside.astype(jnp.int32).sum(axis=0, dtype=jnp.int32) if len(outside) else total
        found.append(total)
    return found
