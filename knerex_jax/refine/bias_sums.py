"""Exact sums over positions and samples: means that no order of summation, batch or device can change.

On the device every value is an integer in float64: sums along one spatial axis stay below 2**53, then two limbs of 24
bits are added separately, so that nothing is ever rounded. They leave as int32 limbs; on the host Python's integers
take over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.fixedpoint.arith import exact64

LIMB = 24
"""Bits of a limb, and of the fraction that a float keeps: it counts as rint(x * 2**24)."""

Stats = dict[str, Array]
"""Of one weighted node and one sample: "fixed" and "float" int32 [parts, 3, C], limbs of sums; "peak", largest |x|."""


def float_sums(x: Array, axis: int) -> Stats:
    """Sums of rint(x * 2**24) over everything but `axis`: "float" [1, 3, C] and "peak", the largest |x| (float32).

    Exact while `peak` stays below `exact_limit`; the host checks that.
    """
    with exact64():
        scaled = jnp.rint(x.astype(jnp.float64) * np.float64(1 << LIMB))
        # Not the maximum of |x|: the compiler has no fast form of that (three times the cost of all these sums).
        return {"float": _exact_sum(scaled, axis)[None], "peak": jnp.maximum(x.max(), -x.min())}


def fixed_sums(p: Array, axis: int, psum_bits: int) -> Stats:
    """Sums of accumulators over everything but `axis`: "fixed" [parts, 3, C], part k times 2**(24 k).

    p: int32, or int64 of up to 48 bits inside `exact64()`.
    """
    with exact64():
        if p.dtype == jnp.int32 or psum_bits <= 32:
            parts = [p]
        else:
            parts = [p & ((1 << LIMB) - 1), p >> LIMB]
        return {"fixed": jnp.stack([_exact_sum(part.astype(jnp.float64), axis) for part in parts])}


def exact_limit(shape: tuple[int, ...], axis: int) -> float:
    """Magnitude from which on `float_sums` of tensors of that shape might round: 2**29 over the first summed axis."""
    return 2.0**29 / shape[_first_axis(len(shape), axis)]


def _first_axis(rank: int, axis: int) -> int:
    return rank - 1 if axis % rank != rank - 1 else rank - 2


def _exact_sum(values: Array, axis: int) -> Array:
    """Integers in float64, sums along one axis below 2**53 -> int32 [3, C], limbs of 24 bits, the last one signed."""
    rank = values.ndim
    rows = values.sum(_first_axis(rank, axis), keepdims=True)
    rest = tuple(a for a in range(rank) if a != axis % rank)
    high = jnp.floor(rows * 2.0**-LIMB)
    low, high = (v.sum(rest).astype(jnp.int64) for v in (rows - high * 2.0**LIMB, high))
    high, mask = high + (low >> LIMB), (1 << LIMB) - 1
    return jnp.stack([low & mask, high & mask, high >> LIMB]).astype(jnp.int32)


@dataclass
class Totals:
    """Sums of one node over samples, [fitted, held out].

    Attributes:
      positions: values per channel and sample.
      limit: magnitude below which float sums are exact.
      samples: number of samples summed.
      peak: largest |float value| of any sample; NaN where there was one.
      fixed, floats: int64 [2, parts, 3, C].
    """

    positions: int
    limit: float
    samples: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    peak: float = 0.0
    fixed: np.ndarray = field(default_factory=lambda: np.zeros((2, 1, 3, 1), np.int64))
    floats: np.ndarray = field(default_factory=lambda: np.zeros((2, 1, 3, 1), np.int64))

    def add(self, stats: Mapping[str, np.ndarray], held_out: np.ndarray) -> None:
        """Adds the samples of a batch: leading axis of every array, and bool [N], which of them are held out."""
        groups = (~held_out, held_out)
        self.samples = self.samples + [int(g.sum()) for g in groups]
        self.peak = float(np.maximum(self.peak, stats["peak"].max()))
        for name in ("fixed", "floats"):
            values = np.asarray(stats[name.removesuffix("s")], np.int64)
            setattr(self, name, getattr(self, name) + np.stack([values[g].sum(axis=0) for g in groups]))

    @property
    def exact(self) -> bool:
        """Whether all values were finite and small enough to be summed exactly."""
        return self.peak < self.limit

    def mean_error(self, groups: tuple[int, ...], unit: np.ndarray) -> np.ndarray:
        """Mean of (float value - fixed value), float64 [C]; unit: codes of the accumulator per real unit."""
        count = int(self.samples[list(groups)].sum()) * self.positions
        fixed, floats = (_integers(v[list(groups)].sum(axis=0)) for v in (self.fixed, self.floats))
        real = np.array([total / (count << LIMB) for total in floats])
        return real - np.array([total / count for total in fixed]) / unit


def _integers(limbs: np.ndarray) -> list[int]:
    """[parts, 3, C] -> C Python integers: limb k of part j counts 2**(24 (j + k))."""
    total = [0] * limbs.shape[-1]
    for j, (low, middle, high) in enumerate(limbs):
        pairs = zip(total, high.tolist(), (low + (middle << LIMB)).tolist(), strict=True)
        total = [t + (((h << 2 * LIMB) + rest) << LIMB * j) for t, h, rest in pairs]
    return total
