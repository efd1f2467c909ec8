"""How a function of one value becomes a table, computed once in float64; per layer on both sides."""

from collections.abc import Callable
from typing import Any

import numpy as np

from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import Built, PlanView, ProgramView
from knerex_jax.ops.constraint import Constraint, Layer, Own
from knerex_jax.ops.opdef import NoAttrs, OpDef
from knerex_jax.program.primitives import Table

Real = Callable[[np.ndarray], np.ndarray]
Function = Callable[[Node, Model], Real]
"""(node, model) -> function of float64 arrays, NaN-free: outside the domain, the value at its nearest point."""

Facts = Callable[[Node, PlanView], tuple[Constraint, ...]]


def table_integers(f: Real, x_factor: float, y_scale: float, y_radix: int, x_bits: int, y_bits: int) -> np.ndarray:
    """The output code for every input code, from the lowest up; int8 or int16."""
    low, high = data_limits(x_bits)
    with np.errstate(all="ignore"):
        real = f(np.arange(low, high + 1) / x_factor)
    assert not np.isnan(real).any(), "the function must map points outside its domain to the nearest point of it"
    y_low, y_high = data_limits(y_bits)
    with np.errstate(over="ignore"):
        codes = np.clip(np.rint(np.ldexp(real * y_scale, y_radix)), y_low, y_high)
    return codes.astype(np.int8 if y_bits == 8 else np.int16)


def table_facts(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    """Operand and result of a table are per layer."""
    x, y = node.inputs[0], node.outputs[0]
    return (Layer(x), Own(y, None), Layer(y))


def table_program(function: Function) -> Callable[[Node, ProgramView], Built]:
    """The `to_program` rule of an operator that is this function of its first input."""

    def to_program(node: Node, view: ProgramView) -> Built:
        x, y = node.inputs[0], node.outputs[0]
        fx, fy = view.formats[x], view.formats[y]
        table = table_integers(
            function(node, view.model), float(fx.factor[0]), float(fy.scale[0]), int(fy.radix[0]), fx.bits, fy.bits
        )
        instruction = Table(name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=fy.bits, x_bits=fx.bits)
        return ((instruction, {"table": table}),)

    return to_program


def table_op(
    op_type: str,
    to_float: Callable[..., Any],
    real: Callable[[Any, np.ndarray], np.ndarray],
    *facts: Facts,
    attrs: type = NoAttrs,
    **rules: Any,
) -> OpDef:
    """The record of an elementwise function; enough to register one's own.

    Args:
      op_type: name of the operator.
      to_float: (attrs, x) -> y on JAX arrays of any shape and float type.
      real: (attrs, x) -> y on float64 NumPy arrays, NaN-free for every x.
      *facts: further facts for the scale solver, e.g. analytic bounds.
      attrs: frozen dataclass of the operator's attributes.
      **rules: further fields of the record.
    """

    def constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
        return (*table_facts(node, view), *(fact for rule in facts for fact in rule(node, view)))

    def function(node: Node, model: Model) -> Real:
        return lambda x: real(node.attrs, x)

    return OpDef(
        op_type=op_type, attrs=attrs, to_float=to_float, constrain=constrain, to_program=table_program(function),
        **rules,
    )  # fmt: skip
