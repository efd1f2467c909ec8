"""The rounding shift and saturation of the contract in float operators that are proven exact.

An integer P below half of what a float type holds, times 2**-n (exact), plus 1/2: if the sum is not a number of the
type, then |P * 2**-n| <= 1/4 and rounding leaves the sum between 0 and 1; so its floor is shr(P, n) for every n > 0.
With n <= 0 nothing is rounded as long as the result is that small, and what is not saturates.
"""

import numpy as np

from knerex_jax.export.tape import HOLDS, Tape, Value

Limits = tuple[np.ndarray | int, np.ndarray | int]
"""Least and largest integer, each one for all or broadcastable against the tensor."""

_LONGEST_LOW_PART = 36
"""Bits of the low part of a product that float64 does not hold as a whole."""


def along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """Per-channel integers, int64, shaped to broadcast along an axis; a single one where all are equal."""
    values = np.asarray(values, np.int64)
    if (values == values.flat[0]).all():
        return values.reshape(-1)[0]
    assert axis is not None, "several values without a channel axis"
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def in_type(tape: Tape, v: Value, dtype: str) -> Value:
    """The same integers in another float type."""
    return v if v.dtype == dtype else Value(tape.cast(v.name, dtype), v.peak, dtype)


def with_room(tape: Tape, v: Value, peak: int) -> Value:
    """The same integers in float64 unless their type holds others up to `peak`, too."""
    return v if peak < HOLDS[v.dtype] else in_type(tape, v, "float64")


def number(tape: Tape, values: np.ndarray | float, dtype: str) -> str:
    """A float constant of the type; it must be exact there."""
    held = np.asarray(values).astype(dtype)
    assert (held == values).all(), f"{tape.scope}: a constant is not a {dtype}"
    return tape.constant(held)


def clip(tape: Tape, v: Value, limits: Limits) -> Value:
    """min(max(v, low), high); nothing where the bound of v says so."""
    low, high = (np.asarray(x, np.int64) for x in limits)
    top = int(max(np.abs(low).max(), np.abs(high).max()))
    if (-v.peak >= low).all() and (v.peak <= high).all():
        return v
    peak = min(v.peak, top)
    if low.size == 1 and high.size == 1:
        ends = (number(tape, x.reshape(()), v.dtype) for x in (low, high))
        return Value(tape.emit("Clip", v.name, *ends), peak, v.dtype)
    name = tape.emit("Max", v.name, number(tape, low, v.dtype))
    return Value(tape.emit("Min", name, number(tape, high, v.dtype)), peak, v.dtype)


def scale(tape: Tape, name: str, factor: np.ndarray, dtype: str) -> str:
    """The tensor times a constant; itself where that is 1."""
    return name if (factor == 1).all() else tape.emit("Mul", name, number(tape, factor, dtype))


def shr(tape: Tape, v: Value, n: np.ndarray | int, limits: Limits, m: np.ndarray | int = 1) -> Value:
    """saturate(shr(v * m, n)).

    Args:
      tape: what the operators are appended to.
      v: integers; |v| < 2**48.
      n: shifts, -16 .. 62, broadcastable against v.
      limits: where the result saturates; magnitudes of at most 2**47.
      m: multipliers, |m| < 2**15, broadcastable against v.
    """
    n, m = np.broadcast_arrays(np.asarray(n, np.int64), np.asarray(m, np.int64))
    product = v.peak * int(np.abs(m).max())
    top = max(int(np.abs(x).max()) for x in limits)
    if (n == 0).all() and (m == 1).all():
        return clip(tape, v, limits)
    if 2 * product >= HOLDS["float64"]:
        return _wide_shr(tape, v, n, limits, m)
    pairs = set(zip(m.ravel().tolist(), n.ravel().tolist(), strict=True))
    largest = max(_shr(v.peak * abs(a), k) for a, k in pairs)
    narrow = v.dtype == "float32" and 2 * max(product, min(largest, 2 * top)) < HOLDS["float32"]
    v = v if narrow else in_type(tape, v, "float64")
    name = scale(tape, v.name, np.ldexp(m.astype(np.float64), -n), v.dtype)
    if (n > 0).any():
        name = tape.emit("Floor", tape.emit("Add", name, number(tape, 0.5, v.dtype)))
    # What the type does not hold was rounded, and is far beyond the limits.
    if largest >= HOLDS[v.dtype]:
        return clip(tape, Value(name, HOLDS[v.dtype] - 1, v.dtype), limits)
    return clip(tape, Value(name, largest, v.dtype), limits)


def _shr(value: int, n: int) -> int:
    return (value + (1 << (n - 1))) >> n if n > 0 else value << -n


def _wide_shr(tape: Tape, v: Value, n: np.ndarray, limits: Limits, m: np.ndarray) -> Value:
    """The same for products that float64 does not hold: in two parts, v = high * 2**s + low.

    shr(P, n) = shr(floor(P / 2**s), n - s) for 0 <= s < n, and floor(v * m / 2**s) = high * m + floor(low * m / 2**s).
    """
    v = in_type(tape, v, "float64")
    top = max(int(np.abs(x).max()) for x in limits)
    # From here on the result saturates, so that larger v need not be told apart.
    bits = n + top.bit_length() + 2 - np.floor(np.log2(np.maximum(np.abs(m), 1))).astype(np.int64)
    enough = np.where(m == 0, v.peak, 1 << np.clip(bits, 0, 52))
    v = clip(tape, v, (-enough, enough))
    product = np.asarray(np.minimum(v.peak, enough).astype(object) * np.abs(m).astype(object))
    s = np.where(2 * product >= HOLDS["float64"], np.clip(n - 1, 0, _LONGEST_LOW_PART), 0).astype(np.int64)
    high = tape.emit("Floor", scale(tape, v.name, np.ldexp(1.0, -s), v.dtype))
    low = tape.emit("Sub", v.name, scale(tape, high, np.ldexp(1.0, s), v.dtype))
    lower = tape.emit("Floor", scale(tape, low, np.ldexp(m.astype(np.float64), -s), v.dtype))
    total = tape.emit("Add", scale(tape, high, m, v.dtype), lower)
    peak = int(np.max(product // (1 << s.astype(object)))) + int(np.abs(m).max()) + 1
    assert 2 * peak < HOLDS["float64"], f"{tape.scope}: a product exceeds float64 even in two parts"
    return shr(tape, Value(total, peak, "float64"), n - s, limits)


def register(bits: int) -> tuple[int, int]:
    """Limits of a register of this width, two's complement."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
