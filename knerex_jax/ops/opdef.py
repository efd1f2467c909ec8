"""What we know of an operator: one frozen record of pure rules per operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.ops.constraint import Constraint

if TYPE_CHECKING:
    from knerex_jax.ops.build import ActSpec, Built, PlanView, ProgramView
    from knerex_jax.ops.mac import MacForm

Condition = Callable[[Node, Model], str | None]
"""Platform predicate: None when a bound node fits, else "reason: suggested rewrite"; its docstring is the rule."""


@dataclass(frozen=True)
class NoAttrs:
    """Attributes of an operator that has none."""


def unchanged(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    """`canonical` of operators whose history changed only element types."""
    return node


def _no_constraint(node: Node, view: "PlanView") -> tuple[Constraint, ...]:
    return ()


def _has_rule(node: Node, model: "Model") -> str | None:
    return None


def _as_it_is(node: Node, types: Mapping[str, TensorType]) -> tuple[tuple[Node, ...], Mapping[str, TensorType]]:
    return (node,), {}


@dataclass(frozen=True, kw_only=True)
class OpDef:
    """All we know about one operator. Rules are pure functions; none reads global state.

    Attributes:
      op_type: ONNX name (for a custom operator: its own).
      attrs: frozen dataclass of typed attributes; fields carry the ONNX attribute names and have defaults. A field that
        is None is absent.
      static_inputs: (input index, attribute field) pairs: shape-like inputs that must be constants. Reading moves them
        into `attrs`, writing turns them back into inputs, so that old attribute forms and new input forms are one.
      canonical: (node with a dict of raw attributes, opset, input shapes) -> the one form all other rules see.
      written: (node, types of all tensors) -> the typed nodes of ONNX that stand for it in a file, and the types of the
        tensors between them; needed where no single node can say what the canonical form says.
      to_float: (attrs, *inputs) -> output or tuple of outputs; plain ONNX semantics on arrays of any batch size; absent
        inputs are None.
      to_float_among: for an operator whose attributes hold graphs: the operators that these may use -> its `to_float`.
      constrain: facts the scale solver must respect.
      to_program: instructions and integer constants for a node; None makes it a float island.
      no_rule: (node, model) -> why the node has no integer rule in this form, which makes it a float island, too; None
        if it has one.
      reads_plain: its integer rule takes computed integers (indices) beside codes.
      weight: index of the input that makes the node a weighted one (a `mac`) when it is a constant.
      mac: the weights of a weighted node, in the one form that planning, scaling and assembly share.
      activation: what the node does as an activation behind an accumulator; None if it is none.
      support: platform name -> condition; absent: not on the NPU.
    """

    op_type: str
    attrs: type = NoAttrs
    static_inputs: tuple[tuple[int, str], ...] = ()
    canonical: Callable[[Node, int, Mapping[str, tuple[int, ...]]], Node] = unchanged
    written: Callable[[Node, Mapping[str, TensorType]], tuple[tuple[Node, ...], Mapping[str, TensorType]]] = _as_it_is
    to_float: Callable[..., Any]
    to_float_among: "Callable[[Mapping[str, OpDef]], Callable[..., Any]] | None" = None
    constrain: Callable[[Node, "PlanView"], tuple[Constraint, ...]] = _no_constraint
    to_program: Callable[[Node, "ProgramView"], "Built"] | None = None
    no_rule: "Callable[[Node, Model], str | None]" = _has_rule
    reads_plain: bool = False
    weight: int | None = None
    mac: "Callable[[Node, Model], MacForm] | None" = None
    activation: "Callable[[Node, Model], ActSpec] | None" = None
    support: Mapping[str, Condition] = field(default_factory=dict)


def island_reason(node: Node, model: "Model", op: OpDef) -> str | None:
    """Why a node cannot be computed in integers; None if it can."""
    if op.to_program is None:
        return f"{node.op_type} has no integer rule"
    return op.no_rule(node, model)


def as_ints(value: Any) -> tuple[int, ...]:
    """A shape-like constant or attribute as a tuple of ints."""
    return tuple(int(v) for v in np.atleast_1d(value))
