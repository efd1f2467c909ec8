"""Exact totals and means on the host, from the sums that leave the device: int64, or Python's integers where needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knerex_jax.program.primitives import Mac
from knerex_jax.refine.bias_sums import FRACTION, HALF, LIMB, weight_rows

_COLUMN = 20
"""Bits of the parts of long sums of codes, so that sums of products are exact in float64."""

Counts = int | np.ndarray
"""How many values a channel has; int64 [C] where channels differ."""


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
        return mean_float(self.floats, self.values, groups) - _mean(self.fixed, self.values, groups) / unit


def mean_float(floats: Sequence[np.ndarray], values: Sequence[Counts], groups: Sequence[int]) -> np.ndarray:
    """Mean of float values, float64 [C].

    Args:
      floats: by group, sums of rint(x * 2**24), exact integers [C] (`joined`).
      values: by group, how many per channel.
      groups: over which the mean is taken.
    """
    return _mean(floats, [n << FRACTION for n in values], groups)


def whole(halves: np.ndarray) -> np.ndarray:
    """int64 [G, ...] of the halves that `group_sums` makes."""
    low, high = np.asarray(halves, np.int64)
    return low + (high << HALF)


def joined(parts: np.ndarray, bits: int = LIMB) -> np.ndarray:
    """sum_k parts[..., k, :] * 2**(bits * k), exactly.

    Args:
      parts: int64 [..., parts, C].
      bits: of a part.

    Returns:
      int64 [..., C], or Python's integers in object [..., C] where that is too small.
    """
    count = parts.shape[-2]
    largest = np.abs(parts).max(axis=(*range(parts.ndim - 2), -1))
    top = max(int(v) << bits * k for k, v in enumerate(largest))
    if top * count < 1 << 62 and bits * count < 64 + bits:
        return (np.int64(1) << bits * np.arange(count)) @ parts
    return sum((parts[..., k, :].astype(object) * (1 << bits * k) for k in range(count)), start=np.zeros(1, object))


def products(i: Mac, weight: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Sums of products of a linear node from sums of codes.

    Args:
      i: the instruction.
      weight: its weights, as in the instruction's docstring.
      sums: int64 [G, I, *kernel] of `code_sums`.

    Returns:
      Exact integers [G, O] (`joined`).
    """
    columns = sums[:, None]
    # Long sums in three parts: sums of up to 2**19 products of 14 and 20 bits stay below 2**53.
    if max(map(abs, _ends(sums))) * weight[0].size >= 1 << (54 - i.weight_bits):
        mask = (1 << _COLUMN) - 1
        columns = np.stack([sums & mask, (sums >> _COLUMN) & mask, sums >> 2 * _COLUMN], axis=1)
    groups, parts = columns.shape[:2]
    if i.kind == "diagonal":
        return joined(columns * weight.astype(np.int64), _COLUMN)
    # Not a matrix product: for one, BLAS wakes threads, and while they wait for more to do they burn many times what
    # these few columns take.
    rows = weight_rows(i, weight)
    codes = np.ascontiguousarray(columns.reshape(groups * parts, i.group, -1).transpose(1, 0, 2), np.float64)
    made = np.einsum("gok,gck->goc", rows, codes)
    return joined(made.reshape(len(weight), -1).T.reshape(groups, parts, -1).astype(np.int64), _COLUMN)


def with_bias(made: np.ndarray, bias: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Sums of p of a linear node.

    Args:
      made: sums of its products, exact integers [G, O].
      bias: its integers [O].
      counts: values per channel that are summed, for each of the G groups.

    Returns:
      Exact integers [G, O] (`joined`).
    """
    bias, numbers = bias.astype(np.int64), np.array(counts, np.int64)[:, None]
    if made.dtype == object or max(map(abs, _ends(made))) + max(map(abs, _ends(bias))) * max(counts) >= 1 << 63:
        made, bias = made.astype(object), bias.astype(object)
    return made + bias * numbers


def _ends(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _added(vectors: Sequence[np.ndarray]) -> np.ndarray:
    if len(vectors) == 1:
        return vectors[0]
    return joined(np.stack(vectors, axis=-2), 0)


def _mean(sums: Sequence[np.ndarray], counts: Sequence[Counts], groups: Sequence[int]) -> np.ndarray:
    """Correctly rounded quotients of sums over groups, float64."""
    total, count = _added([sums[g] for g in groups]), sum(counts[g] for g in groups)
    most = count if isinstance(count, int) else int(count.max())
    if total.dtype == object or most > 1 << 53 or max(map(abs, _ends(total))) > 1 << 53:
        return np.array([int(t) / int(n) for t, n in zip(total, np.broadcast_to(count, len(total)), strict=True)])
    return total / np.asarray(count, np.float64)
