"""What can be decided about scales before any range is known: fused activations, widths, channels, shared scales."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from knerex_jax.errors import PlanError
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.ops.build import PlanView
from knerex_jax.ops.constraint import Bound, Constraint, Layer, Moved, Own, Product, Same
from knerex_jax.ops.opdef import OpDef
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
      merges: output of a node that shares one scale among several operands -> those operands.
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
    merges: Mapping[str, tuple[str, ...]]

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
        readers = graph.readers.get(node.outputs[0], ())
        if len(readers) == 1 and node.outputs[0] not in graph.outputs and _is_activation(readers[0], model, registry):
            fused[node.name] = readers[0].name
    return fused


def is_weighted(node: Node, model: Model, registry: Mapping[str, OpDef]) -> bool:
    """Whether a node becomes a `mac`."""
    index = registry[node.op_type].weight
    return index is not None and node.inputs[index] in model.constants


def _is_activation(node: Node, model: Model, registry: Mapping[str, OpDef]) -> bool:
    return registry[node.op_type].activation is not None and all(t in model.constants for t in node.inputs[1:] if t)


def analyse(model: Model, target: Target, registry: Mapping[str, OpDef]) -> Structure:
    """States the constraint problem of a graph and merges the scales that have to be equal."""
    graph = model.graph
    view = PlanView(model, target, registry)
    facts: list[Constraint] = []
    for t in graph.inputs:
        view.axes[t] = None
        facts.append(Layer(t))
    for node in graph.nodes:
        stated = registry[node.op_type].constrain(node, view)
        for fact in stated:
            _record_axis(fact, view)
        for t in node.outputs:
            if t and t not in view.axes:
                raise PlanError(
                    f"operator {node.op_type} has no fixed-point rule", where=f"node {node.name}",
                    fix="cut the model before this node (post-processing belongs to the host)",
                )  # fmt: skip
        facts.extend(stated)
    facts.extend(Layer(t) for t in graph.outputs)
    tensors = tuple(view.axes)
    fused = fuse_activations(model, registry)
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
        merges={f.output: f.inputs for f in facts if isinstance(f, Same) and len(f.inputs) > 1},
    )


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
    firsts = dict(zip(counts, np.concatenate([[0], np.cumsum(list(counts.values()))[:-1]]), strict=True))
    edges: list[np.ndarray] = []

    def channels(t: str) -> np.ndarray:
        return np.arange(firsts[t], firsts[t] + counts[t])

    for fact in facts:
        if isinstance(fact, Layer):
            edges.append(np.stack(np.broadcast_arrays(firsts[fact.tensor], channels(fact.tensor))))
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
