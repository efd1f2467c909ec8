"""Widths by node from rules that need no measurement: the modes "mix light" and "mix balance".

Whether a multiplication costs 8 or 16 bits is decided by the data it reads and by its weights, not by what it makes. So
a node "at 8 bits" reads 8-bit data, and nodes that read one tensor share that decision.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.ops.mac import mac_count
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.request import Mix, Side, WidthRequest
from knerex_jax.quantize.structure import Structure, is_weighted

FEW_CHANNELS = 4
"""A convolution whose outputs see no more input channels than this (the first one, a depthwise one) is delicate."""

EXPENSIVE_SHARE = 0.5
"""Share of the model's multiplications that "mix balance" takes to 8 bits, the largest nodes first."""


@dataclass(frozen=True)
class MacGroup:
    """Nodes that multiply data and read common tensors, so that their data have one width.

    Attributes:
      nodes: names, in the graph's order.
      operands: the computed tensors they read.
      makers: nodes that make the operands; what the model is given has none.
      macs: multiplications of all nodes for one sample.
    """

    nodes: tuple[str, ...]
    operands: tuple[str, ...]
    makers: tuple[str, ...]
    macs: int

    @property
    def name(self) -> str:
        """The first node's."""
        return self.nodes[0]


def mac_nodes(model: Model, structure: Structure) -> dict[str, int]:
    """Nodes that multiply on the NPU or beside it, in integers -> multiplications for one sample."""
    outside = {*structure.islands, *structure.plain}
    counts = {n.name: mac_count(n, model) for n in model.graph.nodes if n.name not in outside}
    return {name: count for name, count in counts.items() if count}


def mac_groups(model: Model, structure: Structure) -> tuple[MacGroup, ...]:
    """The nodes of `mac_nodes`, grouped by the tensors they read."""
    graph, costs = model.graph, mac_nodes(model, structure)
    group_of: dict[str, list[str]] = {}  # operand -> nodes; operands of one group hold the same list
    for name in costs:
        operands = _operands(graph.node[name], structure)
        merged = [name]
        for nodes in {id(group_of[t]): group_of[t] for t in operands if t in group_of}.values():
            merged += nodes
        touched = {t for n in merged for t in _operands(graph.node[n], structure)}
        group_of.update(dict.fromkeys(touched, merged))
    order = {name: k for k, name in enumerate(costs)}
    groups = []
    for members in {id(nodes): nodes for nodes in group_of.values()}.values():
        nodes = tuple(sorted(members, key=order.__getitem__))
        operands = tuple(dict.fromkeys(t for n in nodes for t in _operands(graph.node[n], structure)))
        makers = tuple(dict.fromkeys(graph.producer[t].name for t in operands if t in graph.producer))
        groups.append(MacGroup(nodes, operands, makers, sum(costs[n] for n in nodes)))
    return tuple(sorted(groups, key=lambda g: order[g.name]))


def _operands(node: Node, structure: Structure) -> tuple[str, ...]:
    return tuple(dict.fromkeys(t for t in node.inputs if t in structure.axes))


def settled(model: Model, structure: Structure, cpu: Collection[str] = ()) -> frozenset[str]:
    """Tensors whose width is none of the mixing's business.

    Inputs and outputs of the model, the inside of decomposed operators, constants, and what nodes on the CPU make.
    """
    graph = model.graph
    fixed = [n for n in graph.nodes if n.wide or n.name in cpu or is_constant_operand(n, model)]
    return frozenset((*graph.inputs, *graph.outputs, *(t for n in fixed for t in n.outputs)))


def is_delicate(node: Node, model: Model) -> bool:
    """Whether few products make each output of a weighted node, so that the error of each shows.

    These are BatchNormalization, and convolutions whose outputs see at most `FEW_CHANNELS` input channels.
    """
    if node.op_type == "BatchNormalization":
        return True
    weight = model.graph.shape(node.inputs[1])
    if node.op_type == "Conv":
        return weight[1] <= FEW_CHANNELS
    return node.op_type == "ConvTranspose" and weight[0] // node.attrs.group <= FEW_CHANNELS


def mixed_request(
    model: Model,
    structure: Structure,
    request: WidthRequest,
    registry: Mapping[str, OpDef],
    mixes: Mapping[Side, Mix],
) -> WidthRequest:
    """The widths of single nodes that "mix light" and "mix balance" ask for, from the graph alone.

    "mix light" prefers 8 bits: 15 bits for delicate nodes (`is_delicate`), which hold few of the multiplications.
    "mix balance" prefers 15 bits: 8 bits for the largest nodes, delicate ones apart, until they hold `EXPENSIVE_SHARE`
    of the model's multiplications; sums of many products forgive most.

    A data width applies to what the nodes read, if all nodes that multiply the same tensors agree; 15 bits apply to
    what that was moved or selected from as well, as far as no other node multiplies it. Inputs and outputs of the model
    and the inside of decomposed operators keep their own. A weight width applies to the node itself.

    Args:
      model: decomposed.
      structure: its constraint problem.
      request: widths of everything else: 8 bits for "mix light", 15 for "mix balance".
      registry: operator records.
      mixes: modes of data and weights; a side without one, or of the mode "mixbw", is left as it is.
    """
    costs = mac_nodes(model, structure)
    weighted = [n for n in model.graph.nodes if n.name in costs and is_weighted(n, model, registry)]
    delicate = {n.name for n in weighted if is_delicate(n, model)}
    large = _largest([n.name for n in weighted if n.name not in delicate], costs)
    chosen = {"mix light": (delicate, 15), "mix balance": (large, 8)}
    nodes, weight_nodes = dict(request.nodes), dict(request.weight_nodes)
    if mixes.get("data") in chosen:
        names, bits = chosen[mixes["data"]]
        groups = mac_groups(model, structure)
        read = [t for g in groups if names.issuperset(g.nodes) for t in g.operands]
        if bits == 15:
            elsewhere = {t for g in groups if not names.issuperset(g.nodes) for t in g.operands}
            read = _with_sources(read, model, structure, elsewhere)
        keep = settled(model, structure)
        nodes |= {model.graph.producer[t].name: bits for t in read if t not in keep}
    if mixes.get("weight") in chosen:
        names, bits = chosen[mixes["weight"]]
        weight_nodes |= dict.fromkeys((n.name for n in weighted if n.name in names), bits)
    return replace(request, nodes=nodes, weight_nodes=weight_nodes)


def _with_sources(tensors: list[str], model: Model, structure: Structure, without: Collection[str]) -> list[str]:
    """The tensors, and before them those whose codes they hold: 15 bits of an 8-bit value are worth no more than 8."""
    found = dict.fromkeys(tensors)
    stack = list(found)
    while stack:
        t = stack.pop()
        maker = model.graph.producer.get(t)
        for source in () if maker is None else maker.inputs:
            shares = source in structure.classes and not set(structure.classes[t]).isdisjoint(structure.classes[source])
            if shares and source not in without and source not in found:
                found[source] = None
                stack.append(source)
    return list(found)


def _largest(names: list[str], costs: Mapping[str, int]) -> set[str]:
    """The most expensive nodes that together hold the share, or all."""
    wanted, chosen = EXPENSIVE_SHARE * sum(costs.values()), set()
    for name in sorted(names, key=costs.__getitem__, reverse=True):
        if wanted <= 0:
            break
        chosen.add(name)
        wanted -= costs[name]
    return chosen
