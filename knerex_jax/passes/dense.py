"""Rewrites of dense layers to the one form that has an integer rule."""

import math

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.passes.base import Emit, GraphBuilder, input_of, rewrite
from knerex_jax.passes.fold import is_normal_gemm, rounded


@rewrite("Gemm")
def normalise_gemm(b: GraphBuilder, node: Node) -> None:
    """Brings a dense layer with constant weights to its one form.

    Before: y = alpha * x' w' + beta * c, any transpositions, c of any shape
    After:  y = Gemm(x, w, c), alpha = beta = 1, w [O, I] (transB 1), c absent or [O]; a Transpose before it and an Add
            behind it where they are needed
    """
    a, weight = node.attrs, b.constant(node.inputs[1])
    c = input_of(node, 2)
    rows, columns = b.shape(node.outputs[0])
    plain = not c or (b.constant(c) is not None and b.shape(c) == (columns,))
    if weight is None or b.dtype(node.inputs[0]) != "float32" or (plain and is_normal_gemm(node)):
        return
    bias = _row(b.constant(c), rows, columns) if c else None
    emit = b.replace(node)
    x = emit("Transpose", node.inputs[0], perm=(1, 0)) if a.transA else node.inputs[0]
    turned = weight if a.transB else weight.T
    weights = [b.new_constant(f"{node.name}.weight", rounded(turned.astype(np.float64) * a.alpha))]
    if bias is not None:
        weights.append(b.new_constant(f"{node.name}.bias", rounded(bias * a.beta)))
    apart = bool(c) and bias is None and a.beta != 0
    y = emit("Gemm", x, *weights, output=None if apart else node.outputs[0], transB=1)
    if apart:
        emit("Add", y, _scaled(b, emit, node, c, a.beta), output=node.outputs[0])


@rewrite("Gemm")
def gemm_of_computed_to_matmul(b: GraphBuilder, node: Node) -> None:
    """Spells out a Gemm whose second operand is computed.

    Before: y = Gemm(a, b, c), b computed
    After:  y = MatMul(a', b') * alpha + beta * c, with only the factors and Transposes it needs
    """
    a = node.attrs
    if b.constant(node.inputs[1]) is not None:
        return
    c = input_of(node, 2) if a.beta != 0 else ""
    emit = b.replace(node)
    left = emit("Transpose", node.inputs[0], perm=(1, 0)) if a.transA else node.inputs[0]
    right = emit("Transpose", node.inputs[1], perm=(1, 0)) if a.transB else node.inputs[1]
    last = node.outputs[0]
    y = emit("MatMul", left, right, output=None if c or a.alpha != 1 else last)
    if a.alpha != 1:
        y = emit("Mul", y, _scalar(b, node, "alpha", a.alpha), output=None if c else last)
    if c:
        emit("Add", y, _scaled(b, emit, node, c, a.beta), output=last)


@rewrite("MatMul")
def matmul_to_gemm(b: GraphBuilder, node: Node) -> None:
    """Writes a matrix product with constant weights as a dense layer, so that an Add behind it becomes its bias.

    Before: y = MatMul(x, w), x of rank 2 or more, w [..1, I, O] constant
    After:  y = Gemm(x, w transposed), transB 1, between two Reshapes where x has more than two axes
    """
    x, weight, shape = node.inputs[0], b.constant(node.inputs[1]), b.shape(node.outputs[0])
    if weight is None or weight.ndim < 2 or weight.size != math.prod(weight.shape[-2:]) or weight.dtype != np.float32:
        return
    if b.constant(x) is not None or len(b.shape(x)) < 2:
        return
    emit = b.replace(node)
    matrix = b.new_constant(f"{node.name}.weight", weight.reshape(weight.shape[-2:]).T)
    if len(shape) == 2:
        emit("Gemm", x, matrix, output=node.outputs[0], transB=1)
        return
    rows = emit("Reshape", x, shape=(math.prod(shape[:-1]), b.shape(x)[-1]))
    emit("Reshape", emit("Gemm", rows, matrix, transB=1), output=node.outputs[0], shape=shape)


def _row(c: np.ndarray | None, rows: int, columns: int) -> np.ndarray | None:
    """A constant added to [rows, columns] as one float64 row, if all rows get the same."""
    if c is None:
        return None
    full = np.broadcast_to(c.astype(np.float64), (rows, columns))
    return full[0] if (full == full[0]).all() else None


def _scalar(b: GraphBuilder, node: Node, name: str, value: float) -> str:
    return b.new_constant(f"{node.name}.{name}", np.array(value, np.float32))


def _scaled(b: GraphBuilder, emit: Emit, node: Node, c: str, beta: float) -> str:
    """The tensor beta * c, a constant where c is one."""
    value = b.constant(c)
    if beta == 1:
        return c
    if value is not None:
        return b.new_constant(f"{node.name}.addend", rounded(value.astype(np.float64) * beta))
    return emit("Mul", c, _scalar(b, node, "beta", beta))
