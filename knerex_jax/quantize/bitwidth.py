"""Widths of data and weights, from what was asked for and what the platform has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.placement import placement
from knerex_jax.quantize.plan import Note
from knerex_jax.quantize.structure import Structure, is_weighted
from knerex_jax.targets.spec import Target

BITS = {"int4": 4, "int8": 8, "int16": 15}
"""Width names -> significant bits."""

WIDTH_OF = {bits: name for name, bits in BITS.items()}

_MOST_NAMES = 5  # in a note; the report lists all


@dataclass(frozen=True)
class WidthRequest:
    """What the user asked for, in significant bits.

    Attributes:
      constants: of constants that are operands; the widest data of a platform that has no such width.
      cpu: of what the nodes beside the NPU make; None: as `data`.
    """

    data: int = 8
    weights: int = 8
    model_in: int = 8
    model_out: int = 8
    constants: int = 15
    cpu: int | None = None


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
    for option, bits, allowed in (
        ("datapath_bitwidth_mode", request.data, target.data_bits),
        ("model_in_bitwidth_mode", request.model_in, target.data_bits),
        ("model_out_bitwidth_mode", request.model_out, target.data_bits),
        ("weight_bitwidth_mode", request.weights, target.weight_bits),
        ("cpu_node_bitwidth_mode", request.data if request.cpu is None else request.cpu, target.data_bits),
    ):
        if bits not in allowed:
            raise ConfigError(
                f"platform {target.name} has no {WIDTH_OF[bits]} for this option",
                where=f"{option}={WIDTH_OF[bits]!r}",
                fix=f"use {' or '.join(WIDTH_OF[b] for b in allowed)}, or another platform",
            )


def assign_widths(
    model: Model, structure: Structure, request: WidthRequest, target: Target, registry: Mapping[str, OpDef]
) -> Widths:
    """The width of every tensor.

    It is the network's; the asked one behind nodes on the CPU; 15 bits inside decomposed operators; the asked ones of
    constants and at the boundary of the model.
    """
    graph = model.graph
    data = dict.fromkeys(structure.tensors, request.data)
    cpu = request.data if request.cpu is None else request.cpu
    beside = () if cpu == request.data else cpu_nodes(model, structure, target, registry)
    data.update((t, cpu) for n in beside for t in graph.node[n].outputs if t in data)
    if 15 in target.data_bits:
        data.update({t: 15 for n in graph.nodes if n.wide for t in n.outputs})
    data.update({n.outputs[0]: constant_bits(request, target) for n in graph.nodes if is_constant_operand(n, model)})
    data.update((t, request.model_in) for t in graph.inputs if t in data)
    data.update((t, request.model_out) for t in graph.outputs if t in data)
    weights = {n.name: request.weights for n in graph.nodes if is_weighted(n, model, registry)}
    inner = data.keys() - set(graph.outputs)
    reached = [n for n in beside if not graph.node[n].wide and not inner.isdisjoint(graph.node[n].outputs)]
    return Widths(data, weights, _cpu_notes(reached, WIDTH_OF[cpu]))


def constant_bits(request: WidthRequest, target: Target) -> int:
    """The width of constant operands as it applies on a platform."""
    return request.constants if request.constants in target.data_bits else max(target.data_bits)


def cpu_nodes(model: Model, structure: Structure, target: Target, registry: Mapping[str, OpDef]) -> tuple[str, ...]:
    """The nodes that compute numbers with a format on the CPU beside the NPU, in integers or as islands.

    What is fused into a node is where that node is; a constant is nowhere.
    """
    hosts = {act: mac for mac, act in structure.fused.items()}

    def on_cpu(node: Node) -> bool:
        if node.name in structure.islands:
            return True
        return placement(node, model, target.name, registry).where == "CPU"

    found = []
    for node in model.graph.nodes:
        if node.name in structure.plain or is_constant_operand(node, model):
            continue
        host = hosts.get(node.name)
        if on_cpu(node) or (host is not None and on_cpu(model.graph.node[host])):
            found.append(node.name)
    return tuple(found)


def _cpu_notes(nodes: Sequence[str], width: str) -> tuple[Note, ...]:
    """Which nodes the width of the CPU reaches."""
    if not nodes:
        return ()
    named = ", ".join(nodes[:_MOST_NAMES]) + (", ..." if len(nodes) > _MOST_NAMES else "")
    why = f"{len(nodes)} node{'s' * (len(nodes) > 1)} on the CPU: {named}"
    return (Note("cpu_node_bitwidth_mode", width, width, why),)
