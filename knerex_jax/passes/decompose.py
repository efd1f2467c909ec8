"""Rewrites that spell an operator out in those that have an integer rule."""

import math
from itertools import accumulate

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.passes.base import GraphBuilder, rewrite


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


@rewrite("Split")
def split_to_slices(b: GraphBuilder, node: Node) -> None:
    """Cuts the parts out one by one.

    Before: y0, ..., yn = Split(x)
    After:  yi = Slice(x)
    """
    x = node.inputs[0]
    axis = node.attrs.axis % len(b.shape(x))
    ends = list(accumulate(b.shape(t)[axis] for t in node.outputs if t))
    assert "" not in node.outputs and ends[-1] == b.shape(x)[axis], f"{node.name}: a part of Split is unnamed"
    emit = b.replace(node)
    for output, start, end in zip(node.outputs, [0, *ends], ends, strict=False):
        emit("Slice", x, output=output, starts=(start,), ends=(end,), axes=(axis,), steps=(1,))


@rewrite("Softmax")
def spell_out_softmax(b: GraphBuilder, node: Node) -> None:
    """Spells softmax out, with the maximum taken off first so that no exponential exceeds 1.

    Before: y = Softmax(x)
    After:  e = Exp(Sub(x, ReduceMax(x))); y = Mul(e, Reciprocal(ReduceSum(e))), everything but y marked as wide
    """
    x, axes = node.inputs[0], (node.attrs.axis % len(b.shape(node.inputs[0])),)
    emit = b.replace(node)
    peak = emit("ReduceMax", x, axes=axes, keepdims=1, wide=True)
    e = emit("Exp", emit("Sub", x, peak, wide=True), wide=True)
    share = emit("Reciprocal", emit("ReduceSum", e, axes=axes, keepdims=1, wide=True), wide=True)
    emit("Mul", e, share, output=node.outputs[0])


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
        emit("Mul", x, emit("Reciprocal", d), output=node.outputs[0])


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


@rewrite("Gather")
def gather_to_slice(b: GraphBuilder, node: Node) -> None:
    """Takes neighbouring entries as a slice.

    Before: y = Gather(x, i), i one constant index or an evenly rising row of them, x computed
    After:  y = Slice(x), with a Reshape behind it where the axis disappears
    """
    x, indices = node.inputs[0], b.constant(node.inputs[1])
    if indices is None or indices.size == 0 or b.constant(x) is not None:
        return
    shape = b.shape(x)
    axis = node.attrs.axis % len(shape)
    where = indices.ravel() % shape[axis]
    step = int(where[1] - where[0]) if where.size > 1 else 1
    if (where.size > 1 and indices.ndim != 1) or step < 1 or not (np.diff(where) == step).all():
        return
    cut: dict[str, tuple[int, ...]] = {
        "starts": (int(where[0]),), "ends": (int(where[-1]) + 1,), "axes": (axis,), "steps": (step,)
    }  # fmt: skip
    emit = b.replace(node)
    if indices.ndim == 1:
        emit("Slice", x, output=node.outputs[0], **cut)
    else:
        assert math.prod(indices.shape) == 1
        emit("Reshape", emit("Slice", x, **cut), output=node.outputs[0], shape=b.shape(node.outputs[0]))
