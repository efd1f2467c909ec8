"""Widths of data and weights, from what was asked for and what the platform has."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.placement import placement
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.request import WIDTH_OF, WidthRequest, constant_bits
from knerex_jax.quantize.structure import Structure, is_weighted
from knerex_jax.targets.spec import Target

_MOST_NAMES = 5  # in a note; the report lists all

_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Widths:
    """Width of every tensor and weight."""

    data: Mapping[str, int]
    weights: Mapping[str, int]
    notes: tuple[Note, ...] = ()


def assign_widths(
    model: Model,
    structure: Structure,
    request: WidthRequest,
    target: Target,
    registry: Mapping[str, OpDef],
    *,
    pinned: Mapping[str, int] = _NONE,
    carried: Mapping[str, str] = MappingProxyType({}),
) -> Widths:
    """The width of every tensor.

    It is the network's; the asked one behind nodes on the CPU; 15 bits inside decomposed operators; the asked ones of
    constants; those of single nodes; the asked ones at the boundary of the model; and above all, the pinned ones.

    Args:
      model: decomposed, rescale slots included.
      structure: its constraint problem.
      request: widths in significant bits.
      target: platform.
      registry: operator records.
      pinned: tensor -> width that the user insists on.
      carried: tensor of a rescale slot -> the tensor whose values it carries, and whose width it shares.

    Raises:
      ConfigError: the width of a single node is asked for that the model or the platform does not have.
    """
    graph = model.graph
    data = dict.fromkeys(structure.tensors, request.data)
    cpu = request.data if request.cpu is None else request.cpu
    beside = () if cpu == request.data else cpu_nodes(model, structure, target, registry)
    data.update((t, cpu) for n in beside for t in graph.node[n].outputs if t in data)
    if 15 in target.data_bits:
        data.update({t: 15 for n in graph.nodes if n.wide for t in n.outputs})
    data.update({n.outputs[0]: constant_bits(request, target) for n in graph.nodes if is_constant_operand(n, model)})
    data.update(_shared(_asked_by_node(model, structure, request, target), carried))
    data.update((t, request.model_in) for t in graph.inputs if t in data)
    data.update((t, request.model_out) for t in graph.outputs if t in data)
    data.update(_shared(pinned, carried))
    weights = {n.name: request.weights for n in graph.nodes if is_weighted(n, model, registry)}
    _check_nodes("weights", request.weight_nodes, weights, target.weight_bits, target)
    weights.update(request.weight_nodes)
    inner = data.keys() - set(graph.outputs)
    reached = [n for n in beside if not graph.node[n].wide and not inner.isdisjoint(graph.node[n].outputs)]
    return Widths(data, weights, _cpu_notes(reached, WIDTH_OF[cpu]))


def _asked_by_node(model: Model, structure: Structure, request: WidthRequest, target: Target) -> dict[str, int]:
    """Tensor -> width asked for the node that makes it, an activation fused into it included."""
    graph, asked = model.graph, {}
    _check_nodes("data", request.nodes, graph.node, target.data_bits, target)
    for name, bits in request.nodes.items():
        maker = graph.node[structure.fused.get(name, name)]
        asked.update((t, bits) for t in maker.outputs if t in structure.axes)
    return asked


def _check_nodes(
    what: str, asked: Mapping[str, int], known: Collection[str], allowed: tuple[int, ...], target: Target
) -> None:
    for name, bits in asked.items():
        if name not in known:
            raise ConfigError(
                f"the model has no such node with {what}", where=f"node {name}", fix="use names of the decomposed model"
            )
        if bits not in allowed:
            raise ConfigError(
                f"platform {target.name} has no {what} of {bits} bits", where=f"node {name}",
                fix=f"use {' or '.join(map(str, allowed))}",
            )  # fmt: skip


def _shared(widths: Mapping[str, int], carried: Mapping[str, str]) -> dict[str, int]:
    """Widths of tensors, and of the slots that carry them."""
    return {new: widths[old] for new, old in carried.items() if old in widths} | dict(widths)


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
