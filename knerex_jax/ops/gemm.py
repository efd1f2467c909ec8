"""Gemm and MatMul: the dense form of `mac`; MatMul of two activations."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import Built, PlanView, ProgramView, per_layer_unless
from knerex_jax.ops.constraint import Constraint, Layer, Own, Product
from knerex_jax.ops.mac import MacForm, mac_program
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import MatMul


@dataclass(frozen=True)
class GemmAttrs:
    """y = alpha * A' * B' + beta * C."""

    alpha: float = 1.0
    beta: float = 1.0
    transA: int = 0
    transB: int = 0


def _gemm(a: GemmAttrs, x: Array, w: Array, c: Array | None = None) -> Array:
    y = jnp.matmul(x.T if a.transA else x, w.T if a.transB else w, precision=lax.Precision.HIGHEST)
    y = y if a.alpha == 1 else y * jnp.asarray(a.alpha, y.dtype)
    return y if c is None else y + (c if a.beta == 1 else c * jnp.asarray(a.beta, y.dtype))


def _dense(weight: np.ndarray, bias: np.ndarray | None, axis: int, *, output_first: bool) -> MacForm:
    def turn(w: np.ndarray) -> np.ndarray:
        return w if output_first else w.T

    shape = weight.shape
    weight = turn(weight.reshape(shape[-2:]))
    outputs, inputs = weight.shape[0], weight.shape[-1]
    return MacForm(
        weight=weight, bias=None if bias is None else np.broadcast_to(bias.reshape(-1), (outputs,)),
        feeding=np.broadcast_to(np.arange(inputs), (outputs, inputs)), kind="dense", axis=axis,
        restore=lambda w: turn(w).reshape(shape),
    )  # fmt: skip


def _gemm_mac(node: Node, model: Model) -> MacForm:
    a: GemmAttrs = node.attrs
    assert a.alpha == a.beta == 1 and not a.transA, f"{node.name} is not in normal form"
    weight = model.constants[node.inputs[1]]
    bias = model.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return _dense(weight, bias, 1, output_first=bool(a.transB))


def _matmul_mac(node: Node, model: Model) -> MacForm:
    return _dense(
        model.constants[node.inputs[1]], None, len(model.graph.shape(node.outputs[0])) - 1, output_first=False
    )


def _matmul(attrs: object, x: Array, w: Array) -> Array:
    return jnp.matmul(x, w, precision=lax.Precision.HIGHEST)


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    last = len(view.shape(y)) - 1
    if view.constant(w) is not None:
        return (*per_layer_unless(view, x, len(view.shape(x)) - 1), Own(y, last))
    return (Layer(x), Layer(w), Layer(y), Product(y, (x, w)))


def _matmul_program(node: Node, view: ProgramView) -> Built:
    if node.inputs[1] in view.model.constants:
        return mac_program(node, view)
    a, b, y = (view.formats[t] for t in (*node.inputs, node.outputs[0]))
    n = check_shift(a.radix.astype(np.int64) + b.radix - y.radix, node.name, "the product")
    instruction = MatMul(
        name=node.name,
        inputs=node.inputs,
        output=node.outputs[0],
        nodes=(node.name,),
        bits=y.bits,
        x_bits=(a.bits, b.bits),
    )
    return ((instruction, {"n": n}),)


GEMM = OpDef(
    op_type="Gemm",
    attrs=GemmAttrs,
    to_float=_gemm,
    constrain=_constrain,
    to_program=mac_program,
    weight=1,
    mac=_gemm_mac,
)
MATMUL = OpDef(
    op_type="MatMul", to_float=_matmul, constrain=_constrain, to_program=_matmul_program, weight=1, mac=_matmul_mac
)

OPS = (GEMM, MATMUL)
