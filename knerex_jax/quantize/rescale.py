"""Rescale slots: where sharing one scale would cost an operand more than a bit. Section 2 of the contract.

A slot is a BatchNormalization by ones between a tensor and the node that forces the sharing: the identity in float, a
per-channel multiplication in fixed point. Slots are fixed from the base calibration, so that re-planning never changes
the program.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from knerex_jax.fixedpoint.qformat import data_limits, own_format
from knerex_jax.graph.ir import Model, Node, TensorType, sort_nodes
from knerex_jax.ops.norm import BatchNormAttrs
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.structure import Structure

Slots = tuple[tuple[str, str], ...]
"""(tensor, node that reads it through the slot)."""


def find_slots(model: Model, structure: Structure, plan: QuantPlan, absmax: Mapping[str, np.ndarray]) -> Slots:
    """Operands whose shared scale lowers their radix by more than one bit, and which something else reads too."""
    graph, slots = model.graph, []
    for y, operands in structure.merges.items():
        for t in dict.fromkeys(operands):
            if len(graph.readers[t]) < 2 and t not in graph.outputs:
                continue
            f = plan.formats[t]
            own = own_format(absmax[t], data_limits(f.bits)[1], f.bits)[0]
            # The imposed radix is one per layer on shift-only targets; its own would be, too.
            own = np.full_like(own, own.min()) if len(f.radix) == 1 or (f.radix == f.radix[0]).all() else own
            if (own - f.radix).max() > 1:
                slots.append((t, graph.producer[y].name))
    return tuple(slots)


def insert_slots(model: Model, slots: Slots) -> tuple[Model, dict[str, str]]:
    """Puts a BatchNormalization by ones at every slot.

    Returns:
      the new model, and slot output tensor -> the tensor it copies.
    """
    graph, constants, types = model.graph, dict(model.constants), dict(model.graph.types)
    nodes = {n.name: n for n in graph.nodes}
    copies = {}
    for t, reader in slots:
        output = f"{t}_rescale_{len(copies)}"
        channels = graph.shape(t)[1]
        arrays = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "var": np.ones}
        names = tuple(f"{output}/{key}" for key in arrays)
        for name, make in zip(names, arrays.values(), strict=True):
            constants[name], types[name] = make(channels, np.float32), TensorType("float32", (channels,))
        types[output] = types[t]
        attrs = BatchNormAttrs(epsilon=0.0)
        nodes[output] = Node(output, "BatchNormalization", (t, *names), (output,), attrs, origin=nodes[reader].origin)
        nodes[reader] = replace(nodes[reader], inputs=tuple(output if i == t else i for i in nodes[reader].inputs))
        copies[output] = t
    ordered = sort_nodes(nodes.values(), [*graph.inputs, *constants])
    return Model(replace(graph, nodes=ordered, types=types), constants), copies
