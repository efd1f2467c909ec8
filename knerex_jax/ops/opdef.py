"""What we know of an operator: one frozen record of pure rules per operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from knerex_jax.graph.ir import Node, TensorType
from knerex_jax.ops.constraint import Constraint

if TYPE_CHECKING:
    from knerex_jax.graph.ir import Model
    from knerex_jax.ops.build import ActSpec, Built, PlanView, ProgramView
    from knerex_jax.ops.mac import MacForm

Condition = Callable[[Node, Mapping[str, TensorType]], str | None]
"""Platform predicate: None when the node fits, else the reason; its docstring is the rule as the user reads it."""


@dataclass(frozen=True)
class NoAttrs:
    """Attributes of an operator that has none."""


def unchanged(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    """`canonical` of operators whose history changed only element types."""
    return node


def _no_constraint(node: Node, view: "PlanView") -> tuple[Constraint, ...]:
    return ()


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
      to_float: (attrs, *inputs) -> output or tuple of outputs; plain ONNX semantics on arrays of any batch size; absent
        inputs are None.
      constrain: facts the scale solver must respect.
      to_program: instructions and integer constants for a node; None makes it a float island.
      weight: index of the input that makes the node a weighted one (a `mac`) when it is a constant.
      mac: the weights of a weighted node, in the one form that planning, scaling and assembly share.
      activation: what the node does as an activation behind an accumulator; None if it is none.
      support: platform name -> condition; absent: not on the NPU.
    """

    op_type: str
    attrs: type = NoAttrs
    static_inputs: tuple[tuple[int, str], ...] = ()
    canonical: Callable[[Node, int, Mapping[str, tuple[int, ...]]], Node] = unchanged
    to_float: Callable[..., Any]
    constrain: Callable[[Node, "PlanView"], tuple[Constraint, ...]] = _no_constraint
    to_program: Callable[[Node, "ProgramView"], "Built"] | None = None
    weight: int | None = None
    mac: "Callable[[Node, Model], MacForm] | None" = None
    activation: "Callable[[Node, Model], ActSpec] | None" = None
    support: Mapping[str, Condition] = field(default_factory=dict)


def as_ints(value: Any) -> tuple[int, ...]:
    """A shape-like constant or attribute as a tuple of ints."""
    return tuple(int(v) for v in np.atleast_1d(value))
