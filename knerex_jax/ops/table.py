"""Functions of one value: by table, computed once in float64. Per layer on both sides."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import Built, PlanView, ProgramView
from knerex_jax.ops.constraint import Bound, Constraint, Layer, Own
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Table


def table_integers(
    f: Callable[[np.ndarray], np.ndarray], x_factor: float, y_scale: float, y_radix: int, x_bits: int, y_bits: int
) -> np.ndarray:
    """The output code for every input code, from the lowest up; int8 or int16."""
    low, high = data_limits(x_bits)
    with np.errstate(all="ignore"):
        real = f(np.arange(low, high + 1) / x_factor)
    assert not np.isnan(real).any(), "the function must map points outside its domain to the nearest point of it"
    y_low, y_high = data_limits(y_bits)
    with np.errstate(over="ignore"):
        codes = np.clip(np.rint(np.ldexp(real * y_scale, y_radix)), y_low, y_high)
    return codes.astype(np.int8 if y_bits == 8 else np.int16)


def softmax_difference(node: Node | None, view: PlanView) -> bool:
    """Whether a node subtracts the maximum of what it subtracts from, so that its output is never positive."""
    if node is None or node.op_type != "Sub":
        return False
    peak = view.producer(node.inputs[1])
    return peak is not None and peak.op_type == "ReduceMax" and peak.inputs[0] == node.inputs[0]


def _per_layer(
    *bounds: Callable[[Node, PlanView], tuple[Constraint, ...]],
) -> Callable[[Node, PlanView], tuple[Constraint, ...]]:
    def constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
        x, y = node.inputs[0], node.outputs[0]
        return (Layer(x), Own(y, None), Layer(y), *(fact for rule in bounds for fact in rule(node, view)))

    return constrain


def _at_most_one(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (Bound(node.outputs[0], 1.0),)


def _exp_bounds(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    if not softmax_difference(view.producer(node.inputs[0]), view):
        return ()
    # exp(-11) is below half a step of the 15-bit result; a wider range would only waste codes.
    return (Bound(node.inputs[0], 11.0), Bound(node.outputs[0], 1.0))


def _reciprocal_bounds(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    total = view.producer(node.inputs[0])
    exp = view.producer(total.inputs[0]) if total is not None and total.op_type == "ReduceSum" else None
    softmax = exp is not None and exp.op_type == "Exp" and softmax_difference(view.producer(exp.inputs[0]), view)
    # The largest term of a softmax sum is exp(0), so the sum is at least 1.
    return (Bound(node.outputs[0], 1.0),) if softmax else ()


def _to_program(node: Node, view: ProgramView) -> Built:
    x, y = node.inputs[0], node.outputs[0]
    fx, fy = view.formats[x], view.formats[y]
    table = table_integers(
        DOUBLE[node.op_type], float(fx.factor[0]), float(fy.scale[0]), int(fy.radix[0]), fx.bits, fy.bits
    )
    instruction = Table(name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=fy.bits, x_bits=fx.bits)
    return ((instruction, {"table": table}),)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


DOUBLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Log": lambda x: np.log(np.maximum(x, 0)),
    "Sqrt": lambda x: np.sqrt(np.maximum(x, 0)),
    "Reciprocal": lambda x: 1 / x,
}
"""op_type -> function of float64 arrays, NaN-free: outside the domain, the value at its nearest point."""


def _op(
    op_type: str, to_float: Callable[[Any], Any], *bounds: Callable[[Node, PlanView], tuple[Constraint, ...]]
) -> OpDef:
    return OpDef(
        op_type=op_type, to_float=lambda a, x: to_float(x), constrain=_per_layer(*bounds), to_program=_to_program
    )


OPS = (
    _op("Sigmoid", jax.nn.sigmoid, _at_most_one),
    _op("Tanh", jnp.tanh, _at_most_one),
    _op("Exp", jnp.exp, _exp_bounds),
    _op("Log", jnp.log),
    _op("Sqrt", jnp.sqrt),
    _op("Reciprocal", lambda x: 1 / x, _reciprocal_bounds),
)
