"""Changes of the element type."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from knerex_jax.ops.dtypes import check_ordinary, held, numpy_type
from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class CastAttrs:
    """to: ONNX element type; saturate and round_mode concern 8-bit floats only."""

    to: int = 1
    saturate: int = 1
    round_mode: str = "up"


@dataclass(frozen=True)
class CastLikeAttrs:
    """As in Cast; the type is that of the second input."""

    saturate: int = 1
    round_mode: str = "up"


@dataclass(frozen=True)
class BitCastAttrs:
    """to: ONNX element type."""

    to: int = 1


def converted(x: Array, dtype: Any) -> Array:
    """Numbers in another type: towards zero into integers, wrapped between integers, not zero into bool.

    Raises:
      UnsupportedOpError: one of the types is an 8-bit float or smaller than a byte.
    """
    check_ordinary(dtype, x.dtype)
    return x.astype(held(dtype))


def _bit_cast(a: BitCastAttrs, x: Array) -> Array:
    dtype = held(numpy_type(a.to))
    check_ordinary(dtype, x.dtype)
    if dtype == x.dtype:
        return x
    bits = x.astype(jnp.uint8) if jnp.issubdtype(x.dtype, jnp.bool_) else x
    if jnp.issubdtype(dtype, jnp.bool_):
        return lax.bitcast_convert_type(bits, jnp.uint8).astype(dtype)
    return lax.bitcast_convert_type(bits, dtype)


OPS = (
    OpDef(op_type="Cast", attrs=CastAttrs, to_float=lambda a, x: converted(x, numpy_type(a.to))),
    OpDef(op_type="CastLike", attrs=CastLikeAttrs, to_float=lambda a, x, like: converted(x, like.dtype)),
    OpDef(op_type="BitCast", attrs=BitCastAttrs, to_float=_bit_cast),
)
