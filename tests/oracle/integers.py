"""The integer steps of the contract (section 3): shr, saturate, mantissa; and floor(log2)."""

import math

import numpy as np

from .errors import OracleError

MIN_SHIFT, MAX_SHIFT = -16, 62
# Left shifts saturate here. It is beyond every type of the contract (48 bits at most), so the saturation to the
# type that follows each shr gives the same result as a saturation at the type itself.
SHIFT_LIMIT = 2**62


def signed_range(bits: int) -> tuple[int, int]:
    """Lowest and highest value of a two's complement integer; for bits=8: -128, 127."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def saturate(values: np.ndarray, bits: int) -> np.ndarray:
    """sat_b: codes of a datapath tensor or partial sum of that many bits."""
    low, high = signed_range(bits)
    return np.clip(values, low, high)


def check_shift(shift: np.ndarray, where: str) -> np.ndarray:
    """The shift as int64, or an error that names the node when it is outside -16 .. 62."""
    shift = np.asarray(shift, dtype=np.int64)
    if shift.size and (shift.min() < MIN_SHIFT or shift.max() > MAX_SHIFT):
        raise OracleError(f"{where}: shift {shift.min()} .. {shift.max()} is outside {MIN_SHIFT} .. {MAX_SHIFT}")
    return shift


def shr(values: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """Divide by 2**shift with rounding, shr of the contract.

    n > 0: (a + 2**(n-1)) >> n, arithmetic, half toward +infinity; n <= 0: a << -n, saturating.
    Exact for |a| <= 2**62. `shift` broadcasts against `values`.
    """
    values = np.asarray(values, dtype=np.int64)
    shift = check_shift(shift, "shr")
    if not np.any(shift):
        return values
    right = np.maximum(shift, 1)
    rounded = (values + (np.int64(1) << (right - 1))) >> right
    if np.all(shift > 0):
        return rounded
    left = np.maximum(-shift, 0)
    limit = np.int64(SHIFT_LIMIT) >> left
    shifted = np.clip(values, -limit, limit) << left
    return np.where(shift > 0, rounded, shifted)


def floor_log2(value: float) -> int:
    """floor(log2(value)), exact also at powers of two."""
    if not (value > 0 and math.isfinite(value)):
        raise OracleError(f"floor(log2({value})) does not exist")
    return math.frexp(value)[1] - 1


def mantissa(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, e) with factor = f * 2**e, f in [1/2, 1), m = rint(2**15 * f); m = 2**15 is written 2**14 with e + 1.

    So factor is about m * 2**(e - 15), and 2**14 <= m < 2**15.
    """
    factor = np.asarray(factor, dtype=np.float64)
    if not (np.all(factor > 0) and np.all(np.isfinite(factor))):
        raise OracleError("a multiplier must be positive and finite")
    fraction, exponent = np.frexp(factor)
    m = np.rint(fraction * 2**15).astype(np.int64)
    e = exponent.astype(np.int64)
    overflow = m == 2**15
    return np.where(overflow, 2**14, m), np.where(overflow, e + 1, e)


def quantize(values: np.ndarray, low: np.ndarray | int, high: np.ndarray | int, where: str) -> np.ndarray:
    """saturate(rint(values)) as int64, half to even; infinities saturate, NaN is an error."""
    values = np.asarray(values, dtype=np.float64)
    if np.any(np.isnan(values)):
        raise OracleError(f"{where}: not a number cannot be quantized")
    return np.clip(np.rint(values), low, high).astype(np.int64)
