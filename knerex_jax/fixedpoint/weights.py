"""The integers of a multiply-accumulate: weights, bias, shifts and multipliers. Section 2 of the contract.

NumPy float64 in the written order; every scale is rounded to float32 once. Runs on the host: planning is deterministic
and must not depend on a device.
"""

from dataclasses import dataclass

import numpy as np

from knerex_jax.errors import PlanError
from knerex_jax.fixedpoint.qformat import multiplier, own_format, weight_limit

MIN_SHIFT, MAX_SHIFT = -16, 62


@dataclass(frozen=True)
class Accumulator:
    """Format of the accumulator p of a mac, one entry per output channel.

    Attributes:
      radix: int64 [O], r_p.
      weight_scale: float64 [O], s_w.
      scale: float64 [O], s_y * s_w: p = real * scale * 2**radix.
    """

    radix: np.ndarray
    weight_scale: np.ndarray
    scale: np.ndarray


def check_shift(n: np.ndarray, node: str, what: str) -> np.ndarray:
    """Shifts as int32; a shift the hardware does not have is a PlanError that names the node, never a silent clamp."""
    if n.size and (n.min() < MIN_SHIFT or n.max() > MAX_SHIFT):
        raise PlanError(
            f"{what} needs a shift of {n.min()} to {n.max()}, permitted are {MIN_SHIFT} to {MAX_SHIFT}",
            where=f"node {node}",
            fix="widen the range or the bit width of its input or output, or calibrate with more typical data",
        )
    return n.astype(np.int32)


def mac_integers(
    node: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    x_scale: np.ndarray,
    x_radix: np.ndarray,
    y_scale: np.ndarray,
    room: np.ndarray,
    most_radix: np.ndarray | None,
    weight_bits: int,
    psum_bits: int,
    post_multiplier: bool,
) -> tuple[dict[str, np.ndarray], Accumulator]:
    """Integer constants of one weighted node, up to its accumulator.

    Args:
      node: name, for errors.
      weight: float32 [O, J, *kernel], J the inputs that feed an output.
      bias: float32 [O] or None.
      x_scale: float64 [O, J], scale of the input channel behind weight[o, j]; [1, J] where it is the same for all o.
      x_radix: int64, likewise, its radix.
      y_scale: float64 [O], scale that is folded into the weights.
      room: float64 [O], largest |value| the accumulator has to hold, bias apart, times y_scale.
      most_radix: int64 [O], the accumulator's largest radix where it has 16 bits; None: no limit.
      weight_bits: width of the weight codes.
      psum_bits: width of partial sums and bias.
      post_multiplier: whether the output is multiplied by 1 / s_w behind the accumulator.

    Returns:
      weight int8/int16 like `weight`, bias int32 (int64 for 48-bit partial sums), n1 int32 [O], weight_radix int32 and
      weight_scale float32 [O] (r_w and s_w); and the accumulator's format.

    Raises:
      PlanError: a shift is out of range.
    """
    spread = (...,) + (None,) * (weight.ndim - 2)
    # Weights are many: in place, with as few passes as it takes.
    u = weight.astype(np.float64)
    u *= y_scale[:, None][spread]
    u /= x_scale[spread]
    scaled_bias = np.zeros(len(weight)) if bias is None else bias.astype(np.float64) * y_scale
    x_ref = x_radix.min(axis=1)
    lower = x_ref[:, None] - x_radix
    if lower.any():
        u *= np.ldexp(1.0, lower)[spread]  # exact, like ldexp
    rows = u.reshape(len(u), -1)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    radix, scale, _ = own_format(largest, weight_limit(weight_bits), weight_bits)
    w_radix = radix.astype(np.int64)
    w_scale = scale if post_multiplier else np.ones_like(scale)
    w_real = w_scale.astype(np.float64)

    room = room + np.abs(scaled_bias)
    if psum_bits == 16:
        p_radix = np.minimum(_floor_log2(32767 / (w_real * room)), w_radix + x_ref + 16)
        p_radix = p_radix if most_radix is None else np.minimum(p_radix, most_radix)
        n1 = w_radix + x_ref - p_radix
    else:
        w_radix = np.minimum(w_radix, _floor_log2(2.0 ** (psum_bits - 2) / (w_real * room)) - x_ref)
        p_radix = w_radix + x_ref
        n1 = np.zeros_like(p_radix)
    factor, limit = np.ldexp(w_real, w_radix), weight_limit(weight_bits)
    u *= factor[:, None][spread]
    # Both steps are monotonic and odd: the largest code is that of the largest weight.
    if np.rint(largest * factor).max(initial=0) > limit:
        raise PlanError(
            f"its weights are so large beside its input that no radix brings them to {limit}", where=f"node {node}",
            fix="scale the weights and what reads the node",
        )  # fmt: skip
    constants = {
        "weight": np.rint(u, out=u).astype(np.int8 if weight_bits <= 8 else np.int16),
        "bias": to_psum(np.rint(scaled_bias * np.ldexp(w_real, p_radix)), psum_bits),
        "n1": check_shift(n1, node, "the accumulator"),
        "weight_radix": w_radix.astype(np.int32),
        "weight_scale": w_scale.astype(np.float32),
    }
    return constants, Accumulator(p_radix, w_real, y_scale * w_real)


def requantize_integers(
    node: str, acc: Accumulator, y_radix: np.ndarray, post_multiplier: bool
) -> dict[str, np.ndarray]:
    """From the accumulator to codes of radix y_radix, s_w undone: m (with post_multiplier) and n2, int32 [O].

    Raises:
      PlanError: a shift is out of range.
    """
    if not post_multiplier:
        return {"n2": check_shift(acc.radix - y_radix, node, "the output")}
    m, e = multiplier(1.0 / acc.weight_scale)
    return {"m": m, "n2": check_shift(15 - e + acc.radix - y_radix, node, "the output")}


HARD_SWISH_REACH = 3.0
"""From -3 down a hard-swish is 0, so its accumulator must hold -3, however small the outputs are."""


def hard_swish_integers(node: str, acc: Accumulator, y_scale: np.ndarray, y_radix: np.ndarray) -> dict[str, np.ndarray]:
    """The integers of y = shr(p * clip(p + three, 0, six) * m, n2): three, six, m and n2, int32 [O]. Section 3, rule 2.

    Raises:
      PlanError: a shift is out of range.
    """
    unit = np.ldexp(acc.scale, acc.radix)
    m, e = multiplier(np.ldexp(y_scale, y_radix) / (6 * unit**2))
    return {
        "three": np.rint(3 * unit).astype(np.int32),
        "six": np.rint(6 * unit).astype(np.int32),
        "m": m,
        "n2": check_shift(15 - e, node, "the output"),
    }


def to_psum(values: np.ndarray, psum_bits: int) -> np.ndarray:
    """Integer-valued float64 saturated to partial sums of that width; int64 where 32 bits do not hold them."""
    top = 2.0 ** (psum_bits - 1)
    return np.clip(values, -top, top - 1).astype(np.int64 if psum_bits > 32 else np.int32)


def clip_integers(
    low: float | None, high: float | None, scale: np.ndarray, radix: np.ndarray, psum_bits: int
) -> dict[str, np.ndarray]:
    """Integer bounds of a clip applied to a value of that format; an open side gets the type's own limit."""
    top = 2.0 ** (psum_bits - 1)
    bounds = {"lo": (low, -top), "hi": (high, top - 1)}
    return {
        key: to_psum(
            np.full(len(radix), limit) if bound is None else np.rint(np.ldexp(bound * scale, radix)), psum_bits
        )
        for key, (bound, limit) in bounds.items()
    }


def slope_integers(slope: np.ndarray, data_bits: int) -> dict[str, np.ndarray]:
    """Mantissa and shift of a negative-side slope: p * slope ~ shr(p * a, k), k <= 30 the largest that |a| permits."""
    limit = 127 if data_bits == 8 else 16383
    slope = np.asarray(slope, np.float64)
    k = np.full(slope.shape, 30, np.int64)
    while True:
        a = np.rint(np.ldexp(slope, k))
        over = np.abs(a) > limit
        if not over.any():
            return {"slope": a.astype(np.int32), "slope_shift": k.astype(np.int32)}
        k = k - over


def _floor_log2(x: np.ndarray) -> np.ndarray:
    return np.frexp(x)[1].astype(np.int64) - 1
