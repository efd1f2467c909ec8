"""What can be decided about scales before any range is known: fused activations, widths, channels, shared scales."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from knerex_jax.errors import ModelError
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.build import PlanView
from knerex_jax.ops.constraint import Bound, Constraint, Layer, Masked, Moved, Own, Product, Same
from knerex_jax.ops.opdef import OpDef, island_reason
from knerex_jax.targets.spec import Target


@dataclass(frozen=True)
class Structure:
    """The constraint problem of one planned graph.

    Attributes:
      tensors: every tensor with a scale, in topological order (values before a fused activation included).
      axes: tensor -> channel axis (None: no channels).
      classes: tensor -> int32 [C], number of the scale class of each channel; equal numbers share a scale.
      own: tensors that take a scale of their own.
      layer: tensors whose scale and radix are per layer.
      fused: weighted node -> activation node.
      hidden: tensors without a format (between a weighted node and its fused activation).
      products: (output, a, b): scale of the output is the product.
      bounds: tensor -> analytic bound of |values|.
      aliases: tensor -> (source, int [C] channel of the source for each channel): same values, same ranges.
      forced: node -> those of its operands that it makes per layer.
      alone: tensors that are per layer whatever reads them.
      merges: output of a node that shares one scale among several operands -> those operands.
      islands: node that is computed in float on the host -> why it has no integer rule.
      plain: nodes between exact tensors only (indices, masks), computed as they are.
      masked: sum that only a softmax reads -> its operands, one of which may be a mask.
      leaving: tensor whose values leave the model as they are, moved at most -> the outputs that hold them.
    """

    tensors: tuple[str, ...]
    axes: Mapping[str, int | None]
    classes: Mapping[str, np.ndarray]
    own: frozenset[str]
    layer: frozenset[str]
    fused: Mapping[str, str]
    hidden: frozenset[str]
    products: tuple[tuple[str, str, str], ...]
    bounds: Mapping[str, float]
    aliases: Mapping[str, tuple[str, np.ndarray]]
    forced: Mapping[str, tuple[str, ...]]
    alone: frozenset[str]
    merges: Mapping[str, tuple[str, ...]]
    islands: Mapping[str, str]
    plain: frozenset[str]
    masked: Mapping[str, tuple[str, str]]
    leaving: Mapping[str, frozenset[str]]

    @property
    def observed(self) -> dict[str, int | None]:
        """The tensors whose ranges have to be measured -> channel axis."""
        return {t: self.axes[t] for t in self.tensors if t not in self.hidden and t not in self.aliases}


def fuse_activations(model: Model, registry: Mapping[str, OpDef]) -> dict[str, str]:
    """An activation fuses when it is the only reader of a weighted node's value, which is not a model output."""
    graph, fused = model.graph, {}
    for node in graph.nodes:
        if not is_weighted(node, model, registry):
            continue
        y = node.outputs[0]
        readers = graph.readers.get(y, ())
        if len(readers) == 1 and y not in graph.outputs and _fuses(readers[0], node, model, registry):
            fused[node.name] = readers[0].name
    return fused


def _fuses(reader: Node, node: Node, model: Model, registry: Mapping[str, OpDef]) -> bool:
    """Whether an accumulator can apply what reads it."""
    rule = op_of(reader, registry).activation
    if rule is None or why_island(reader, model, registry) is not None:
        return False
    axis, form = rule(reader, model).axis, op_of(node, registry).mac
    return axis is None or form is None or axis == form(node, model).axis % len(model.graph.shape(node.outputs[0]))


def is_weighted(node: Node, model: Model, registry: Mapping[str, OpDef]) -> bool:
    """Whether a node becomes a `mac`."""
    index = op_of(node, registry).weight
    if index is None or node.inputs[index] not in model.constants or node.outputs[0] in model.exact:
        return False
    return why_island(node, model, registry) is None


def why_island(node: Node, model: Model, registry: Mapping[str, OpDef]) -> str | None:
    """Why a node is computed in float on the host; None if it has an integer rule. Not for nodes that are plain."""
    op, types = op_of(node, registry), model.graph.types
    if any(t and not types[t].real for t in node.outputs):
        return f"{node.op_type} gives integers or booleans"
    if not op.reads_plain and any(t and t not in model.constants and not types[t].real for t in node.inputs):
        return f"{node.op_type} reads integers or booleans"
    return island_reason(node, model, op)


def is_plain(node: Node, model: Model) -> bool:
    """Whether a node neither reads nor makes codes."""
    held = (*(t for t in node.inputs if t and t not in model.constants), *(t for t in node.outputs if t))
    return all(t in model.exact for t in held)


def analyse(model: Model, target: Target, registry: Mapping[str, OpDef]) -> Structure:
    """States the constraint problem of a graph and merges the scales that have to be equal.

    Raises:
      ModelError: no tensor gets codes.
    """
    graph = model.graph
    fused = fuse_activations(model, registry)
    view = PlanView(model, target, registry, fused)
    facts: list[Constraint] = []
    islands: dict[str, str] = {}
    forced: dict[str, tuple[str, ...]] = {}
    exact = model.exact
    plain = frozenset(n.name for n in graph.nodes if is_plain(n, model))
    for t in graph.inputs:
        if t not in exact:
            view.axes[t] = None
            facts.append(Layer(t))
    for node in graph.nodes:
        if node.name in plain:
            continue
        reason = why_island(node, model, registry)
        if reason is None and node.op_type == "Identity" and node.inputs[0] in exact:
            reason = "codes are made of what integers alone decide"
        reason = reason or _off_channels(node, view)
        if reason is None:
            stated = op_of(node, registry).constrain(node, view)
        else:
            islands[node.name] = reason
            stated = _boundary(node, exact)
        for fact in stated:
            _record_axis(fact, view)
        missing = [t for t in node.outputs if t and t not in exact and t not in view.axes]
        assert not missing, f"the rule of {node.op_type} says nothing about {missing}"
        facts.extend(stated)
        forced[node.name] = tuple(f.tensor for f in stated if isinstance(f, Layer) and f.tensor in node.inputs)
    facts.extend(Layer(t) for t in graph.outputs if t not in exact)
    tensors = tuple(view.axes)
    if not tensors:
        fix = "integers, and what follows from them without weights, are computed on the host; run this model there"
        raise ModelError("there is nothing to quantize", where=f"model {graph.name}", fix=fix)
    return Structure(
        tensors=tensors,
        axes=dict(view.axes),
        classes=_merge_scales(graph, view.axes, facts),
        own=frozenset(f.output for f in facts if isinstance(f, Own)),
        layer=frozenset(f.tensor for f in facts if isinstance(f, Layer)),
        fused=fused,
        hidden=frozenset(graph.node[n].outputs[0] for n in fused),
        products=tuple((f.output, *f.inputs) for f in facts if isinstance(f, Product)),
        bounds=_bounds(facts),
        aliases={
            f.output: (f.inputs[0], _source_channels(f, graph))
            for f in facts
            if isinstance(f, Moved) and f.one_to_one and (f.axis is None) == (view.axes[f.inputs[0]] is None)
        },
        forced={n: ts for n, ts in forced.items() if ts},
        alone=_alone(graph, facts, forced),
        merges={f.output: f.inputs for f in facts if isinstance(f, Same) and len(f.inputs) > 1},
        islands=islands,
        plain=plain,
        masked={f.output: f.operands for f in facts if isinstance(f, Masked)},
        leaving=_leaving([t for t in graph.outputs if t not in exact], facts),
    )


def _off_channels(node: Node, view: PlanView) -> str | None:
    """Why an activation has no integer rule where its several slopes do not lie along the channels."""
    rule = op_of(node, view.registry).activation
    axis = None if rule is None else rule(node, view.model).axis
    if axis is None or axis == (channels := view.axes[node.inputs[0]]):
        return None
    there = "has none" if channels is None else f"has them along axis {channels}"
    return f"its slope varies along axis {axis}: only channels can have one each, and its input {there}"


def _leaving(outputs: Iterable[str], facts: Iterable[Constraint]) -> dict[str, frozenset[str]]:
    """What data movement alone lies between a tensor and an output of the model."""
    origins = {f.output: f.inputs for f in facts if isinstance(f, Moved)}
    found: dict[str, set[str]] = {}
    for output in outputs:
        pending = [output]
        while pending:
            tensor = pending.pop()
            if output not in found.setdefault(tensor, set()):
                found[tensor].add(output)
                pending.extend(origins.get(tensor, ()))
    return {t: frozenset(held) for t, held in found.items()}


def _alone(graph: Graph, facts: list[Constraint], forced: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Tensors without channels: by their own rule, or since the model's boundary says so."""
    by_readers = {t for ts in forced.values() for t in ts}
    per_layer = {f.tensor for f in facts if isinstance(f, Layer)}
    without = {f.output for f in facts if isinstance(f, Own | Moved) and f.axis is None}
    return frozenset((per_layer - by_readers) | without | set(graph.inputs))


def _boundary(node: Node, exact: Collection[str]) -> tuple[Constraint, ...]:
    """An island quantizes its real outputs per layer."""
    made = [t for t in node.outputs if t and t not in exact]
    return (*(Own(t, None) for t in made), *(Layer(t) for t in made))


def with_copies(structure: Structure, copies: Mapping[str, str], model: Model) -> Structure:
    """The same with more tensors (new -> old) that carry the same values, channel by channel."""
    same = {new: (old, np.arange(channel_count(model.graph, new, structure.axes[new]))) for new, old in copies.items()}
    return replace(structure, aliases={**structure.aliases, **same})


def _record_axis(fact: Constraint, view: PlanView) -> None:
    if isinstance(fact, Own | Moved):
        view.axes[fact.output] = fact.axis
    elif isinstance(fact, Same | Product):
        rank = len(view.shape(fact.output))
        aligned = [a + rank - len(view.shape(t)) for t in fact.inputs if (a := view.axes[t]) is not None]
        view.axes[fact.output] = aligned[0] if aligned else None


def channel_count(graph: Graph, tensor: str, axis: int | None) -> int:
    """Number of channels of a tensor, 1 per layer."""
    return 1 if axis is None else graph.shape(tensor)[axis]


def _source_channels(fact: Moved, graph: Graph) -> np.ndarray:
    channels = np.zeros(channel_count(graph, fact.output, fact.axis), np.int64)
    channels[fact.links[:, 0]] = fact.links[:, 2]
    return channels


def _merge_scales(graph: Graph, axes: Mapping[str, int | None], facts: list[Constraint]) -> dict[str, np.ndarray]:
    """Numbers the scale classes: connected components of 'these two channels share a scale'."""
    counts = {t: channel_count(graph, t, a) for t, a in axes.items()}
    firsts = dict(zip(counts, np.cumsum([0, *counts.values()])[:-1], strict=True))
    edges: list[np.ndarray] = []
    layer = {fact.tensor for fact in facts if isinstance(fact, Layer)}

    def channels(t: str) -> np.ndarray:
        # Per layer the first one stands for all, however many there are and wherever they run.
        return np.arange(firsts[t], firsts[t] + (1 if t in layer else counts[t]))

    for fact in facts:
        if isinstance(fact, Layer):
            first, count = firsts[fact.tensor], counts[fact.tensor]
            edges.append(np.stack(np.broadcast_arrays(first, np.arange(first, first + count))))
        elif isinstance(fact, Same):
            edges.extend(np.stack(np.broadcast_arrays(channels(t), channels(fact.output))) for t in fact.inputs)
        elif isinstance(fact, Moved):
            operand_first = np.array([firsts[t] for t in fact.inputs])
            edges.append(
                np.stack([firsts[fact.output] + fact.links[:, 0], operand_first[fact.links[:, 1]] + fact.links[:, 2]])
            )
    total = sum(counts.values())
    pairs = np.concatenate(edges, axis=1) if edges else np.zeros((2, 0), np.int64)
    links = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(total, total))
    _, labels = connected_components(links, directed=False)
    return {t: labels[firsts[t] : firsts[t] + counts[t]] for t in counts}


def _bounds(facts: list[Constraint]) -> dict[str, float]:
    """Analytic bounds, passed on through pooling and data movement; facts come in topological order."""
    bounds: dict[str, float] = {}
    for fact in facts:
        if isinstance(fact, Bound):
            bounds[fact.tensor] = min(fact.limit, bounds.get(fact.tensor, np.inf))
        elif (isinstance(fact, Moved) or (isinstance(fact, Same) and fact.within)) and all(
            t in bounds for t in fact.inputs
        ):
            bounds[fact.output] = max(bounds[t] for t in fact.inputs)
    return bounds
