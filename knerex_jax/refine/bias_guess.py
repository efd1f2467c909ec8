"""What a node's decision will most likely make of its bias, computed inside the trace, which so need not stop for it.

The arithmetic of the decision (`bias.Adjustment`) in float64 on the device. The host decides afterwards, in exact
integers; where its codes differ from these, what was run with them is void.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.fixedpoint.arith import exact64
from knerex_jax.refine.bias_nodes import Integers, Weighted
from knerex_jax.refine.bias_sums import HALF, LIMB, piece_bits, piece_products, weight_rows
from knerex_jax.refine.split import FEWEST_SAMPLES


def as_bits(values: np.ndarray) -> np.ndarray:
    """float64 [...] -> int32 [..., 2]: arguments of 64 bits would depend on the caller's setting."""
    return np.ascontiguousarray(values, np.float64)[..., None].view(np.int32)


def read_of(node: Weighted, integers: Integers, linear: bool) -> dict[str, np.ndarray]:
    """What a guess reads of a node.

    Args:
      node: of which nothing but the bias code follows from a bias (`Weighted.bias_alone`).
      integers: what it has so far.
      linear: whether its sums are those of codes (`is_linear`).

    Returns:
      "rows": of a linear node, its weights (`weight_rows`); "numbers": bits of float64 [4, O]: bias, scale, step and
      bias code.
    """
    numbers = np.stack([np.asarray(v, np.float64) for v in (node.bias, node.scale, node.step, integers["bias"])])
    rows = {"rows": weight_rows(node.mac, integers["weight"])} if linear else {}
    return {**rows, "numbers": as_bits(numbers)}


def guessed_bias(
    node: Weighted, largest: int | None, read: Mapping[str, Array], means: Array, sums: Array, groups: Array
) -> tuple[Array, Array]:
    """What the decision will be made from, and the bias codes that it will give.

    Args:
      node: the node.
      largest: magnitude that no sum of codes of one sample exceeds; None if its sums are not those of codes.
      read: from `read_of`.
      means: bits of float64 [2, O], its part of `Passes.float_means`.
      sums: halves of its `fixed_sums` by group (`group_sums`).
      groups: int32 [2, N], which samples are fitted, which held out.

    Returns:
      Of a linear node the sums of its products (`piece_products`), else the halves; and the new bias codes, the old
      ones where the correction will be refused: int32 [O], or [2, O] as `split48` makes them for partial sums of more
      than 32 bits.
    """
    i = node.mac
    linear = largest is not None
    left = piece_products(i, read["rows"], sums, groups.shape[1] * largest) if linear else sums
    with exact64():
        bias, scale, step, old = _values(read["numbers"])
        fitted, judging = _values(means)
        counts = groups.sum(axis=1).astype(jnp.float64) * node.positions
        if linear:
            totals = _joined(left, piece_bits(i, read["rows"])) + counts[:, None] * old
        else:
            low, high = left.astype(jnp.float64)
            totals = _joined((low + high * (1 << HALF))[:, :-1], LIMB)
        judged, unit = groups.sum() >= FEWEST_SAMPLES, scale * step
        rest = jnp.where(judged, 0, 1)  # of the samples that are held out, if none judges
        delta = fitted - (totals[0] + rest * totals[1]) / (counts[0] + rest * counts[1]) / unit
        mean = judging - totals[1] / counts[1] / unit
        helps = (delta**2 - 2 * delta * mean).sum() < 0
        kept = jnp.isfinite(delta).all() & (helps | ~judged)
        value = lax.reduce_precision(bias + delta, exponent_bits=8, mantissa_bits=23)  # float32
        top = 2.0 ** (i.psum_bits - 1)
        codes = jnp.where(kept, jnp.clip(jnp.rint(value * scale * step), -top, top - 1), old)
        if i.psum_bits <= 32:
            return left, codes.astype(jnp.int32)
        whole = codes.astype(jnp.int64)
        return left, jnp.stack([whole >> LIMB, whole & ((1 << LIMB) - 1)]).astype(jnp.int32)


def _values(bits: Array) -> Array:
    """The inverse of `as_bits`."""
    return lax.bitcast_convert_type(bits, jnp.float64)


def _joined(parts: Array, bits: int) -> Array:
    """[G, parts, O] -> float64 [G, O], the whole that the parts make."""
    return sum(parts[:, k].astype(jnp.float64) * 2.0 ** (bits * k) for k in range(parts.shape[1]))
