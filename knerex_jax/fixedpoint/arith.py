"""The integer steps of the fixed program: rounding shift, saturation, multiplication by a 15-bit mantissa.

Section 3 of the arithmetic contract. Every step exists as a JAX function for the emulator, and its constants are made
on the host by the function beside it. Values that a static bound keeps below 2**31 are int32 throughout; wider ones
are int64 inside `exact64()`, so that a caller who compiles without 64-bit types cannot truncate them unnoticed.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.fixedpoint.lanes import add, both, cast, clamp, larger, multiply, shift_left, shift_right, spread
from knerex_jax.fixedpoint.qformat import data_limits

Arrays = dict[str, np.ndarray]

MAX_MULTIPLIER = (1 << 15) - 1
_LARGEST_SHIFT = 47  # any |p| < 2**31 times m < 2**15, shifted by 47 or more, rounds to 0


def code_dtype(bits: int) -> Any:
    """Element type that holds data codes of this width: int8, or int16 for 15 significant bits."""
    return jnp.int8 if bits == 8 else jnp.int16


def saturate(value: Array, bits: int) -> Array:
    """Limits integers to the data codes of `bits` (8 or 15) and stores them in their element type."""
    low, high = data_limits(bits)
    return cast(clamp(value, low, high), code_dtype(bits))


def saturate_psum(value: Array, psum_bits: int) -> Array:
    """Limits integers to two's complement of `psum_bits`; nothing to do where the element type has no more bits."""
    if psum_bits >= 8 * value.dtype.itemsize:
        return value
    return clamp(value, -(1 << (psum_bits - 1)), (1 << (psum_bits - 1)) - 1)


def exact64() -> AbstractContextManager[Any]:
    """Permits 64-bit types for the operations inside, whatever the caller's setting; results must leave as 32 bits."""
    return jax.enable_x64(True)


def to_int64(value: Array) -> Array:
    """The value as int64; only inside `exact64()`."""
    wide = cast(value, jnp.int64)
    assert wide.dtype == np.int64, "int64 outside exact64()"
    return wide


# Shifts


def shr(value: Array, n: Array) -> Array:
    """The contract's shr for any shift of -16 .. 62, in the type of `value`; exact, nothing overflows on the way.

    n > 0: (value + 2**(n-1)) >> n, ties toward +infinity: shr(-3, 1) = -1. n <= 0: value << -n; what does not fit stays
    beyond 2**30 (int32) or 2**46 (int64) in magnitude with its sign, so that a narrower saturation sees the same.

    Args:
      value: int32, or int64 with |value| < 2**62.
      n: int32, broadcasts against value.
    """
    top = 31 if value.dtype == jnp.int32 else 63
    n = cast(n, value.dtype)
    left = larger(-n, 0)
    least = shift_left(np.asarray(-1, value.dtype), add(top, -left))
    value = shift_left(clamp(value, least, lax.bitwise_not(least)), left)
    # Two steps, because value + 2**(n-1) may overflow: first to one bit more than wanted, then half up.
    half = clamp(n, 0, 1)
    value = shift_right(value, clamp(add(n, -1), 0, top))
    return add(shift_right(value, half), both(value, half))


def shift_constants(n: np.ndarray) -> Arrays:
    """Constants of `add_shr` and `shr`.

    Args:
      n: shifts, any integer type.

    Returns:
      int32 arrays like n: n; round and right, the forms `add_shr` uses.
    """
    n = np.asarray(n, np.int64)
    right = np.clip(n, 0, 31)
    return _int32(n=n, right=right, round=np.where(right > 0, 1 << np.maximum(right - 1, 0), 0))


def add_shr(value: Array, right: Array, round: Array) -> Array:
    """The same as `shr` for shifts n >= 0 and |value| < 2**30: two operations.

    From n = 31 on the result is 0 for all such values, so `right` is limited to 31.
    """
    return shift_right(add(value, cast(round, value.dtype)), cast(right, value.dtype))


# Multiplication by a mantissa, then a shift


def multiplier_constants(m: np.ndarray, n: np.ndarray) -> Arrays:
    """Constants of `multiply_shr`: an equivalent multiplier and shift, and what follows from them.

    A negative shift moves into m as far as m stays below 2**15; with m >= 2**14 what remains of it saturates any p but
    0 even at 15 bits, so it is dropped.

    Args:
      m: multipliers, 0 <= m < 2**15.
      n: shifts, -16 .. 62, broadcasts against m.

    Returns:
      int32 arrays of the common shape: m and n >= 0, for `multiply_shr64`; pre, round and right for `multiply_shr`.
    """
    m, n = np.broadcast_arrays(np.asarray(m, np.int64), np.asarray(n, np.int64))
    assert m.size == 0 or (m.min() >= 0 and m.max() <= MAX_MULTIPLIER), "a multiplier has 15 bits"
    room = 15 - np.frexp(m.astype(np.float64))[1].astype(np.int64)
    moved = np.where(m > 0, np.clip(-n, 0, room), 0)
    m, n = m << moved, np.maximum(n + moved, 0)
    limited = np.minimum(n, _LARGEST_SHIFT)
    pre = np.maximum(17 - limited, 0)
    total = limited + pre
    return _int32(m=m, n=n, pre=pre, round=1 << (total - 17), right=total - 16)


def multiply_shr(p: Array, m: Array, round: Array, right: Array) -> Array:
    """shr(p * m, n) for n >= 17, in int32: the product is never formed.

    Exact for every int32 p: floor(p*m / 2**16) comes from the two 16-bit halves of p and stays below 2**30, and
    floor(floor(a) / b) = floor(a / b). Constants from `multiplier_constants` (round = 2**(n-17), right = n - 16).
    """
    m = spread(m, p.shape)
    product = add(multiply(shift_right(p, 16), m), shift_right(multiply(both(p, 0xFFFF), m), 16))
    return shift_right(add(product, round), right)


def prescale(p: Array, pre: Array) -> Array:
    """Shifts p left by `pre`, so that shr(p * m, n) with n < 17 can use `multiply_shr` with n + pre = 17.

    p saturates to 32 - pre bits on the way; beyond that the result is beyond the codes of 15 bits for every m >= 1.
    """
    limit = shift_right(np.asarray(0x7FFFFFFF, np.int32), pre)
    return shift_left(clamp(p, lax.bitwise_not(limit), limit), pre)


def multiply_shr64(p: Array, m: Array, n: Array) -> Array:
    """shr(p * m, n) for |p| < 2**47, m < 2**15 and 0 <= n <= 62, in int64; only inside `exact64()`."""
    product, n = multiply(to_int64(p), to_int64(m)), to_int64(n)
    # 2**(n-1), or 0 for n = 0: half of 2**n.
    half = shift_right(shift_left(np.asarray(1, np.int64), n), 1)
    return shift_right(add(product, half), n)


# Numbers of 48 bits without 64-bit types


def split48(value: np.ndarray) -> np.ndarray:
    """48-bit integers as int32 [2, ...]: value = first * 2**24 + second, 0 <= second < 2**24."""
    value = np.asarray(value, np.int64)
    return np.stack([value >> 24, value & 0xFFFFFF]).astype(np.int32)


def join48(pair: Array, wide: bool) -> Array:
    """The inverse of `split48`: int64 (`wide`, inside `exact64()`), or int32 where a bound says that it fits."""
    pair = to_int64(pair) if wide else pair
    first, second = (lax.index_in_dim(pair, k, 0, keepdims=False) for k in (0, 1))
    return add(shift_left(first, 24), second)


# On the host, for bounds and constants


def exact_shr(value: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The contract's shr on int64 NumPy arrays with |value| < 2**62; a left shift saturates at +-2**62."""
    value, n = np.asarray(value, np.int64), np.asarray(n, np.int64)
    if n.min(initial=1) > 0:
        return (value + (np.int64(1) << (n - 1))) >> n
    right, left = np.maximum(n, 1), np.maximum(-n, 0)
    limit = np.int64(1 << 62) >> left
    return np.where(n > 0, (value + (np.int64(1) << (right - 1))) >> right, np.clip(value, -limit, limit) << left)


def _int32(**arrays: np.ndarray) -> Arrays:
    return {name: np.asarray(a).astype(np.int32) for name, a in arrays.items()}
