"""Constants as data: full tensors that other operators take as an operand, and tables that indices look rows up in."""

import numpy as np

from knerex_jax.fixedpoint.qformat import QFormat, data_limits
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import Built, PlanView, ProgramView, moved
from knerex_jax.ops.constraint import Constraint, Own
from knerex_jax.ops.move import move_program
from knerex_jax.program.primitives import Const, Lookup


def constant_codes(values: np.ndarray, held: QFormat, axis: int | None) -> np.ndarray:
    """Codes of constants, int8 or int16: saturate(rint(x * scale * 2**radix)) in float64.

    Args:
      values: float array.
      held: format of the codes.
      axis: of `values`, along which the format's channels run.
    """
    factor = held.factor.reshape([-1 if i == axis and len(held.factor) > 1 else 1 for i in range(values.ndim)])
    codes = np.clip(np.rint(values.astype(np.float64) * factor), *data_limits(held.bits))
    return codes.astype(np.int8 if held.bits == 8 else np.int16)


# Identity: of a computed tensor a move, of a constant the operand that other nodes read


def is_constant_operand(node: Node, model: Model) -> bool:
    """Whether a node brings a constant in as data."""
    return node.op_type == "Identity" and not node.domain and node.inputs[0] in model.constants


def identity_facts(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    """A constant takes a scale of its own, along the channels of what it is combined with."""
    if not is_constant_operand(node, view.model):
        return moved(node, view, lambda x: x, one_to_one=True)
    y = node.outputs[0]
    shape = view.shape(y)
    for reader in view.model.graph.readers.get(y, ()):
        if reader.op_type == "MatMul":
            break
        for t in reader.inputs:
            axis = view.axes.get(t)
            if axis is not None and 0 <= (mine := axis + len(shape) - len(view.shape(t))) and shape[mine] > 1:
                return (Own(y, mine),)
    return (Own(y, None),)


def identity_program(node: Node, view: ProgramView) -> Built:
    """`const`, or a `move` that changes nothing but the radix."""
    if not is_constant_operand(node, view.model):
        return move_program(node, view, "reshape", (view.shape(node.outputs[0]),))
    y = node.outputs[0]
    held = view.formats[y]
    codes = constant_codes(view.model.constants[node.inputs[0]], held, held.axis)
    instruction = Const(name=node.name, inputs=(), output=y, nodes=(node.name,), bits=held.bits, axis=held.axis)
    return ((instruction, {"codes": codes}),)


# Gather: by constant indices a move, from a constant table a lookup


def gather_no_rule(node: Node, model: Model) -> str | None:
    """Why a Gather has no integer rule."""
    data, indices = (model.constant(t) for t in node.inputs)
    if data is not None:
        return None if data.dtype == np.float32 else "the table does not hold float32 numbers"
    return None if indices is not None and indices.ndim == 1 else "the data and the indices of Gather are both computed"


def _lookup_axis(node: Node, view: PlanView | ProgramView) -> tuple[int, int | None]:
    """The table's axis that is indexed, and the output's axis that the table's last one becomes (None: indexed)."""
    table = view.shape(node.inputs[0])
    at = node.attrs.axis % len(table)
    return at, None if at == len(table) - 1 else len(view.shape(node.outputs[0])) - 1


def gather_facts(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    """A lookup has a scale of its own along the table's last axis; a move keeps its scales."""
    if view.constant(node.inputs[0]) is not None:
        return (Own(node.outputs[0], _lookup_axis(node, view)[1]),)
    return moved(node, view, lambda x, i: np.take(np.asarray(x), np.asarray(i), axis=node.attrs.axis))


def gather_program(node: Node, view: ProgramView) -> Built:
    """`lookup`, or a `move` by constant indices."""
    x, indices, y = *node.inputs, node.outputs[0]
    table = view.constant(x)
    if table is None:
        held, size = view.constant(indices), view.shape(x)[node.attrs.axis]
        assert held is not None
        axis = node.attrs.axis % len(view.shape(x))
        return move_program(node, view, "gather", ((axis,), tuple(int(i) % size for i in held)))
    at, axis = _lookup_axis(node, view)
    held = view.formats[y]
    codes = constant_codes(table, held, None if axis is None else table.ndim - 1)
    instruction = Lookup(
        name=node.name, inputs=(indices,), output=y, nodes=(node.name,), bits=held.bits, axis=held.axis, at=at
    )
    return ((instruction, {"codes": codes}),)
