"""Exact sums over positions and samples: means that no order of summation, batch or device can change.

Floats count as rint(x * 2**24) and partial sums as they are, integers below 2**47 in float64; sums of codes are int32.
Long sums are folded first: eight parts of a tensor are added element by element, which is several times as fast as any
reduction. Everything leaves the device as int32; on the host int64 takes over, or Python's integers where that is too
small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

_LIMB, _COLUMN, _HALF = 24, 20, 16
_PARTS = 8

# On the device, of one sample.


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
        return _folded_sum(_rows(x, _channels(i)).astype(jnp.int32))
    v, w = jnp.moveaxis(x[0], 0, -1), i.window
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
    channels = x_shape[1] if i.window else x_shape[_channels(i)]
    return plain and math.prod(x_shape) // channels << (i.x_bits - 1) < 1 << 31


def group_sums(values: Array, groups: Array) -> Array:
    """Sums over samples by group: int32 [N, ...], 0 or 1 int32 [G, N] -> int32 [2, G, ...], halves for `whole`.

    Exact for fewer than 2**15 samples.
    """
    spread = groups.reshape(*groups.shape, *(1,) * (values.ndim - 1))
    return jnp.stack(
        [(half * spread).sum(axis=1, dtype=jnp.int32) for half in (values & ((1 << _HALF) - 1), values >> _HALF)]
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
    high = jnp.floor(rows * 2.0**-_LIMB)
    sums = [v.sum(axis=0) for v in (rows - high * 2.0**_LIMB, high)]
    bad = jnp.isnan(sums[1])
    low, high = (jnp.where(bad, 0, v).astype(jnp.int64) for v in sums)
    high, mask = high + (low >> _LIMB), (1 << _LIMB) - 1
    return jnp.stack([low & mask, high & mask, high >> _LIMB, bad.astype(jnp.int64)]).astype(jnp.int32)


def _folded_sum(values: Array) -> Array:
    """int32, summed over the first axis."""
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
            phases[phase] = rows, _folded_sum(rows.astype(jnp.int32)) if len(rows) else jnp.zeros(v.shape[1:], "int32")
        rows, total = phases[phase]
        begin = min(max((first - phase) // stride, 0), len(rows))
        end = max(min((first - phase) // stride + count, len(rows)), begin)
        for outside in (rows[:begin], rows[end:]):
            total = total - outside.astype(jnp.int32).sum(axis=0, dtype=jnp.int32) if len(outside) else total
        found.append(total)
    return found


# On the host.


@dataclass(frozen=True)
class Totals:
    """Sums of one node, [fitted, held out].

    Attributes:
      values: how many per channel.
      fixed: sums of p, exact integers [C] (`joined`).
      floats: sums of rint(x * 2**24), likewise.
      exact: whether all float values could be summed.
    """

    values: tuple[int, int]
    fixed: tuple[np.ndarray, np.ndarray]
    floats: tuple[np.ndarray, np.ndarray]
    exact: bool = True

    def mean_error(self, groups: Sequence[int], unit: np.ndarray) -> np.ndarray:
        """Mean of (float value - fixed value), float64 [C]; unit: codes of the accumulator per real unit."""
        count = sum(self.values[g] for g in groups)
        fixed, floats = (_added([v[g] for g in groups]) for v in (self.fixed, self.floats))
        return _ratio(floats, count << FRACTION) - _ratio(fixed, count) / unit


def whole(halves: np.ndarray) -> np.ndarray:
    """int64 [G, ...] of the halves that `group_sums` makes."""
    low, high = np.asarray(halves, np.int64)
    return low + (high << _HALF)


def joined(parts: np.ndarray, bits: int = _LIMB) -> np.ndarray:
    """sum_k parts[k] * 2**(bits * k) of int64 [parts, C], exactly: int64 [C], or Python's integers in object [C]."""
    top = max(int(v) << bits * k for k, v in enumerate(np.abs(parts).max(axis=1)))
    if top < 1 << 60 and bits * len(parts) < 64 + bits:
        return (np.int64(1) << bits * np.arange(len(parts))) @ parts
    return sum((part.astype(object) * (1 << bits * k) for k, part in enumerate(parts)), start=np.zeros(1, object))


def accumulator_totals(
    i: Mac, weight: np.ndarray, bias: np.ndarray, sums: np.ndarray, counts: Sequence[int]
) -> list[np.ndarray]:
    """Sums of p of a linear node from sums of codes.

    Args:
      i: the instruction.
      weight: its weights, as in the instruction's docstring.
      bias: its integers [O].
      sums: int64 [G, I, *kernel] of `code_sums`.
      counts: values per channel that are summed, for each of the G groups.

    Returns:
      Exact integers [O] (`joined`) for each group.
    """
    columns = sums[:, None]
    # Long sums in three parts: sums of up to 2**19 products of 14 and 20 bits stay below 2**53.
    if max(map(abs, _ends(sums))) * weight[0].size >= 1 << (54 - i.weight_bits):
        mask = (1 << _COLUMN) - 1
        columns = np.stack([sums & mask, (sums >> _COLUMN) & mask, sums >> 2 * _COLUMN], axis=1)
    groups, parts = columns.shape[:2]
    if i.kind == "diagonal":
        products = columns * weight.astype(np.int64)
    else:
        # Not a matrix product: for one, BLAS wakes threads, and while they wait for more to do they burn many times
        # what these few columns take.
        rows = weight.reshape(i.group, len(weight) // i.group, -1)
        codes = np.ascontiguousarray(columns.reshape(groups * parts, i.group, -1).transpose(1, 0, 2), np.float64)
        made = np.einsum("gok,gck->goc", rows, codes)
        products = made.reshape(len(weight), -1).T.reshape(groups, parts, -1).astype(np.int64)
    low, high = bias.astype(np.int64) & ((1 << _LIMB) - 1), bias.astype(np.int64) >> _LIMB
    return [
        _added([joined(p, _COLUMN), joined(np.stack([low, high]) * count)])
        for p, count in zip(products, counts, strict=True)
    ]


def _ends(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _added(vectors: Sequence[np.ndarray]) -> np.ndarray:
    return joined(np.stack(vectors), 0) if all(v.dtype != object for v in vectors) else sum(vectors[1:], vectors[0])


def _ratio(total: np.ndarray, count: int) -> np.ndarray:
    """Correctly rounded quotients, float64."""
    if total.dtype == object or max(map(abs, _ends(total))) > 1 << 53 or count > 1 << 53:
        return np.array([int(t) / count for t in total])
    return total / np.float64(count)
