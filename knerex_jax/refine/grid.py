"""Weights as numbers on the grid of their node, and models whose float weights lie on it. Section 4 of the contract.

A weight code is rint(W * unit), with a `unit` that follows from the plan alone, except that the radix and scale of the
weights follow from the largest weight of each output channel. So codes can be chosen by choosing float weights: every
weight becomes `code / unit`, and those that decide the range of their channel stay as they are, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.mac import MacForm
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Mac
from knerex_jax.quantize.planner import Planned

# Weights this close to the largest of their channel stay: moved, float32 rounding could make them the largest.
_TOP = 1.0 - 2.0**-20


@dataclass(frozen=True)
class WeightGrid:
    """The weights of one weighted node in units of its codes.

    Attributes:
      form: the node's weights; arrays below are shaped like `form.weight`, [O, J, *kernel], or broadcast against it.
      unit: float64 [O, J, 1...], codes per real unit of a weight.
      exact: float64, the weights in code units: what the codes are rounded from.
      codes: int32, the codes of the program.
      held: bool, weights that decide the range of their output channel; their codes must not change.
      limit: int32 [O, 1, 1...], largest |code| of the others.
      accumulator: float64 [O], units of the node's sum of products per real unit of its output.
    """

    form: MacForm
    unit: np.ndarray
    exact: np.ndarray
    codes: np.ndarray
    held: np.ndarray
    limit: np.ndarray
    accumulator: np.ndarray


def mac_instructions(planned: Planned) -> tuple[Mac, ...]:
    """The weighted nodes of a program, in execution order; each is named like its node."""
    return tuple(i for i in planned.program.instructions if isinstance(i, Mac))


def weight_grid(planned: Planned, mac: Mac, registry: Mapping[str, OpDef] = REGISTRY) -> WeightGrid:
    """The grid of one weighted node, from its float weights in `planned.refined` and its formats."""
    node = planned.refined.graph.node[mac.name]
    rule = op_of(node, registry).mac
    assert rule is not None, f"{mac.name} is no weighted node"
    form = rule(node, planned.refined)
    integers = planned.constants[mac.name]
    w_radix, w_scale = integers["weight_radix"].astype(np.int64), integers["weight_scale"].astype(np.float64)
    x, y = (planned.plan.formats[t] for t in (mac.inputs[0], mac.output))
    outputs, channels = len(form.weight), int(form.feeding.max()) + 1
    x_scale = np.broadcast_to(x.scale, (channels,)).astype(np.float64)[form.feeding]
    x_radix = np.broadcast_to(x.radix, (channels,)).astype(np.int64)[form.feeding]
    y_scale = np.broadcast_to(1.0 if mac.act == "hard_swish" else y.scale, (outputs,)).astype(np.float64)
    x_ref = x_radix.min(axis=1)
    unit = np.ldexp(y_scale[:, None] / x_scale, x_ref[:, None] - x_radix) * np.ldexp(w_scale, w_radix)[:, None]
    spread = (...,) + (None,) * (form.weight.ndim - 2)
    exact = form.weight.astype(np.float64) * unit[spread]
    size = np.abs(exact)
    top = size.max(axis=tuple(range(1, exact.ndim)), keepdims=True) * _TOP
    return WeightGrid(
        form=form, unit=unit[spread], exact=exact, codes=np.rint(exact).astype(np.int32), held=size >= top,
        limit=np.rint(top).astype(np.int32), accumulator=np.ldexp(y_scale * w_scale, w_radix + x_ref),
    )  # fmt: skip


def grid_weights(grid: WeightGrid, codes: np.ndarray) -> np.ndarray:
    """Float32 weights like `form.weight` from which the planner makes exactly these codes.

    Args:
      grid: of the node.
      codes: int, shaped like `grid.codes`; as there where `grid.held`, within `grid.limit` elsewhere.
    """
    assert (codes == grid.codes)[grid.held].all(), "the weights that decide the range of a channel cannot move"
    assert (np.abs(codes) <= grid.limit)[~grid.held].all(), "a code is beyond the largest of its channel"
    spread = tuple(range(1, codes.ndim))
    top = np.abs(grid.exact).max(axis=spread, keepdims=True) * _TOP
    # The largest code may stand for slightly more than the largest weight, whose place no other may take.
    places = np.clip(codes, -top, top)
    return np.where(grid.held, grid.form.weight, places / grid.unit).astype(np.float32)


def with_codes(planned: Planned, codes: Mapping[str, np.ndarray], registry: Mapping[str, OpDef] = REGISTRY) -> Model:
    """`planned.refined` with weights from which `refine_plan` makes the given codes, everything else unchanged.

    Args:
      planned: what was planned.
      codes: weighted node -> int codes [O, J, *kernel], within its `WeightGrid`.
      registry: operator records.
    """
    model = planned.refined
    for mac in mac_instructions(planned):
        if mac.name in codes:
            grid = weight_grid(planned, mac, registry)
            model = with_weights(model, mac.name, grid.form.restore(grid_weights(grid, codes[mac.name])), registry)
    return model


def on_grid(planned: Planned, registry: Mapping[str, OpDef] = REGISTRY) -> Model:
    """`planned.refined` with every weight replaced by the value its code stands for; the codes are the same.

    The weight that decides the range of its output channel keeps its value: it is within float32 rounding of its code,
    unless wide partial sums limit the codes of its channel.
    """
    return with_codes(
        planned, {m.name: weight_grid(planned, m, registry).codes for m in mac_instructions(planned)}, registry
    )


def with_weights(model: Model, name: str, weight: np.ndarray, registry: Mapping[str, OpDef] = REGISTRY) -> Model:
    """The model with other weights for one node; a constant that something else reads, too, is left to that."""
    graph = model.graph
    node = graph.node[name]
    index = op_of(node, registry).weight
    assert index is not None
    held = node.inputs[index]
    weight = weight.astype(model.constants[held].dtype).reshape(model.constants[held].shape)
    if _uses(graph.nodes, held) == 1 and held not in graph.outputs:
        return replace(model, constants={**model.constants, held: weight})
    own = f"{name}/{held}"
    inputs = (*node.inputs[:index], own, *node.inputs[index + 1 :])
    nodes = tuple(replace(n, inputs=inputs) if n.name == name else n for n in graph.nodes)
    types = {**graph.types, own: TensorType(weight.dtype.name, weight.shape)}
    return Model(replace(graph, nodes=nodes, types=types), {**model.constants, own: weight})


def _uses(nodes: tuple[Node, ...], tensor: str) -> int:
    return sum(n.inputs.count(tensor) for n in nodes)
