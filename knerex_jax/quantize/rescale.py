"""Rescale slots: where another reader of a tensor would cost it more than a bit. Section 2 of the contract.

A slot is a BatchNormalization by ones between a tensor and the nodes that force a scale on it: the identity in float, a
per-channel multiplication in fixed point. Slots are fixed from the base calibration, so that re-planning never changes
the program.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from knerex_jax.fixedpoint.qformat import data_limits, own_format
from knerex_jax.graph.ir import Model, Node, TensorType, sort_nodes
from knerex_jax.ops.build import softmax_difference
from knerex_jax.ops.norm import BatchNormAttrs
from knerex_jax.ops.shape import ReshapeAttrs
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.structure import Structure
from knerex_jax.targets.spec import Target

Slots = tuple[tuple[str, tuple[str, ...]], ...]
"""(tensor, nodes that read it through the slot); no nodes: the model's output of that name comes out of the slot."""


def find_slots(
    model: Model, structure: Structure, plan: QuantPlan, absmax: Mapping[str, np.ndarray], target: Target
) -> Slots:
    """Tensors with several readers that a forced scale lowers by more than one bit.

    Args:
      model: decomposed.
      structure: its constraint problem.
      plan: its formats without slots.
      absmax: range of every tensor by channel, before any is made per layer.
      target: platform.
    """
    graph, slots = model.graph, []

    def lowered(t: str) -> bool:
        f = plan.formats[t]
        own = own_format(absmax[t], data_limits(f.bits)[1], f.bits)[0]
        # The imposed radix is one per layer on shift-only targets; its own would be, too.
        own = own if target.per_channel_radix else np.full_like(own, own.min())
        return bool((own - f.radix).max() > 1)

    for y, operands in structure.merges.items():
        if softmax_difference(graph.producer[y], graph):
            continue  # a softmax takes the peak off the very codes it was found in
        for t in dict.fromkeys(operands):
            if (len(graph.readers[t]) > 1 or t in graph.outputs) and lowered(t):
                slots.append((t, (graph.producer[y].name,)))
    if target.per_channel_radix:
        taken = {t for t, _ in slots}
        for t in structure.tensors:
            forcing = tuple(n.name for n in graph.readers.get(t, ()) if _forces_layer(n, t, model, structure))
            # A table by its own choice per layer, or an input of the model, has no channels to win back.
            if forcing and len(forcing) < len(graph.readers[t]) and t in absmax and t not in taken:
                if t not in structure.alone and t not in graph.outputs and lowered(t):
                    slots.append((t, forcing))
    return tuple(slots)


def _forces_layer(reader: Node, tensor: str, model: Model, structure: Structure) -> bool:
    """Whether a reader, directly or behind moves that rename places, makes a tensor per layer."""
    if _is_peak(reader, model):
        return False
    if tensor in structure.forced.get(reader.name, ()):
        return True
    y = reader.outputs[0]
    if y not in structure.aliases or structure.aliases[y][0] != tensor:
        return False
    return y in model.graph.outputs or any(
        _forces_layer(n, y, model, structure) for n in model.graph.readers.get(y, ())
    )


def _is_peak(reader: Node, model: Model) -> bool:
    """Whether a reader finds the maximum that a softmax subtracts."""
    after = model.graph.readers.get(reader.outputs[0], ())
    return any(softmax_difference(n, model.graph) and n.inputs[1] == reader.outputs[0] for n in after)


def insert_slots(model: Model, slots: Slots, axes: Mapping[str, int | None]) -> tuple[Model, dict[str, str]]:
    """Puts a BatchNormalization by ones at every slot, between Reshapes where the channels are not on axis 1.

    Args:
      model: decomposed.
      slots: where.
      axes: tensor -> channel axis.

    Returns:
      the new model, and tensors of the slots -> the tensor they carry.
    """
    graph, constants, types = model.graph, dict(model.constants), dict(model.graph.types)
    nodes = {n.name: n for n in graph.nodes}
    copies: dict[str, str] = {}
    axes = dict(axes)
    for t, readers in slots:
        stem = f"{t}_rescale_{sum(t == source for source in copies.values())}"
        source, result = t, stem
        if not readers:
            source, result = f"{t}_unscaled", t
            types[source] = types[t]
            copies[source] = t
            nodes = {k: _renamed(n, t, source) for k, n in nodes.items()}
        maker = next((n for n in nodes.values() if source in n.outputs), None)
        # Behind an input of the model a slot stands for what reads it.
        origin, wide = (nodes[readers[0]].origin, False) if maker is None else (maker.origin, maker.wide)
        axes[result] = axes[t]
        shape, axis = types[t].shape, 1 if axes[t] is None else axes[t]
        flat = shape if axis == 1 else (int(np.prod(shape[:axis])), *shape[axis:])
        inner, outer = (source, result) if flat == shape else (f"{stem}/flat", f"{stem}/scaled")
        names = _ones(stem, flat[1], constants, types)
        steps = [Node(stem, "BatchNormalization", (inner, *names), (outer,), BatchNormAttrs(epsilon=0.0))]
        if flat != shape:
            steps.insert(0, Node(f"{stem}/in", "Reshape", (source,), (inner,), ReshapeAttrs(flat)))
            steps.append(Node(f"{stem}/out", "Reshape", (outer,), (result,), ReshapeAttrs(shape)))
        for step in steps:
            nodes[step.name] = replace(step, origin=origin, wide=wide and result != t)
            types[step.outputs[0]] = replace(types[t], shape=shape if step.outputs[0] == result else flat)
        if outer != t:
            copies[outer] = t
        for reader in readers:
            node = nodes[reader]
            nodes[reader] = replace(node, inputs=tuple(result if i == t else i for i in node.inputs))
    ordered = sort_nodes(nodes.values(), [*graph.inputs, *constants])
    return Model(replace(graph, nodes=ordered, types=types), constants), copies


def _renamed(node: Node, old: str, new: str) -> Node:
    inputs, outputs = (tuple(new if t == old else t for t in names) for names in (node.inputs, node.outputs))
    return replace(node, inputs=inputs, outputs=outputs)


def _ones(stem: str, channels: int, constants: dict[str, np.ndarray], types: dict[str, TensorType]) -> tuple[str, ...]:
    """Names of new constants of a BatchNormalization that does nothing."""
    arrays = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "var": np.ones}
    for key, make in arrays.items():
        constants[f"{stem}/{key}"], types[f"{stem}/{key}"] = (
            make(channels, np.float32),
            TensorType("float32", (channels,)),
        )
    return tuple(f"{stem}/{key}" for key in arrays)
