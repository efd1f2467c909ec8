"""Integer weights of section 2: from float constants and formats to the constants of one mac."""

import math
from dataclasses import dataclass

import numpy as np

from .errors import OracleError
from .formats import Format, own_format
from .integers import check_shift, floor_log2, mantissa, quantize, signed_range

# Down to -3 a HardSwish is not 0: p has to reach that far, however small the outputs are.
HARD_SWISH_REACH = 3.0


@dataclass(frozen=True)
class FloatMac:
    """Float constants of a weighted node in one form for all operators.

    `weight` is [o, i, taps], `bias` [o]; `radix_x` and `scale_x` [o, i] are those of the input channel that
    meets weight[o, i]; `radix_y` and `scale_y` [o] those of the final output (after a fused activation).
    """

    weight: np.ndarray
    bias: np.ndarray
    radix_x: np.ndarray
    scale_x: np.ndarray
    radix_y: np.ndarray
    scale_y: np.ndarray


@dataclass(frozen=True)
class MacSettings:
    """What else decides the integers: widths, target, and the fused activation as far as it matters here."""

    label: str
    weight_bits: int
    output: Format
    psum_bits: int
    post_multiplier: bool
    clip_bound: float | None = None  # max(|low|, |high|) of a fused Clip that is bounded on both sides
    fused_hard_swish: bool = False


@dataclass(frozen=True)
class IntegerMac:
    """Integer constants of one mac, all int64 vectors over o, except weight [o, i, taps] and the float s_w."""

    weight: np.ndarray
    bias: np.ndarray
    r_ref: np.ndarray
    r_w: np.ndarray
    s_w: np.ndarray
    r_p: np.ndarray
    n1: np.ndarray
    m: np.ndarray
    n2: np.ndarray


def quantize_mac(mac: FloatMac, settings: MacSettings) -> IntegerMac:
    """Section 2, one output channel at a time; float64 in the written order."""
    channels = [_quantize_channel(mac, settings, o) for o in range(mac.weight.shape[0])]
    columns = {key: np.array([channel[key] for channel in channels]) for key in channels[0]}
    columns["n1"] = check_shift(columns["n1"], f"{settings.label}: n1")
    columns["n2"] = check_shift(columns["n2"], f"{settings.label}: n2")
    return IntegerMac(**columns)


def _quantize_channel(mac: FloatMac, settings: MacSettings, o: int) -> dict:
    s_y, r_y = float(mac.scale_y[o]), int(mac.radix_y[o])
    folded = 1.0 if settings.fused_hard_swish else s_y  # a fused HardSwish needs the real value in the mac
    r_ref = int(mac.radix_x[o].min())
    scaled_weight = mac.weight[o] * folded / mac.scale_x[o][:, None]  # W~
    u = np.ldexp(scaled_weight, -(mac.radix_x[o] - r_ref)[:, None])
    scaled_bias = float(mac.bias[o]) * folded  # b~
    r_w, s_w = own_format(float(np.max(np.abs(u), initial=0.0)), settings.weight_bits)
    if not settings.post_multiplier:
        s_w = 1.0

    bound = _bound(settings, s_y, r_y) + abs(scaled_bias)  # A
    if settings.psum_bits == 16:
        r_p = _working_radix(settings, bound, s_w, r_w + r_ref, r_y)
    else:
        r_w = min(r_w, floor_log2(2.0 ** (settings.psum_bits - 2) / (s_w * bound)) - r_ref)
        r_p = r_w + r_ref
    n1 = r_w + r_ref - r_p

    limit = 2 ** (settings.weight_bits - 1) - 1
    low, high = signed_range(settings.psum_bits)
    m, n2 = _post_multiplier(settings, s_w, s_y, r_p, r_y)
    return {
        "weight": quantize(np.ldexp(u * s_w, r_w), -limit, limit, settings.label),
        "bias": quantize(math.ldexp(scaled_bias * s_w, r_p), low, high, settings.label),
        "r_ref": r_ref,
        "r_w": r_w,
        "s_w": s_w,
        "r_p": r_p,
        "n1": n1,
        "m": m,
        "n2": n2,
    }


def _bound(settings: MacSettings, s_y: float, r_y: int) -> float:
    """The output range part of A, in the units of the value that the mac computes."""
    output_range = math.ldexp(2 ** (settings.output.bits - 1), -r_y)
    if settings.fused_hard_swish:
        return max(output_range / s_y, HARD_SWISH_REACH)
    if settings.clip_bound is not None:
        return min(output_range, settings.clip_bound * s_y)
    return output_range


def _working_radix(settings: MacSettings, bound: float, s_w: float, product_radix: int, r_y: int) -> int:
    """r_p of 16-bit partial sums: the largest at which A (times s_w, which is 1 on 520) fits, then the clamps."""
    r_p = floor_log2(32767 / (s_w * bound))
    r_p = min(r_p, product_radix + 16)  # n1 >= -16
    if not settings.fused_hard_swish:  # its n2 is another quantity, in the forties
        r_p = min(r_p, r_y + 15)  # n2 <= 15
    return r_p


def _post_multiplier(settings: MacSettings, s_w: float, s_y: float, r_p: int, r_y: int) -> tuple[int, int]:
    if settings.fused_hard_swish:
        big_s = math.ldexp(s_w, r_p)
        factor = math.ldexp(s_y, r_y) / (6 * big_s**2)
        m, e = mantissa(np.array(factor))
        if 2.0**15 * np.rint(6 * big_s) * float(m) > 2.0**62:
            raise OracleError(f"{settings.label}: p * t * m of the fused HardSwish leaves 63 bits")
        return int(m), 15 - int(e)
    if not settings.post_multiplier:
        return 1, r_p - r_y
    m, e = mantissa(np.array(1 / s_w))
    return int(m), 15 - int(e) + r_p - r_y
