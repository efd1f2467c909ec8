"""What the rules of an operator may look at when it is planned (`PlanView`) and assembled (`ProgramView`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from knerex_jax.fixedpoint.qformat import QFormat
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.constraint import Layer, Masked, Moved
from knerex_jax.program.primitives import Act, Instruction
from knerex_jax.targets.spec import Target

if TYPE_CHECKING:
    from knerex_jax.ops.opdef import OpDef

Built = tuple[tuple[Instruction, Mapping[str, np.ndarray]], ...]
"""Instructions of a node, each with its integer constants."""


@dataclass(frozen=True)
class ActSpec:
    """An activation that the accumulator can apply.

    Attributes:
      kind: "relu", "clip", "leaky" (LeakyRelu and PRelu) or "hard_swish".
      low, high: bounds of a clip, real units; None where open.
      slope: float64 [C] or [1], slope of the negative side.
      axis: of the operand, along which several slopes lie.
    """

    kind: Act
    low: float | None = None
    high: float | None = None
    slope: np.ndarray | None = None
    axis: int | None = None

    @property
    def magnitude(self) -> float | None:
        """Largest |value| it lets through, None if it is open on a side."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class PlanView:
    """The graph as the constraint rules see it; `axes` is filled in topological order.

    Attributes:
      fused: weighted node -> activation node that its accumulator applies.
      axes: tensor -> channel axis (None: per layer) of every tensor already visited.
    """

    model: Model
    target: Target
    registry: Mapping[str, "OpDef"]
    fused: Mapping[str, str] = field(default_factory=dict)
    axes: dict[str, int | None] = field(default_factory=dict)

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.model.graph.shape(tensor)

    def constant(self, tensor: str) -> np.ndarray | None:
        return self.model.constant(tensor)

    def producer(self, tensor: str) -> Node | None:
        return self.model.graph.producer.get(tensor)

    def computed(self, node: Node) -> tuple[str, ...]:
        """The inputs of a node that are not constants."""
        return tuple(t for t in node.inputs if t and t not in self.model.constants)


@dataclass(frozen=True, kw_only=True)
class ProgramView:
    """The planned graph as the assembly rules see it."""

    model: Model
    target: Target
    registry: Mapping[str, "OpDef"]
    formats: Mapping[str, QFormat]
    weight_bits: Mapping[str, int]
    fused: Mapping[str, str]

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.model.graph.shape(tensor)

    def constant(self, tensor: str) -> np.ndarray | None:
        return self.model.constant(tensor)

    def axis(self, output: str, inputs: tuple[str, ...]) -> int | None:
        """The axis of the output along which per-channel constants run: that of the first tensor that has one."""
        rank = len(self.shape(output))
        for t in (output, *inputs):
            if (a := self.formats[t].axis) is not None:
                return a + rank - len(self.shape(t))
        return None

    def activation(self, node: Node) -> tuple[Node, ActSpec] | None:
        """The activation fused into a weighted node."""
        name = self.fused.get(node.name)
        if name is None:
            return None
        act = self.model.graph.node[name]
        rule = op_of(act, self.registry).activation
        assert rule is not None, f"{act.op_type} cannot be fused"
        return act, rule(act, self.model)

    def radix(self, tensor: str, count: int) -> np.ndarray:
        """Radix of a tensor as int64 [count]."""
        return np.broadcast_to(self.formats[tensor].radix, (count,)).astype(np.int64)

    def scale(self, tensor: str, count: int) -> np.ndarray:
        """Scale of a tensor as float64 [count]."""
        return np.broadcast_to(self.formats[tensor].scale, (count,)).astype(np.float64)


def softmax_difference(node: Node | None, graph: Graph) -> bool:
    """Whether a node takes the maximum of a tensor off it, as a softmax does: its output is never positive."""
    if node is None or node.op_type != "Sub":
        return False
    peak = graph.producer.get(node.inputs[1])
    return peak is not None and peak.op_type == "ReduceMax" and peak.inputs[0] == node.inputs[0]


def softmax_mask(node: Node, view: PlanView) -> tuple[Masked, ...]:
    """States it where the sum of two operands is read by nothing but a decomposed softmax."""
    y, operands, graph = node.outputs[0], view.computed(node), view.model.graph
    readers = graph.readers.get(y, ())
    softmax = readers and all(r.op_type == "ReduceMax" or softmax_difference(r, graph) for r in readers)
    if len(operands) != 2 or not softmax or y in graph.outputs:
        return ()
    return (Masked(y, (operands[0], operands[1])),)


def per_layer_unless(view: PlanView, tensor: str, axis: int) -> tuple[Layer, ...]:
    """A tensor whose channels do not run along the axis that a rule needs has to be per layer."""
    return () if view.axes[tensor] in (None, axis) else (Layer(tensor),)


def aligned_axis(view: PlanView, tensors: tuple[str, ...], rank: int) -> tuple[int | None, tuple[Layer, ...]]:
    """Channel axis of the broadcast of several tensors, and those whose channels run elsewhere, as per layer."""
    axes = {t: None if (a := view.axes[t]) is None else a + rank - len(view.shape(t)) for t in tensors}
    axis = next((a for a in axes.values() if a is not None), None)
    return axis, tuple(Layer(t) for t, a in axes.items() if a not in (None, axis))


def channel_ids(shape: tuple[int, ...], axis: int | None, first: int) -> np.ndarray:
    """An int32 array of that shape that holds at each place the number of its channel, counted from `first`."""
    if axis is None:
        return np.full(shape, first, np.int32)
    ids = np.arange(first, first + shape[axis], dtype=np.int32)
    return np.broadcast_to(ids.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def moved(
    node: Node, view: PlanView, move: Callable[..., Any], *, one_to_one: bool = False
) -> tuple[Moved | Layer, ...]:
    """The constraints of a data movement, found by moving channel numbers instead of values.

    `move(*arrays)` is the operator's float rule on arrays of ids; padding must insert zeros. The output's channel axis
    is the one that keeps the most channels apart; channels that meet on it are linked, hence share a scale.
    """
    names = view.computed(node)
    counts = [1 if view.axes[t] is None else view.shape(t)[view.axes[t] or 0] for t in names]
    firsts = 1 + np.concatenate([[0], np.cumsum(counts)])[: len(names)]
    ids = iter([channel_ids(view.shape(t), view.axes[t], int(f)) for t, f in zip(names, firsts, strict=True)])
    operands = [next(ids) if t in names else view.constant(t) for t in node.inputs]
    results = move(*operands)
    found: list[Moved | Layer] = []
    for output, result in zip(node.outputs, results if isinstance(results, tuple | list) else (results,), strict=True):
        axis, pairs = _channel_axis(np.asarray(result))
        pairs = pairs[pairs[:, 1] > 0]
        operand = np.searchsorted(firsts, pairs[:, 1], side="right") - 1
        links = np.stack([pairs[:, 0], operand, pairs[:, 1] - firsts[operand]], axis=1)
        found.append(Moved(output, names, axis, links, one_to_one))
        sources = pairs[:, 1]
        if len(np.unique(pairs[:, 0])) < len(pairs) and len(np.unique(sources)) < len(pairs):
            # Neither the output's channels nor the operands' decide a shift; a single radix at the output does.
            found.append(Layer(output))
    return tuple(found)


def _channel_axis(ids: np.ndarray) -> tuple[int | None, np.ndarray]:
    """Best channel axis of an array of channel numbers, and its unique (index along the axis, number) pairs."""
    present = np.unique(ids)
    if len(present[present > 0]) <= 1:
        return None, np.stack([np.zeros_like(present), present], axis=1)
    best, best_pairs, best_score = None, None, 0.0
    span = int(ids.max()) + 1
    for axis, length in enumerate(ids.shape):
        if length == 1:
            continue
        place = np.arange(length, dtype=np.int64).reshape([-1 if i == axis else 1 for i in range(ids.ndim)])
        keys = np.unique(place * span + ids)
        pairs = np.stack([keys // span, keys % span], axis=1)
        # Fewest numbers per place wins: 1 means that every place of the axis holds one channel.
        score = length / len(pairs) * (1 + 1e-9 * length)
        if score > best_score:
            best, best_pairs, best_score = axis, pairs, score
    assert best_pairs is not None
    return best, best_pairs
