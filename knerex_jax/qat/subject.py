"""What is trained of a plan, and the plan that trained values make: the planner's own integers, every time."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from knerex_jax.fixedpoint.qformat import data_limits, weight_limit
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.mac import MacForm
from knerex_jax.ops.opdef import OpDef
from knerex_jax.qat.config import NARROW_BITS
from knerex_jax.qat.scales import ScaleClasses
from knerex_jax.qat.straight import limits
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.refine.bias_nodes import view_of, weighted_nodes, with_biases
from knerex_jax.refine.clip import best_shares
from knerex_jax.refine.grid import mac_instructions, with_weights
from knerex_jax.targets.spec import Target


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trainable:
    """All that training moves, float32; a pytree.

    Attributes:
      weights: node -> [O, J, *kernel], output channels first.
      biases: node -> [O].
      clips: node -> [O], log2 of the share of their first range that weights are limited to.
      scales: [classes], log2 of what the scale of each class is multiplied by.
    """

    weights: Mapping[str, Any]
    biases: Mapping[str, Any]
    clips: Mapping[str, Any]
    scales: Any


@dataclass(frozen=True)
class TrainedNode:
    """A weighted node whose weights are trained.

    Attributes:
      name: of the node.
      form: its weights in the plan that training starts from.
      held: names of its weight and of its bias (None: it has none) among the constants of the model.
      x, y: tensors with a format that it reads, and makes (behind a fused activation).
      limit: largest weight code.
      profile: float32 [O, J, 1...], largest |weight| where nothing is clipped.
    """

    name: str
    form: MacForm
    held: tuple[str, str | None]
    x: str
    y: str
    limit: int
    profile: np.ndarray

    def spread(self, values: np.ndarray) -> np.ndarray:
        """[O, J] (or [1, J]) -> broadcastable against the weights."""
        return values.reshape(*values.shape[:2], *[1] * (self.form.weight.ndim - 2))

    def feeding(self, factor: np.ndarray) -> np.ndarray:
        """A factor of the input, broadcastable against the tensor, by weight: [O, J, 1...]."""
        per_channel = np.broadcast_to(factor.reshape(-1), (int(self.form.feeding.max()) + 1,))
        return self.spread(per_channel[self.form.feeding])

    def fed(self, slopes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The transpose of `feeding`: gradients by weight, [O, J, 1...], summed for a factor of that shape."""
        sums = np.bincount(self.form.feeding.ravel(), slopes.ravel())
        return (sums if math.prod(shape) > 1 else sums.sum()).reshape(shape).astype(np.float32)


@dataclass(frozen=True)
class Subject:
    """A plan to be trained.

    Attributes:
      base: the plan that training starts from; every trained node has constants of its own in `base.refined`.
      nodes: the trained nodes.
      classes: the scales.
      target: platform.
      registry: operator records.
    """

    base: Planned
    nodes: tuple[TrainedNode, ...]
    classes: ScaleClasses
    target: Target
    registry: Mapping[str, OpDef]

    @classmethod
    def of(
        cls,
        planned: Planned,
        *,
        target: Target,
        held: Collection[str] = (),
        registry: Mapping[str, OpDef] = REGISTRY,
    ) -> "Subject":
        """The subject for a plan.

        Args:
          planned: with refined constants or without.
          target: platform.
          held: tensors whose formats must stay.
          registry: operator records.
        """
        base = _own_constants(planned, target, registry)
        nodes = tuple(_trained(base, m.name, registry) for m in mac_instructions(base) if _is_trained(base, m.name))
        classes = ScaleClasses.of(base, held, per_channel_radix=target.per_channel_radix)
        return cls(base, nodes, classes, target, registry)

    @cached_property
    def start(self) -> Trainable:
        """Where training starts: the plan as it is, but for clipped narrow weights."""
        return Trainable(
            weights={n.name: np.asarray(n.form.weight, np.float32) for n in self.nodes},
            biases={n.name: np.asarray(n.form.bias, np.float32) for n in self.nodes if n.form.bias is not None},
            clips={n.name: _first_clip(n) for n in self.nodes},
            scales=np.zeros(len(self.classes.free), np.float32),
        )

    @cached_property
    def units(self) -> Trainable:
        """How far a step of learning rate 1 goes: what is usual for each number, float32; 0 for what must stay."""
        formats = self.base.plan.formats
        reach = {n.y: data_limits(formats[n.y].bits)[1] / formats[n.y].factor for n in self.nodes}
        return Trainable(
            weights={n.name: np.broadcast_to(_rms(n.form.weight), n.form.weight.shape) for n in self.nodes},
            biases={
                n.name: np.broadcast_to(reach[n.y], n.form.bias.shape).astype(np.float32)
                for n in self.nodes
                if n.form.bias is not None
            },
            clips={n.name: np.ones(len(n.form.weight), np.float32) for n in self.nodes},
            scales=self.classes.free.astype(np.float32),
        )

    def planned(self, trained: Trainable) -> Planned:
        """The plan with trained values: its integers are made by the planner.

        Raises:
          PlanError: a shift is out of range; names the node.
        """
        trained = jax.tree.map(np.asarray, trained)
        constants = dict(self.base.refined.constants)
        for n in self.nodes:
            weight, bias = n.held
            bound = limits(trained.clips[n.name], n.profile)
            made = n.form.restore(np.clip(trained.weights[n.name], -bound, bound))
            constants[weight] = np.ascontiguousarray(made.reshape(constants[weight].shape))
            if bias is not None:
                constants[bias] = trained.biases[n.name].reshape(constants[bias].shape)
        plan = replace(self.base.plan, formats=self.classes.planned(trained.scales))
        model = Model(self.base.refined.graph, constants)
        return refine_plan(replace(self.base, plan=plan), model, self.target, self.registry)


def _own_constants(planned: Planned, target: Target, registry: Mapping[str, OpDef]) -> Planned:
    """The same with a weight and a bias for every trained node that nothing else reads."""
    model = planned.refined
    for i in mac_instructions(planned):
        if _is_trained(planned, i.name):
            node = model.graph.node[i.name]
            index = op_of(node, registry).weight
            assert index is not None
            model = with_weights(model, i.name, model.constants[node.inputs[index]], registry)
    biased = weighted_nodes(planned, view_of(planned, model, target, registry))
    model = with_biases(model, {w.name: w.bias for w in biased})
    return refine_plan(planned, model, target, registry)


def _is_trained(planned: Planned, name: str) -> bool:
    """Inserted rescales are no part of the user's model."""
    return name not in planned.plan.rescales


def _trained(base: Planned, name: str, registry: Mapping[str, OpDef]) -> TrainedNode:
    model, formats = base.refined, base.plan.formats
    node = model.graph.node[name]
    op = op_of(node, registry)
    assert op.weight is not None
    assert op.mac is not None
    form = op.mac(node, model)
    bias = node.inputs[2] if form.bias is not None else None
    act = base.plan.fused.get(name)
    y = base.model.graph.node[act or name].outputs[0]
    x = node.inputs[0]
    channels = int(form.feeding.max()) + 1
    factor = np.broadcast_to(formats[x].factor, (channels,))[form.feeding]
    spread = (...,) + (None,) * (form.weight.ndim - 2)
    rest = tuple(range(1, form.weight.ndim))
    largest = np.abs(form.weight.astype(np.float64) / factor[spread]).max(axis=rest, keepdims=True)
    # A channel of zeros may grow; it gets a range like its neighbours'.
    largest = np.where(largest > 0, largest, largest.max() or 1.0)
    return TrainedNode(
        name=name, form=form, held=(node.inputs[op.weight], bias), x=x, y=y,
        limit=weight_limit(base.plan.weight_bits[name]), profile=(largest * factor[spread]).astype(np.float32),
    )  # fmt: skip


def _first_clip(node: TrainedNode) -> np.ndarray:
    """The clipping of narrow weights that errs least; none of wider ones."""
    if node.limit > weight_limit(NARROW_BITS):
        return np.zeros(len(node.form.weight), np.float32)
    shares = best_shares(node.form.weight / node.profile.astype(np.float64), node.limit)
    return np.log2(shares).reshape(-1).astype(np.float32)


def _rms(weight: np.ndarray) -> np.ndarray:
    """Root mean square of the weights of each output channel, [O, 1...]; of all where a channel has none."""
    rest = tuple(range(1, weight.ndim))
    found = np.sqrt(np.mean(weight.astype(np.float64) ** 2, axis=rest, keepdims=True))
    return np.where(found > 0, found, found.max() or 1.0).astype(np.float32)
