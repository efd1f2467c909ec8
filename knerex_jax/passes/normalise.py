"""Rewrites that spell normalisations out: means, differences, squares, a root and a reciprocal, 15 bits inside."""

import math

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.passes.base import Emit, GraphBuilder, input_of, rewrite


def _number(b: GraphBuilder, node: Node, key: str, value: float) -> str:
    return b.new_constant(f"{node.name}.{key}", np.array(value, np.float32))


_TINY = 1e-12
"""Least divisor: nothing is divided by 0 where all that is divided is 0."""


def _standardise(
    b: GraphBuilder,
    emit: Emit,
    node: Node,
    x: str,
    axes: tuple[int, ...],
    epsilon: float,
    *,
    centre: bool = True,
    output: str | None = None,
) -> tuple[str, str, str]:
    """(x - mean) / sqrt(variance + epsilon), the mean ("" if not centred) and the reciprocal of the root.

    It normalises twice. Where variances differ by orders of magnitude, a 15-bit one leaves the small ones few steps, so
    that the first result is off by some factor near 1; its own variance is near 1 everywhere and removes that factor.
    """
    mean = emit("ReduceMean", x, axes=axes, keepdims=1, wide=True) if centre else ""
    d = emit("Sub", x, mean, wide=True) if centre else x
    addend = _number(b, node, "epsilon", epsilon) if epsilon else ""
    coarse = _reciprocal_root(emit, d, axes, addend)
    y = emit("Mul", d, coarse, wide=True)
    correction = emit("Mul", emit("Mul", coarse, coarse, wide=True), addend, wide=True) if addend else ""
    fine = _reciprocal_root(emit, y, axes, correction)
    inverse = emit("Mul", coarse, fine, wide=True)
    return emit("Mul", y, fine, output=output, wide=output is None), mean, inverse


def _reciprocal_root(emit: Emit, d: str, axes: tuple[int, ...], epsilon: str) -> str:
    """1 / sqrt(mean of squares + epsilon); without an epsilon ("") of at least `_TINY`."""
    variance = emit("ReduceMean", emit("Mul", d, d, wide=True), axes=axes, keepdims=1, wide=True)
    kept = emit("Add", variance, epsilon, wide=True) if epsilon else emit("Clip", variance, min=_TINY, wide=True)
    return emit("Reciprocal", emit("Sqrt", kept, wide=True), wide=True)


def _affine(emit: Emit, x: str, scale: str, bias: str, output: str) -> None:
    """Emits x * scale + bias (absent: "")."""
    y = emit("Mul", x, scale, output=None if bias else output)
    if bias:
        emit("Add", y, bias, output=output)


def _per_channel(b: GraphBuilder, emit: Emit, vector: str, rank: int) -> str:
    """A vector [C] as [C, 1, ...], which lies along axis 1 of a tensor of that rank."""
    value, shape = b.constant(vector), (b.shape(vector)[0], *(1,) * (rank - 2))
    if value is not None:
        return b.new_constant(f"{vector}.shaped", value.reshape(shape))
    return emit("Reshape", vector, shape=shape)


@rewrite("LayerNormalization", "RMSNormalization")
def spell_out_layer_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation over the trailing axes.

    Before: y = LayerNormalization(x, scale, bias) or RMSNormalization(x, scale)
    After:  d = Sub(x, ReduceMean(x)); y = d * Reciprocal(Sqrt(ReduceMean(d * d) + epsilon)) * scale + bias
    """
    x, scale = node.inputs[:2]
    rank, a = len(b.shape(x)), node.attrs
    axes = tuple(range(a.axis % rank, rank))
    emit = b.replace(node)
    centre = node.op_type == "LayerNormalization"
    y, mean, inverse = _standardise(b, emit, node, x, axes, a.epsilon, centre=centre)
    _affine(emit, y, scale, input_of(node, 2), node.outputs[0])
    for output, source in zip(node.outputs[1:], (mean, inverse), strict=False):
        if output:
            emit("Identity", source, output=output, name=f"{node.name}/{output}")


@rewrite("InstanceNormalization")
def spell_out_instance_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation over the spatial axes.

    Before: y = InstanceNormalization(x, scale, bias)
    After:  as `spell_out_layer_norm`, over the axes 2 and up, scale and bias per channel
    """
    x, *vectors = node.inputs
    rank = len(b.shape(x))
    if rank < 3:
        return
    emit = b.replace(node)
    y, _, _ = _standardise(b, emit, node, x, tuple(range(2, rank)), node.attrs.epsilon)
    scale, bias = (_per_channel(b, emit, t, rank) for t in vectors)
    _affine(emit, y, scale, bias, node.outputs[0])


@rewrite("GroupNormalization")
def spell_out_group_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation over groups of channels.

    Before: y = GroupNormalization(x, scale, bias), scale and bias [C], or constants [groups]
    After:  Reshape to [N, groups, -1], as `spell_out_layer_norm` over the last axis, Reshape back, scale and bias
    """
    x, *vectors = node.inputs
    shape, groups = b.shape(x), node.attrs.num_groups
    vectors = [_repeated(b, t, shape[1]) for t in vectors]
    if any(b.shape(t) != (shape[1],) for t in vectors):
        return
    emit = b.replace(node)
    grouped = emit("Reshape", x, shape=(shape[0], groups, math.prod(shape[1:]) // groups))
    y, _, _ = _standardise(b, emit, node, grouped, (2,), node.attrs.epsilon)
    y = emit("Reshape", y, shape=shape, wide=True)
    scale, bias = (_per_channel(b, emit, t, len(shape)) for t in vectors)
    _affine(emit, y, scale, bias, node.outputs[0])


def _repeated(b: GraphBuilder, vector: str, channels: int) -> str:
    """A constant with one entry per group as one with an entry per channel; anything else as it is."""
    value = b.constant(vector)
    if value is None or value.size == channels:
        return vector
    return b.new_constant(f"{vector}.repeated", np.repeat(value, channels // value.size))


@rewrite("MeanVarianceNormalization")
def spell_out_mean_variance(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation without scale and bias.

    Before: y = MeanVarianceNormalization(x)
    After:  as `spell_out_layer_norm`, without an affine map
    """
    _standardise(b, b.replace(node), node, node.inputs[0], tuple(node.attrs.axes), 0.0, output=node.outputs[0])


@rewrite("LpNormalization")
def spell_out_lp_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a division by a norm.

    Before: y = LpNormalization(x), p 1 or 2
    After:  y = x * Reciprocal(Clip(ReduceL1(x), 1e-12)), or the same with ReduceL2
    """
    x = node.inputs[0]
    emit = b.replace(node)
    norm = emit(f"ReduceL{node.attrs.p}", x, axes=(node.attrs.axis % len(b.shape(x)),), keepdims=1, wide=True)
    emit("Mul", x, emit("Reciprocal", emit("Clip", norm, min=_TINY, wide=True), wide=True), output=node.outputs[0])


@rewrite("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def spell_out_reductions(b: GraphBuilder, node: Node) -> None:
    """Writes a reduction of functions as functions of a ReduceSum.

    Before: y = ReduceL1(x), ReduceL2(x), ReduceSumSquare(x), ReduceLogSum(x) or ReduceLogSumExp(x)
    After:  y = S(Abs(x)), Sqrt(S(x * x)), S(x * x), Log(S(x)) or Log(S(Exp(x - m))) + m with m = ReduceMax(x)
    """
    x, y = node.inputs[0], node.outputs[0]
    if b.dtype(x) != "float32":
        return
    a, kind = node.attrs, node.op_type
    emit = b.replace(node)
    if kind == "ReduceL1":
        emit("ReduceSum", emit("Abs", x, wide=True), output=y, attrs=a)
    elif kind == "ReduceLogSum":
        emit("Log", emit("ReduceSum", x, attrs=a, wide=True), output=y)
    elif kind == "ReduceLogSumExp":
        peak = emit("ReduceMax", x, axes=a.axes, keepdims=1, noop_with_empty_axes=a.noop_with_empty_axes, wide=True)
        total = emit("ReduceSum", emit("Exp", emit("Sub", x, peak, wide=True), wide=True), attrs=a, wide=True)
        low = emit("Log", total, wide=True)
        emit("Add", low, peak if a.keepdims else emit("Reshape", peak, shape=b.shape(low), wide=True), output=y)
    elif kind == "ReduceSumSquare":
        emit("ReduceSum", emit("Mul", x, x, wide=True), output=y, attrs=a)
    else:
        emit("Sqrt", emit("ReduceSum", emit("Mul", x, x, wide=True), attrs=a, wide=True), output=y)


@rewrite("ReduceMean", "ReduceSum")
def sum_of_squares_to_matmul(b: GraphBuilder, node: Node) -> None:
    """Sums squares in one exact product: rounded one by one, the small ones would vanish beside the large ones.

    Before: y = ReduceSum(Mul(d, d)) or ReduceMean(Mul(d, d)) over the last axes, inside a normalisation
    After:  y = MatMul(d as a row, d as a column), times 1 / count for the mean
    """
    square = b.private_producer(node.inputs[0], "Mul")
    if not node.wide or square is None or square.inputs[0] != square.inputs[1] or b.dtype(node.inputs[0]) != "float32":
        return
    d = square.inputs[0]
    shape = b.shape(d)
    axes = reduced_axes(node.attrs, len(shape))
    if not axes or axes != tuple(range(axes[0], len(shape))):
        return
    lead, count = shape[: axes[0]], math.prod(shape[axes[0] :])
    emit = b.replace(square, node)
    row, column = emit("Reshape", d, shape=(*lead, 1, count)), emit("Reshape", d, shape=(*lead, count, 1))
    total = emit("MatMul", row, column)
    if node.op_type == "ReduceSum":
        emit("Reshape", total, output=node.outputs[0], shape=b.shape(node.outputs[0]))
        return
    kept = emit("Reshape", total, shape=b.shape(node.outputs[0]))
    emit("Mul", kept, _number(b, node, "share", 1 / count), output=node.outputs[0])
