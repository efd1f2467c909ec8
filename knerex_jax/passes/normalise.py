"""Rewrites that spell normalisations out: means, differences, squares, a root and a reciprocal, 15 bits inside."""

import math

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.passes.base import Emit, GraphBuilder, input_of, rewrite


def _number(b: GraphBuilder, node: Node, key: str, value: float) -> str:
    return b.new_constant(f"{node.name}.{key}", np.array(value, np.float32))


def _standardise(
    b: GraphBuilder, emit: Emit, node: Node, x: str, axes: tuple[int, ...], epsilon: float, *, centre: bool = True
) -> tuple[str, str, str]:
    """(x - mean) / sqrt(variance + epsilon), the mean ("" if not centred) and the reciprocal of the root.

    It normalises twice. Where variances differ by orders of magnitude, a 15-bit one leaves the small ones few steps, so
    that the first result is off by some factor near 1; its own variance is near 1 everywhere and removes that factor.
    """
    mean = emit("ReduceMean", x, axes=axes, keepdims=1, wide=True) if centre else ""
    d = emit("Sub", x, mean, wide=True) if centre else x
    coarse = _reciprocal_root(b, emit, node, d, axes, epsilon)
    y = emit("Mul", d, coarse, wide=True)
    correction = ""
    if epsilon:
        factor = _number(b, node, "epsilon", epsilon)
        correction = emit("Mul", emit("Mul", coarse, coarse, wide=True), factor, wide=True)
    fine = _reciprocal_root(b, emit, node, y, axes, correction)
    inverse = emit("Mul", coarse, fine, wide=True)
    return emit("Mul", y, fine, wide=True), mean, inverse


def _reciprocal_root(
    b: GraphBuilder, emit: Emit, node: Node, d: str, axes: tuple[int, ...], epsilon: float | str
) -> str:
    """1 / sqrt(mean of squares + epsilon), a number or a tensor."""
    variance = emit("ReduceMean", emit("Mul", d, d, wide=True), axes=axes, keepdims=1, wide=True)
    if epsilon:
        addend = epsilon if isinstance(epsilon, str) else _number(b, node, "epsilon", epsilon)
        variance = emit("Add", variance, addend, wide=True)
    return emit("Reciprocal", emit("Sqrt", variance, wide=True), wide=True)


def _affine(b: GraphBuilder, emit: Emit, x: str, scale: str, bias: str, shape: tuple[int, ...], output: str) -> None:
    """Emits x * scale + bias, both as vectors of that shape."""

    def shaped(t: str) -> str:
        value = b.constant(t)
        if value is None:
            return t if b.shape(t) == shape else emit("Reshape", t, shape=shape)
        return t if value.shape == shape else b.new_constant(f"{t}.shaped", value.reshape(shape))

    y = emit("Mul", x, shaped(scale), output=None if bias else output)
    if bias:
        emit("Add", y, shaped(bias), output=output)


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
    _affine(b, emit, y, scale, input_of(node, 2), b.shape(scale), node.outputs[0])
    for output, source in zip(node.outputs[1:], (mean, inverse), strict=False):
        if output:
            emit("Identity", source, output=output, name=f"{node.name}/{output}")


@rewrite("InstanceNormalization")
def spell_out_instance_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation over the spatial axes.

    Before: y = InstanceNormalization(x, scale, bias)
    After:  as `spell_out_layer_norm`, over the axes 2 and up, scale and bias per channel
    """
    x, scale, bias = node.inputs
    shape = b.shape(x)
    emit = b.replace(node)
    y, _, _ = _standardise(b, emit, node, x, tuple(range(2, len(shape))), node.attrs.epsilon)
    _affine(b, emit, y, scale, bias, (1, shape[1], *(1,) * (len(shape) - 2)), node.outputs[0])


@rewrite("GroupNormalization")
def spell_out_group_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation over groups of channels.

    Before: y = GroupNormalization(x, scale, bias), scale and bias [C] constants
    After:  Reshape to [N, groups, -1], as `spell_out_layer_norm` over the last axis, Reshape back, scale and bias
    """
    x, scale, bias = node.inputs
    shape, groups = b.shape(x), node.attrs.num_groups
    values = [b.constant(t) for t in (scale, bias)]
    repeated = [
        t if v is None or v.size == shape[1] else b.new_constant(f"{t}.repeated", np.repeat(v, shape[1] // v.size))
        for t, v in zip((scale, bias), values, strict=True)
    ]
    if any(b.shape(t) != (shape[1],) for t in repeated):
        return
    emit = b.replace(node)
    grouped = emit("Reshape", x, shape=(shape[0], groups, math.prod(shape[1:]) // groups))
    y, _, _ = _standardise(b, emit, node, grouped, (2,), node.attrs.epsilon)
    y = emit("Reshape", y, shape=shape, wide=True)
    _affine(b, emit, y, *repeated, (1, shape[1], *(1,) * (len(shape) - 2)), node.outputs[0])


@rewrite("MeanVarianceNormalization")
def spell_out_mean_variance(b: GraphBuilder, node: Node) -> None:
    """Spells out a normalisation without scale and bias.

    Before: y = MeanVarianceNormalization(x)
    After:  as `spell_out_layer_norm`, without an affine map
    """
    emit = b.replace(node)
    y, _, _ = _standardise(b, emit, node, node.inputs[0], tuple(node.attrs.axes), 0.0)
    emit("Identity", y, output=node.outputs[0], wide=False)


@rewrite("LpNormalization")
def spell_out_lp_norm(b: GraphBuilder, node: Node) -> None:
    """Spells out a division by a norm.

    Before: y = LpNormalization(x), p 1 or 2
    After:  y = x * Reciprocal(ReduceL1(x)) or x * Reciprocal(ReduceL2(x))
    """
    x = node.inputs[0]
    emit = b.replace(node)
    norm = emit(f"ReduceL{node.attrs.p}", x, axes=(node.attrs.axis % len(b.shape(x)),), keepdims=1, wide=True)
    emit("Mul", x, emit("Reciprocal", norm, wide=True), output=node.outputs[0])


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
