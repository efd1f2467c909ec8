"""Normalizations. BatchNormalization is the diagonal case of `mac`; the others are float until a pass spells them out.

Statistics are taken in float32 at least, whatever the input's type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.ops.build import PlanView, per_layer_unless
from knerex_jax.ops.constraint import Constraint, Own
from knerex_jax.ops.mac import MacForm, mac_program
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.shape import ExpandAttrs, ReshapeAttrs


@dataclass(frozen=True)
class BatchNormAttrs:
    """Passes bring every node to epsilon 0, mean 0 and variance 1, so that scale and bias say everything."""

    epsilon: float = 1e-5
    momentum: float = 0.9
    spatial: int = 1
    training_mode: int = 0


@dataclass(frozen=True)
class LayerNormAttrs:
    """Also of RMSNormalization: statistics run over `axis` and all axes behind it."""

    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1


@dataclass(frozen=True)
class GroupNormAttrs:
    """Statistics run over the channels of a group and all spatial axes."""

    num_groups: int = 1
    epsilon: float = 1e-5
    stash_type: int = 1


@dataclass(frozen=True)
class InstanceNormAttrs:
    """Statistics run over the spatial axes."""

    epsilon: float = 1e-5


@dataclass(frozen=True)
class LpNormAttrs:
    """Divides by the p-norm along the axis."""

    axis: int = -1
    p: int = 2


@dataclass(frozen=True)
class MeanVarianceAttrs:
    """Mean 0 and variance 1 over the axes together."""

    axes: tuple[int, ...] = (0, 2, 3)


@dataclass(frozen=True)
class LRNAttrs:
    """Divides by (bias + alpha / size * squares of `size` neighbouring channels) ** beta."""

    size: int = 1
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _channelwise(v: Array, x: Array) -> Array:
    """Per-channel values [C] shaped to broadcast against x [N, C, ...]; other shapes already say where they belong."""
    return v.reshape((-1,) + (1,) * (x.ndim - 2)) if v.ndim == 1 else v


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(x - mean) / deviation, the mean and 1 / deviation, in float32 at least."""
    x = _wide(x)
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    inverse = 1 / jnp.sqrt((centred * centred).mean(axes, keepdims=True) + jnp.asarray(epsilon, x.dtype))
    return centred * inverse, mean, inverse


def _batch_norm(a: BatchNormAttrs, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Any:
    if a.training_mode:
        return _batch_norm_training(a, x, scale, bias, mean, var)
    factor = scale / jnp.sqrt(var + jnp.asarray(a.epsilon, var.dtype))
    return ((x - _channelwise(mean, x)) * _channelwise(factor, x) + _channelwise(bias, x)).astype(x.dtype)


def _batch_norm_training(
    a: BatchNormAttrs, x: Array, scale: Array, bias: Array, mean: Array, var: Array
) -> tuple[Array, Array, Array]:
    """Normalizes by the batch's own statistics; also gives the running ones."""
    axes = (0, *range(2, x.ndim))
    own_mean, own_var = _wide(x).mean(axes).astype(mean.dtype), _wide(x).var(axes).astype(var.dtype)
    y = _batch_norm(replace(a, training_mode=0), x, scale, bias, own_mean, own_var)
    old, new = jnp.asarray(a.momentum, mean.dtype), jnp.asarray(1 - a.momentum, mean.dtype)
    return y, mean * old + own_mean * new, var * old + own_var * new


def _layer_norm(a: LayerNormAttrs, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, Array, Array]:
    y, mean, inverse = _standardized(x, tuple(range(a.axis % x.ndim, x.ndim)), a.epsilon)
    y = y.astype(x.dtype) * scale
    return y if bias is None else y + bias, mean, inverse


def _rms_norm(a: LayerNormAttrs, x: Array, scale: Array) -> Array:
    wide = _wide(x)
    mean = (wide * wide).mean(tuple(range(a.axis % x.ndim, x.ndim)), keepdims=True)
    y = wide / jnp.sqrt(mean + jnp.asarray(a.epsilon, wide.dtype))
    return y.astype(x.dtype) * scale.astype(x.dtype)


def _instance_norm(a: InstanceNormAttrs, x: Array, scale: Array, bias: Array) -> Array:
    y = _standardized(x, tuple(range(2, x.ndim)), a.epsilon)[0]
    return (y * _channelwise(scale, x) + _channelwise(bias, x)).astype(x.dtype)


def _group_norm(a: GroupNormAttrs, x: Array, scale: Array, bias: Array) -> Array:
    channels = x.shape[1]
    grouped = x.reshape(x.shape[0], a.num_groups, -1)
    y = _standardized(grouped, (2,), a.epsilon)[0].reshape(x.shape)
    # Before opset 21 scale and bias had one entry per group.
    scale, bias = (jnp.repeat(v, channels // v.shape[0], total_repeat_length=channels) for v in (scale, bias))
    return (y * _channelwise(scale, x) + _channelwise(bias, x)).astype(x.dtype)


def _group_norm_written(
    node: Node, types: Mapping[str, TensorType]
) -> tuple[tuple[Node, ...], Mapping[str, TensorType]]:
    """One scale and bias per channel, as opset 21 wants them, where there is one per group."""
    groups, channels = node.attrs.num_groups, types[node.inputs[0]].shape[1]
    parts, inner, inputs = [], {}, list(node.inputs)
    for i, values in enumerate(node.inputs[1:], 1):
        if types[values].shape[0] == channels:
            continue
        shapes = ((groups, 1), (groups, channels // groups), (channels,))
        for k, shape in enumerate(shapes):
            made = f"{node.outputs[0]}.input{i}.{k}"
            op_type, attrs = ("Expand", ExpandAttrs(shape)) if k == 1 else ("Reshape", ReshapeAttrs(shape))
            parts.append(replace(node, name=made, op_type=op_type, inputs=(inputs[i],), outputs=(made,), attrs=attrs))
            inner[made] = TensorType(types[values].dtype, shape)
            inputs[i] = made
    return (*parts, replace(node, inputs=tuple(inputs))), inner


def _lp_norm(a: LpNormAttrs, x: Array) -> Array:
    size = jnp.abs(x).sum(a.axis, keepdims=True) if a.p == 1 else jnp.sqrt((x * x).sum(a.axis, keepdims=True))
    return jnp.where(size == 0, 0, x / jnp.where(size == 0, 1, size))


def _mean_variance(a: MeanVarianceAttrs, x: Array) -> Array:
    wide = _wide(x)
    centred = wide - wide.mean(a.axes, keepdims=True)
    deviation = jnp.sqrt((centred * centred).mean(a.axes, keepdims=True))
    return (centred / (deviation + jnp.asarray(1e-9, wide.dtype))).astype(x.dtype)


def _lrn(a: LRNAttrs, x: Array) -> Array:
    before = (a.size - 1) // 2
    window, pads = (1, a.size) + (1,) * (x.ndim - 2), [(0, 0)] * x.ndim
    pads[1] = (before, a.size - 1 - before)
    squares = lax.reduce_window(x * x, np.zeros((), x.dtype), lax.add, window, (1,) * x.ndim, pads)
    alpha, beta, bias = (jnp.asarray(v, x.dtype) for v in (a.alpha / a.size, a.beta, a.bias))
    return x / (bias + alpha * squares) ** beta


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (*per_layer_unless(view, node.inputs[0], 1), Own(node.outputs[0], 1))


def _mac(node: Node, model: Model) -> MacForm:
    scale, bias, mean, var = (model.constants[t] for t in node.inputs[1:5])
    assert not mean.any() and (var == 1).all() and node.attrs.epsilon == 0, f"{node.name} is not in normal form"
    return MacForm(
        weight=scale[:, None],
        bias=bias,
        feeding=np.arange(len(scale))[:, None],
        kind="diagonal",
        restore=lambda w: w[:, 0],
    )


def _batch_norm_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    # Until opset 13 the extra outputs were those of training, which a file for inference may name but never reads.
    return node if node.attrs.get("training_mode") else replace(node, outputs=node.outputs[:1])


BATCH_NORMALIZATION = OpDef(
    op_type="BatchNormalization", attrs=BatchNormAttrs, canonical=_batch_norm_canonical, to_float=_batch_norm,
    constrain=_constrain, to_program=mac_program, weight=1, mac=_mac,
)  # fmt: skip

OPS = (
    BATCH_NORMALIZATION,
    OpDef(op_type="LayerNormalization", attrs=LayerNormAttrs, to_float=_layer_norm),
    OpDef(op_type="RMSNormalization", attrs=LayerNormAttrs, to_float=_rms_norm),
    OpDef(op_type="InstanceNormalization", attrs=InstanceNormAttrs, to_float=_instance_norm),
    OpDef(op_type="GroupNormalization", attrs=GroupNormAttrs, written=_group_norm_written, to_float=_group_norm),
    OpDef(op_type="LpNormalization", attrs=LpNormAttrs, to_float=_lp_norm),
    OpDef(op_type="MeanVarianceNormalization", attrs=MeanVarianceAttrs, to_float=_mean_variance),
    OpDef(op_type="LRN", attrs=LRNAttrs, to_float=_lrn),
)
