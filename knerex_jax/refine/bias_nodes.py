"""Which weighted nodes have a bias to adjust, what their accumulators mean, and how a new bias enters the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from knerex_jax.fixedpoint.weights import to_psum
from knerex_jax.graph.ir import Model, TensorType
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.build import ProgramView
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Mac
from knerex_jax.quantize.planner import Planned
from knerex_jax.targets.spec import Target

_BIAS = 2
"""Index of the bias among the inputs of every operator that has one."""

_OPTIONAL_BIAS = ("Conv", "ConvTranspose", "Gemm")

Integers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Weighted:
    """A weighted node of a program whose bias can be adjusted.

    Attributes:
      mac: its instruction; the node is called like it.
      bias: float32 [O], zeros where the node has none yet.
      scale: float64 [O], s_y, 1 under a fused HardSwish.
      step: float64 [O], s_w * 2**r_p.
      axis: channel axis of its output, from the front.
      shape: of its output, for one sample.
    """

    mac: Mac
    bias: np.ndarray
    scale: np.ndarray
    step: np.ndarray
    axis: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.mac.name

    @property
    def unit(self) -> np.ndarray:
        """float64 [O], codes of the accumulator per real unit."""
        return self.scale * self.step

    @property
    def bias_alone(self) -> bool:
        """Whether nothing but the bias code follows from a bias, unless it takes room from the weights."""
        return self.mac.psum_bits > 16 and self.mac.act in ("none", "relu", "clip")

    @property
    def reach(self) -> np.ndarray | None:
        """float32 [2, O], least and largest value that a partial sum of 16 bits can hold; None where it has more."""
        if self.mac.psum_bits > 16:
            return None
        top = 1 << (self.mac.psum_bits - 1)
        return np.stack([-top / self.unit, (top - 1) / self.unit]).astype(np.float32)

    @property
    def positions(self) -> int:
        """Values per channel."""
        return math.prod(self.shape) // self.shape[self.axis]


def view_of(planned: Planned, model: Model, target: Target, registry: Mapping[str, OpDef]) -> ProgramView:
    """What the assembly rules see of a model under the plan."""
    plan = planned.plan
    return ProgramView(
        model=model, target=target, registry=registry, formats=plan.formats, weight_bits=plan.weight_bits,
        fused=plan.fused,
    )  # fmt: skip


def weighted_nodes(planned: Planned, view: ProgramView) -> tuple[Weighted, ...]:
    """The nodes to adjust, in order: every `mac` but inserted rescales and operators without a bias (MatMul)."""
    rescales, graph = set(planned.plan.rescales), view.model.graph
    found = []
    for i in planned.program.instructions:
        if not isinstance(i, Mac) or i.name in rescales:
            continue
        node = graph.node[i.name]
        rule = op_of(node, view.registry).mac
        assert rule is not None, f"{i.name} is a mac without weights"
        form = rule(node, view.model)
        if form.bias is None and node.op_type not in _OPTIONAL_BIAS:
            continue
        outputs, x = len(form.weight), i.inputs[0]
        c = planned.constants[i.name]
        x_radix = view.radix(x, int(form.feeding.max()) + 1)[form.feeding].min(axis=1)
        radix = c["weight_radix"].astype(np.int64) + x_radix - c["n1"]
        scale = np.ones(outputs) if i.act == "hard_swish" else view.scale(i.output, outputs)
        step = np.ldexp(c["weight_scale"].astype(np.float64), radix)
        bias = np.zeros(outputs, np.float32) if form.bias is None else np.array(form.bias, np.float32)
        shape = graph.shape(node.outputs[0])
        found.append(Weighted(i, bias, scale, step, form.axis % len(shape), shape))
    return tuple(found)


def with_biases(model: Model, biases: Mapping[str, np.ndarray]) -> Model:
    """The model with other biases.

    Args:
      model: planned graph.
      biases: node -> float32 [O]. Each becomes a constant of its own, so that nodes that share one part company; a node
        without a bias gets one.
    """
    graph, constants, types = model.graph, dict(model.constants), dict(model.graph.types)
    nodes = []
    for node in graph.nodes:
        if node.name in biases:
            name = _free_name(f"{node.name}.bias", node.inputs, types)
            constants[name] = np.ascontiguousarray(biases[node.name], np.float32)
            types[name] = TensorType("float32", constants[name].shape)
            node = replace(node, inputs=(*node.inputs[:_BIAS], name, *node.inputs[_BIAS + 1 :]))
        nodes.append(node)
    made = replace(graph, nodes=tuple(nodes), types=types)
    unread = {t for n in graph.nodes for t in n.inputs} - set(made.readers) - set(made.outputs)
    kept = {name: value for name, value in constants.items() if name not in unread}
    return Model(replace(made, types={t: v for t, v in types.items() if t not in unread}), kept)


def _free_name(wanted: str, inputs: tuple[str, ...], taken: Mapping[str, TensorType]) -> str:
    """A tensor name that nobody else has; one that the node itself already reads as its bias may be written over."""
    name, k = wanted, 1
    while name in taken and name not in inputs[_BIAS : _BIAS + 1]:
        name, k = f"{wanted}.{k}", k + 1
    return name


def foreseen(node: Weighted, bias: np.ndarray, integers: Integers) -> Integers | None:
    """The integers of a node with another bias if nothing but the bias code follows from it; None if more may.

    That the bias takes no room from the weights is assumed, not checked: `integers_of` decides.
    """
    if not node.bias_alone:
        return None
    codes = np.rint(bias.astype(np.float64) * node.scale * node.step)
    return {**integers, "bias": to_psum(codes, node.mac.psum_bits)}


def integers_of(view: ProgramView, name: str) -> tuple[Mac, Integers]:
    """The instruction of a weighted node and its integers, by the ordinary rules.

    Raises:
      PlanError: a shift is out of range.
    """
    node = view.model.graph.node[name]
    rule = op_of(node, view.registry).to_program
    assert rule is not None, f"{name} has no integer rule"
    ((instruction, integers),) = rule(node, view)
    assert isinstance(instruction, Mac)
    return instruction, integers
