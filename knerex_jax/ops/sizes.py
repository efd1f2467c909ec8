"""Shapes as values, and tensors made from a shape: Shape, Size, ConstantOfShape, Range, EyeLike."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.ops.dtypes import check_ordinary, held, int64, numpy_type
from knerex_jax.ops.opdef import NoAttrs, OpDef


@dataclass(frozen=True)
class ShapeAttrs:
    """Which axes are wanted, as a Python slice."""

    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class ConstantOfShapeAttrs:
    """value: one element; None is the float 0."""

    shape: tuple[int, ...] = ()
    value: np.ndarray | None = field(default=None, hash=False)


@dataclass(frozen=True)
class EyeLikeAttrs:
    """dtype None is that of the input; k: the diagonal, counted upwards."""

    dtype: int | None = None
    k: int = 0


def _constant_of_shape(a: ConstantOfShapeAttrs, *absent: None) -> Array:
    value = np.zeros(1, np.float32) if a.value is None else a.value
    return jnp.full(a.shape, value.reshape(()), held(value.dtype))


def _range(a: NoAttrs, start: Array, limit: Array, delta: Array) -> Array:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(int(np.ceil((last - first) / step)), 0)
    return jnp.asarray((first + step * np.arange(count)).astype(start.dtype))


def _eye_like(a: EyeLikeAttrs, x: Array) -> Array:
    check_ordinary(x.dtype if a.dtype is None else numpy_type(a.dtype))
    return jnp.eye(*x.shape, k=a.k, dtype=x.dtype if a.dtype is None else held(numpy_type(a.dtype)))


OPS = (
    OpDef(op_type="Shape", attrs=ShapeAttrs, to_float=lambda a, x: jnp.asarray(x.shape[a.start : a.end], int64())),
    OpDef(op_type="Size", to_float=lambda a, x: jnp.asarray(x.size, int64())),
    OpDef(
        op_type="ConstantOfShape", attrs=ConstantOfShapeAttrs, static_inputs=((0, "shape"),),
        to_float=_constant_of_shape,
    ),
    OpDef(op_type="Range", to_float=_range),
    OpDef(op_type="EyeLike", attrs=EyeLikeAttrs, to_float=_eye_like),
)  # fmt: skip
