"""Widths of data and weights, from what was asked for and what the platform has."""

from collections.abc import Mapping
from dataclasses import dataclass

from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.plan import Note
from knerex_jax.quantize.structure import Structure, is_weighted
from knerex_jax.targets.spec import Target

BITS = {"int4": 4, "int8": 8, "int16": 15}
"""Width names -> significant bits."""


@dataclass(frozen=True)
class WidthRequest:
    """What the user asked for, in significant bits."""

    data: int = 8
    weights: int = 8
    model_in: int = 8
    model_out: int = 8
    constants: int = 15


@dataclass(frozen=True)
class Widths:
    """Width of every tensor and weight."""

    data: Mapping[str, int]
    weights: Mapping[str, int]
    notes: tuple[Note, ...] = ()


def check_request(request: WidthRequest, target: Target) -> None:
    """An impossible combination is an error that says why.

    Raises:
      ConfigError: the platform has no such width.
    """
    names = {v: k for k, v in BITS.items()}
    for option, bits, allowed in (
        ("datapath_bitwidth_mode", request.data, target.data_bits),
        ("model_in_bitwidth_mode", request.model_in, target.data_bits),
        ("model_out_bitwidth_mode", request.model_out, target.data_bits),
        ("weight_bitwidth_mode", request.weights, target.weight_bits),
    ):
        if bits not in allowed:
            raise ConfigError(
                f"platform {target.name} has no {names[bits]} for this option",
                where=f"{option}={names[bits]!r}",
                fix=f"use {' or '.join(names[b] for b in allowed)}, or another platform",
            )


def assign_widths(
    model: Model, structure: Structure, request: WidthRequest, target: Target, registry: Mapping[str, OpDef]
) -> Widths:
    """The width of every tensor: the network's, 15 bits inside decomposed operators, the asked ones at the boundary."""
    graph = model.graph
    data = dict.fromkeys(structure.tensors, request.data)
    if 15 in target.data_bits:
        data.update({t: 15 for n in graph.nodes if n.wide for t in n.outputs})
    constants = request.constants if request.constants in target.data_bits else max(target.data_bits)
    data.update({n.outputs[0]: constants for n in graph.nodes if is_constant_operand(n, model)})
    data.update((t, request.model_in) for t in graph.inputs if t in data)
    data.update((t, request.model_out) for t in graph.outputs if t in data)
    weights = {n.name: request.weights for n in graph.nodes if is_weighted(n, model, registry)}
    return Widths(data, weights)
