"""Rewrites that spell an operator out in those that have an integer rule."""

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.ops.softmax import softmax_axes
from knerex_jax.passes.base import Emit, GraphBuilder, rewrite


@rewrite("Sum")
def sum_to_adds(b: GraphBuilder, node: Node) -> None:
    """Adds operands two by two.

    Before: y = Sum(x0, x1, ..., xn)
    After:  y = Add(...Add(x0, x1)..., xn); of one operand: the operand
    """
    if len(node.inputs) == 1:
        b.bypass(node, node.inputs[0])
        return
    emit = b.replace(node)
    total, *others = node.inputs
    for i, other in enumerate(others):
        total = emit("Add", total, other, output=node.outputs[0] if i == len(others) - 1 else None)


@rewrite("Softmax")
def spell_out_softmax(b: GraphBuilder, node: Node) -> None:
    """Spells softmax out, with the maximum taken off first so that no exponential exceeds 1.

    Before: y = Softmax(x)
    After:  e = Exp(Sub(x, ReduceMax(x))); y = Mul(e, Reciprocal(ReduceSum(e))), everything but y marked as wide
    """
    x = node.inputs[0]
    axes = softmax_axes(node.attrs, len(b.shape(x)))
    emit = b.replace(node)
    e = emit("Exp", _below_peak(emit, x, axes), wide=True)
    share = emit("Reciprocal", emit("ReduceSum", e, axes=axes, keepdims=1, wide=True), wide=True)
    emit("Mul", e, share, output=node.outputs[0])


@rewrite("LogSoftmax")
def spell_out_log_softmax(b: GraphBuilder, node: Node) -> None:
    """Spells the logarithm of a softmax out.

    Before: y = LogSoftmax(x)
    After:  d = Sub(x, ReduceMax(x)); y = Sub(d, Log(ReduceSum(Exp(d)))), everything but y marked as wide
    """
    x = node.inputs[0]
    axes = softmax_axes(node.attrs, len(b.shape(x)))
    emit = b.replace(node)
    d = _below_peak(emit, x, axes)
    total = emit("ReduceSum", emit("Exp", d, wide=True), axes=axes, keepdims=1, wide=True)
    emit("Sub", d, emit("Log", total, wide=True), output=node.outputs[0])


def _below_peak(emit: Emit, x: str, axes: tuple[int, ...]) -> str:
    return emit("Sub", x, emit("ReduceMax", x, axes=axes, keepdims=1, wide=True), wide=True)


@rewrite("Div")
def divide_by_reciprocal(b: GraphBuilder, node: Node) -> None:
    """Divides by multiplying.

    Before: y = Div(x, d), float32
    After:  y = Mul(x, Reciprocal(d)); the reciprocal of a constant is a constant; Div(1, d) is the Reciprocal alone
    """
    x, d = node.inputs
    if b.dtype(node.outputs[0]) != "float32":
        return
    divisor, dividend = b.constant(d), b.constant(x)
    if divisor is not None:
        with np.errstate(divide="ignore"):
            inverse = (1 / divisor.astype(np.float64)).astype(np.float32)
        if not np.isfinite(inverse).all():
            return
        emit = b.replace(node)
        emit("Mul", x, b.new_constant(f"{node.name}.factor", inverse), output=node.outputs[0])
    elif dividend is not None and (dividend == 1).all() and b.shape(d) == b.shape(node.outputs[0]):
        b.replace(node)("Reciprocal", d, output=node.outputs[0])
    else:
        emit = b.replace(node)
        emit("Mul", x, emit("Reciprocal", d, wide=True), output=node.outputs[0])


@rewrite("Pow")
def plain_powers(b: GraphBuilder, node: Node) -> None:
    """Writes powers that have an operator of their own with it.

    Before: y = Pow(x, c), c 2, 1/2 or -1
    After:  y = Mul(x, x), Sqrt(x) or Reciprocal(x)
    """
    x, exponent = node.inputs[0], b.constant(node.inputs[1])
    if exponent is None or exponent.size != 1 or b.dtype(x) != "float32" or b.shape(x) != b.shape(node.outputs[0]):
        return
    if exponent.item() == 2:
        b.replace(node)("Mul", x, x, output=node.outputs[0])
    elif exponent.item() in (0.5, -1):
        b.replace(node)("Sqrt" if exponent.item() > 0 else "Reciprocal", x, output=node.outputs[0])


@rewrite("Swish")
def spell_out_swish(b: GraphBuilder, node: Node) -> None:
    """Spells SiLU out.

    Before: y = Swish(x), alpha
    After:  y = Mul(x, Sigmoid(alpha * x))
    """
    x, alpha = node.inputs[0], node.attrs.alpha
    emit = b.replace(node)
    scaled = x if alpha == 1 else emit("Mul", x, b.new_constant(f"{node.name}.alpha", np.array(alpha, np.float32)))
    emit("Mul", x, emit("Sigmoid", scaled), output=node.outputs[0])


@rewrite("Mean")
def mean_to_sum(b: GraphBuilder, node: Node) -> None:
    """Averages operands by adding them.

    Before: y = Mean(x0, ..., xn)
    After:  y = Mul(Sum(x0, ..., xn), 1 / (n + 1))
    """
    if b.dtype(node.outputs[0]) != "float32":
        return
    share = b.new_constant(f"{node.name}.share", np.array(1 / len(node.inputs), np.float32))
    emit = b.replace(node)
    emit("Mul", emit("Sum", *node.inputs), share, output=node.outputs[0])


@rewrite("LRN")
def spell_out_lrn(b: GraphBuilder, node: Node) -> None:
    """Spells a local response normalisation out; its sum over neighbouring channels is a 1x1 convolution.

    Before: y = LRN(x)
    After:  y = Mul(x, Pow(Conv(x * x) + bias, -beta)), the weights alpha / size near the diagonal
    """
    x, a = node.inputs[0], node.attrs
    shape = b.shape(x)
    gap = np.arange(shape[1]) - np.arange(shape[1])[:, None]  # input channel - output channel
    near = (gap >= -((a.size - 1) // 2)) & (gap <= a.size // 2)
    weight = np.where(near, a.alpha / a.size, 0).astype(np.float32).reshape(*near.shape, *(1,) * (len(shape) - 2))
    n = len(shape) - 2
    constants = [
        b.new_constant(f"{node.name}.weight", weight),
        b.new_constant(f"{node.name}.bias", np.full(shape[1], a.bias, np.float32)),
    ]
    power = b.new_constant(f"{node.name}.power", np.array(-a.beta, np.float32))
    emit = b.replace(node)
    total = emit(
        "Conv", emit("Mul", x, x, wide=True), *constants, kernel_shape=(1,) * n, strides=(1,) * n, dilations=(1,) * n,
        pads=(0,) * (2 * n), wide=True,
    )  # fmt: skip
    emit("Mul", x, emit("Pow", total, power, wide=True), output=node.outputs[0])


@rewrite("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def keep_reduced_axes(b: GraphBuilder, node: Node) -> None:
    """Separates the reduction from the loss of its axes.

    Before: y = ReduceX(x), keepdims 0
    After:  y = Reshape(ReduceX(x)), keepdims 1
    """
    if node.attrs.keepdims:
        return
    axes = reduced_axes(node.attrs, len(b.shape(node.inputs[0])))
    emit = b.replace(node)
    reduced = emit(node.op_type, *node.inputs, axes=axes, keepdims=1)
    emit("Reshape", reduced, output=node.outputs[0], shape=b.shape(node.outputs[0]))
