"""What a simulated plan computes with: quantizers by tensor, dequantized weights by node, switches for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.fixedpoint.qformat import QFormat, data_limits
from knerex_jax.graph.ir import Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.mac import MacForm
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.planner import Planned

Source = Literal["clip", "round", "weight", "bias", "rest"]
"""What a tensor or node loses accuracy to; "rest" is what its instruction adds to all others."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantizer:
    """A data format as float32 arrays: code = limited to low .. high (rint(x * factor)).

    Attributes:
      factor: codes per real unit, broadcastable against the tensor.
      low, high: least and largest code, scalars.
    """

    factor: Any
    low: Any
    high: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """The real numbers that the integers of a weighted node stand for, float32.

    Attributes:
      weight: in the layout of the node's own weight input.
      bias: [O], one entry per output channel; zeros where the node has none.
    """

    weight: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SimParams:
    """Everything a simulation computes with, a pytree; all of it may be traced and vmapped.

    Attributes:
      constants: the model's own float constants.
      tensors: formatted tensor -> quantizer.
      nodes: weighted node -> its dequantized integers.
    """

    constants: Mapping[str, Any]
    tensors: Mapping[str, Quantizer]
    nodes: Mapping[str, Weights]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gates:
    """One switch per source of error, from 0 (float) to 1 (as planned); a pytree of float32 scalars.

    Attributes:
      clip, round: formatted tensor -> switch of its saturation and of its rounding.
      weight, bias: weighted node -> switch of its quantized weights and bias.
      rest: formatted tensor -> switch of what the value it is held at adds; of no effect without `held`.
    """

    clip: Mapping[str, Any]
    round: Mapping[str, Any]
    weight: Mapping[str, Any]
    bias: Mapping[str, Any]
    rest: Mapping[str, Any]

    @classmethod
    def filled(cls, planned: Planned, value: float) -> "Gates":
        """All switches of a plan at one value."""
        tensors = dict.fromkeys(planned.plan.formats, jnp.float32(value))
        nodes = dict.fromkeys(planned.plan.weight_bits, jnp.float32(value))
        return cls(tensors, tensors, nodes, nodes, tensors)

    def switched(self, source: Source, name: str, value: float) -> "Gates":
        """The same with one switch set."""
        changed = {**getattr(self, source), name: jnp.float32(value)}
        return Gates(**{**vars(self), source: changed})


def sim_params(planned: Planned, registry: Mapping[str, OpDef]) -> SimParams:
    """Quantizers and dequantized weights of a plan, from its formats and integers."""
    graph = planned.model.graph
    quantizers = {t: _quantizer(f, len(graph.shape(t))) for t, f in planned.plan.formats.items()}
    nodes = {name: _dequantized(graph.node[name], planned, registry) for name in planned.plan.weight_bits}
    return SimParams(dict(planned.model.constants), quantizers, nodes)


def mac_form(node: Node, planned: Planned, registry: Mapping[str, OpDef]) -> MacForm:
    """The weights of a weighted node, output channels first."""
    rule = op_of(node, registry).mac
    assert rule is not None, f"{node.name} has no weights"
    return rule(node, planned.model)


def along(values: Array | np.ndarray, axis: int | None, rank: int) -> Any:
    """A vector shaped to broadcast along an axis of a tensor of that rank."""
    return values.reshape([-1 if len(values) > 1 and i == axis else 1 for i in range(rank)])


def _quantizer(f: QFormat, rank: int) -> Quantizer:
    low, high = data_limits(f.bits)
    return Quantizer(along(f.factor.astype(np.float32), f.axis, rank), np.float32(low), np.float32(high))


def weight_steps(node: Node, planned: Planned, registry: Mapping[str, OpDef]) -> np.ndarray:
    """What one code of each weight of a weighted node stands for, in real units: float64 [O, J], J inputs by output."""
    form, codes, formats = mac_form(node, planned, registry), planned.constants[node.name], planned.plan.formats
    inputs, x_format = int(form.feeding.max()) + 1, formats[node.inputs[0]]
    x_scale = np.broadcast_to(x_format.scale, (inputs,)).astype(np.float64)[form.feeding]
    x_radix = np.broadcast_to(x_format.radix, (inputs,)).astype(np.int64)[form.feeding]
    lowest = x_radix.min(axis=1)
    unit = _folded_scale(node, planned, len(form.weight)) * codes["weight_scale"].astype(np.float64)
    unit = np.ldexp(unit, codes["weight_radix"].astype(np.int64))
    return np.ldexp(x_scale, x_radix - lowest[:, None]) / unit[:, None]


def _folded_scale(node: Node, planned: Planned, outputs: int) -> np.ndarray:
    """The scale of the output that the weights hold, float64 [O]; a fused hard-swish folds 1 instead."""
    graph, act = planned.model.graph, planned.plan.fused.get(node.name)
    y = graph.node[act or node.name]
    if act and y.op_type == "HardSwish":
        return np.ones(outputs)
    return np.broadcast_to(planned.plan.formats[y.outputs[0]].scale, (outputs,)).astype(np.float64)


def _dequantized(node: Node, planned: Planned, registry: Mapping[str, OpDef]) -> Weights:
    """Section 4 of the contract backwards, in float64."""
    form, codes = mac_form(node, planned, registry), planned.constants[node.name]
    x_format, outputs = planned.plan.formats[node.inputs[0]], len(form.weight)
    x_radix = np.broadcast_to(x_format.radix, (int(form.feeding.max()) + 1,)).astype(np.int64)
    lowest = x_radix[form.feeding].min(axis=1)
    step = weight_steps(node, planned, registry)
    steps = np.broadcast_to(step[(...,) + (None,) * (form.weight.ndim - 2)], form.weight.shape)
    integers = np.asarray(codes["weight"], np.float64)
    weight = integers if form.kind == "conv_transpose" else form.restore(integers.reshape(form.weight.shape))
    unit = codes["weight_scale"].astype(np.float64) * _folded_scale(node, planned, outputs)
    bias = codes["bias"] / np.ldexp(unit, codes["weight_radix"].astype(np.int64) + lowest - codes["n1"])
    return Weights((weight * form.restore(steps)).astype(np.float32), bias.astype(np.float32))
