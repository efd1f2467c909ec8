"""Quantization inside ONNX models: QuantizeLinear and its inverse, and the operators on quantized tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops.conv import ConvAttrs
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.window import resolve_window


@dataclass(frozen=True)
class QuantizeAttrs:
    """Scale and zero point run along `axis` (vectors) or in blocks of it; output_dtype and precision are ONNX types."""

    axis: int = 1
    block_size: int = 0
    output_dtype: int = 0
    saturate: int = 1
    precision: int = 0


@dataclass(frozen=True)
class DequantizeAttrs:
    """Scale and zero point run along `axis` (vectors) or in blocks of it; output_dtype is an ONNX type."""

    axis: int = 1
    block_size: int = 0
    output_dtype: int = 0


def _numpy_type(onnx_type: int) -> np.dtype:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type))


def _spread(v: Array, x: Array, axis: int, block: int) -> Array:
    """A scale or zero point shaped to broadcast against x."""
    if v.size == 1:
        return v.reshape(())
    axis %= x.ndim
    if v.ndim == 1 and not block:
        return v.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    block = block or -(-x.shape[axis] // v.shape[axis])
    return lax.slice_in_dim(jnp.repeat(v, block, axis=axis), 0, x.shape[axis], axis=axis)


def _divided(x: Array, divisor: Array) -> Array:
    """The correctly rounded quotient: XLA multiplies by the reciprocal where it sees that a divisor is a scalar."""
    return x / lax.optimization_barrier(jnp.broadcast_to(divisor, x.shape))


def _quantize(a: QuantizeAttrs, x: Array, scale: Array, zero: Array | None = None) -> Array:
    dtype = zero.dtype if zero is not None else _numpy_type(a.output_dtype or onnx.TensorProto.UINT8)
    working = _numpy_type(a.precision) if a.precision else jnp.promote_types(x.dtype, scale.dtype)
    y = _divided(x.astype(working), _spread(scale, x, a.axis, a.block_size).astype(working))
    if not jnp.issubdtype(dtype, jnp.integer):
        return _to_small_float(y, dtype, bool(a.saturate))
    y = jnp.round(y.astype(jnp.promote_types(working, jnp.float32)))
    if zero is not None:
        y = y + _spread(zero, x, a.axis, a.block_size).astype(y.dtype)
    limits = jnp.iinfo(dtype)
    return jnp.clip(y, int(limits.min), int(limits.max)).astype(dtype)


def _to_small_float(y: Array, dtype: np.dtype, saturate: bool) -> Array:
    if saturate:
        limits = jnp.finfo(dtype)
        y = jnp.clip(y, float(limits.min), float(limits.max))
    return y.astype(dtype)


def _dequantize(a: DequantizeAttrs, x: Array, scale: Array, zero: Array | None = None) -> Array:
    dtype = _numpy_type(a.output_dtype) if a.output_dtype else scale.dtype
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    y = x.astype(jnp.int32 if integer else jnp.float32)
    if zero is not None:
        y = y - _spread(zero, x, a.axis, a.block_size).astype(y.dtype)
    y = y.astype(jnp.float32) * _spread(scale, x, a.axis, a.block_size).astype(jnp.float32)
    return y.astype(dtype)


def _dynamic_quantize(attrs: object, x: Array) -> tuple[Array, Array, Array]:
    low, high = jnp.minimum(x.min(), 0), jnp.maximum(x.max(), 0)
    scale = _divided(jnp.where(high == low, 1, high - low), jnp.asarray(255, x.dtype))
    zero = jnp.round(jnp.clip(-low / scale, 0, 255))
    y = jnp.clip(jnp.round(_divided(x, scale)) + zero, 0, 255)
    return y.astype(jnp.uint8), scale.astype(x.dtype), zero.astype(jnp.uint8)


def _centred(x: Array, zero: Array | None, axis: int) -> Array:
    """Integers without their zero point, a scalar or a vector along the axis; int32."""
    x = x.astype(jnp.int32)
    if zero is None:
        return x
    zero = zero.astype(jnp.int32)
    if zero.size == 1:
        return x - zero.reshape(())
    if zero.ndim == 1:
        zero = zero.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return x - zero


def _requantize(acc: Array, factor: Array, zero: Array | None, dtype: Any) -> Array:
    y = jnp.round(acc.astype(jnp.float32) * factor.astype(jnp.float32))
    if zero is not None:
        y = y + zero.astype(y.dtype)
    limits = jnp.iinfo(dtype)
    return jnp.clip(y, int(limits.min), int(limits.max)).astype(dtype)


def _matmul_integer(
    attrs: object, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None
) -> Array:
    rows = -2 if a.ndim > 1 else -1
    return jnp.matmul(_centred(a, a_zero, rows), _centred(b, b_zero, -1), preferred_element_type=jnp.int32)


def _qlinear_matmul(
    attrs: object, a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array,
    y_scale: Array, y_zero: Array,
) -> Array:  # fmt: skip
    acc = _matmul_integer(attrs, a, b, a_zero, b_zero)
    if a_scale.ndim == 1 and a_scale.size > 1:
        a_scale = a_scale[:, None]
    return _requantize(acc, _divided(a_scale * b_scale, y_scale), y_zero, y_zero.dtype)


def _integer_conv(a: ConvAttrs, x: Array, w: Array) -> Array:
    """Convolution of int32 arrays [N, C, *spatial] with [O, C/group, *kernel]."""
    return lax.conv_general_dilated(
        x, w, a.strides, a.window.pads, rhs_dilation=a.dilations, feature_group_count=a.group,
        preferred_element_type=jnp.int32,
    )  # fmt: skip


def _conv_integer(a: ConvAttrs, x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
    return _integer_conv(a, _centred(x, x_zero, 1), _centred(w, w_zero, 0))


def _qlinear_conv(
    a: ConvAttrs, x: Array, x_scale: Array, x_zero: Array, w: Array, w_scale: Array, w_zero: Array,
    y_scale: Array, y_zero: Array, bias: Array | None = None,
) -> Array:  # fmt: skip
    acc = _integer_conv(a, _centred(x, x_zero, 1), _centred(w, w_zero, 0))
    column = (-1,) + (1,) * (x.ndim - 2)
    if bias is not None:
        acc = acc + bias.reshape(column)
    factor = _divided(x_scale * w_scale, y_scale)
    return _requantize(acc, factor if factor.ndim == 0 else factor.reshape(column), y_zero, y_zero.dtype)


def _conv_canonical(weight: int) -> Any:
    def canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
        attrs = dict(node.attrs)
        attrs.setdefault("kernel_shape", shapes[node.inputs[weight]][2:])
        return replace(node, attrs=resolve_window(attrs, shapes[node.inputs[0]][2:]))

    return canonical


OPS = (
    OpDef(op_type="QuantizeLinear", attrs=QuantizeAttrs, to_float=_quantize),
    OpDef(op_type="DequantizeLinear", attrs=DequantizeAttrs, to_float=_dequantize),
    OpDef(op_type="DynamicQuantizeLinear", to_float=_dynamic_quantize),
    OpDef(op_type="MatMulInteger", to_float=_matmul_integer),
    OpDef(op_type="QLinearMatMul", to_float=_qlinear_matmul),
    OpDef(op_type="ConvInteger", attrs=ConvAttrs, canonical=_conv_canonical(1), to_float=_conv_integer),
    OpDef(op_type="QLinearConv", attrs=ConvAttrs, canonical=_conv_canonical(3), to_float=_qlinear_conv),
)
