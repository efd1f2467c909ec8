"""Softmax and its relatives: float only; the passes decompose Softmax before quantization."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from knerex_jax.graph.ir import Node, TensorType
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.shape import AxisAttrs, ReshapeAttrs


@dataclass(frozen=True)
class SoftmaxAttrs:
    """One axis, or several together: before opset 13 the axes from `axis` on counted as one.

    `axes` is None wherever one axis says it all; else it lists them, and `axis` is the first.
    """

    axis: int = -1
    axes: tuple[int, ...] | None = None


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    shape, attrs = shapes[node.inputs[0]], dict(node.attrs)
    if opset >= 13 or not shape:
        return replace(node, attrs={"axis": attrs.get("axis", -1)})
    axis = attrs.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    trailing = tuple(i for i in range(axis, len(shape)) if shape[i] > 1)
    if len(trailing) > 1:
        return replace(node, attrs={"axis": trailing[0], "axes": trailing})
    return replace(node, attrs={"axis": trailing[0] if trailing else min(axis, len(shape) - 1)})


def softmax_axes(a: SoftmaxAttrs, rank: int) -> tuple[int, ...]:
    """The axes that are normalised together."""
    return tuple(i % rank for i in (a.axes or (a.axis,)))


def _softmax(a: SoftmaxAttrs, x: Array) -> Array:
    return jax.nn.softmax(x, axis=softmax_axes(a, x.ndim))


def _log_softmax(a: SoftmaxAttrs, x: Array) -> Array:
    return jax.nn.log_softmax(x, axis=softmax_axes(a, x.ndim))


def _hardmax(a: SoftmaxAttrs, x: Array) -> Array:
    """1 at the first largest entry."""
    axes = softmax_axes(a, x.ndim)
    last = jnp.moveaxis(x, axes, range(-len(axes), 0))
    flat = last.reshape(*last.shape[: last.ndim - len(axes)], -1)
    hot = jax.nn.one_hot(flat.argmax(-1), flat.shape[-1], dtype=x.dtype)
    return jnp.moveaxis(hot.reshape(last.shape), range(-len(axes), 0), axes)


def _written(node: Node, types: Mapping[str, TensorType]) -> tuple[tuple[Node, ...], Mapping[str, TensorType]]:
    """Several axes as one: flattened before, and given back their shape behind."""
    if node.attrs.axes is None:
        return (node,), {}
    x, y = types[node.inputs[0]], node.outputs[0]
    flat, share = f"{y}.flat", f"{y}.flat_share"
    inner = TensorType(x.dtype, (math.prod(x.shape[: node.attrs.axis]), math.prod(x.shape[node.attrs.axis :])))
    parts = (
        replace(
            node, name=f"{node.name}.flatten", op_type="Flatten", outputs=(flat,), attrs=AxisAttrs(node.attrs.axis)
        ),
        replace(node, inputs=(flat,), outputs=(share,), attrs=SoftmaxAttrs(axis=1)),
        replace(node, name=f"{node.name}.shape", op_type="Reshape", inputs=(share,), attrs=ReshapeAttrs(x.shape)),
    )
    return parts, {flat: inner, share: inner}


OPS = tuple(
    OpDef(op_type=op_type, attrs=SoftmaxAttrs, canonical=_canonical, written=_written, to_float=to_float)
    for op_type, to_float in (("Softmax", _softmax), ("LogSoftmax", _log_softmax), ("Hardmax", _hardmax))
)
