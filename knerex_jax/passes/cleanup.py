"""Rewrites that remove what does nothing."""

from dataclasses import replace
from itertools import count

import numpy as np

from knerex_jax.graph.ir import Model, Node, prune
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.shape import full_pads, slices
from knerex_jax.passes.base import GraphBuilder, Registry, rewrite

_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Pow", "Equal", "Greater", "Less", "And", "Or")


def remove_dead(model: Model, registry: Registry = REGISTRY) -> Model:
    """Removes nodes that no output needs, and constants that no node reads.

    Before: a node whose outputs nothing reads
    After:  nothing
    """
    return prune(model)


def constants_to_outputs(model: Model, registry: Registry = REGISTRY) -> Model:
    """Gives a constant that is an output of the model a node, by which it is quantized as data.

    Before: an output that is the constant c
    After:  the same output, by Identity of a constant of its own
    """
    graph, constants = model.graph, dict(model.constants)
    found = tuple(t for t in dict.fromkeys(graph.outputs) if t in constants)
    if not found:
        return model
    types, nodes, names = dict(graph.types), [], {}
    taken = {*types, *graph.node}
    for t in found:
        names[t] = next(n for k in count() if (n := f"{t}/value{k or ''}") not in taken)
        taken.add(names[t])
        constants[names[t]], types[names[t]] = constants.pop(t), types[t]
        nodes.append(Node(names[t], "Identity", (names[t],), (t,), registry["Identity"].attrs()))
    renamed = (replace(n, inputs=tuple(names.get(t, t) for t in n.inputs)) for n in graph.nodes)
    return Model(replace(graph, nodes=(*nodes, *renamed), types=types), constants)


@rewrite("Identity", "Dropout")
def remove_identity(b: GraphBuilder, node: Node) -> None:
    """Removes copies. One stays where an output of the model is an input, a constant or another output.

    Before: y = Identity(x) or Dropout(x)
    After:  x
    """
    b.bypass(node, node.inputs[0])


@rewrite("Cast")
def remove_cast(b: GraphBuilder, node: Node) -> None:
    """Removes a Cast to the same type.

    Before: y = Cast(x), both of one type
    After:  x
    """
    if b.dtype(node.inputs[0]) == b.dtype(node.outputs[0]):
        b.bypass(node, node.inputs[0])


@rewrite("Slice")
def remove_slice(b: GraphBuilder, node: Node) -> None:
    """Removes a Slice that takes everything in order.

    Before: y = Slice(x), from the first to the last, step 1
    After:  x
    """
    shape = b.shape(node.inputs[0])
    if shape == b.shape(node.outputs[0]) and all(s.step in (None, 1) for s in slices(node.attrs, shape)):
        b.bypass(node, node.inputs[0])


@rewrite("Pad")
def remove_pad(b: GraphBuilder, node: Node) -> None:
    """Removes a Pad of nothing.

    Before: y = Pad(x), all pads 0
    After:  x
    """
    if not any(any(p) for p in full_pads(node.attrs, len(b.shape(node.inputs[0])))):
        b.bypass(node, node.inputs[0])


@rewrite("Concat")
def remove_concat(b: GraphBuilder, node: Node) -> None:
    """Removes a Concat of one tensor, and operands without elements from any other.

    Before: y = Concat(x), or Concat(x, nothing)
    After:  x
    """
    filled = [t for t in node.inputs if 0 not in b.shape(t)]
    if len(filled) == 1:
        b.bypass(node, filled[0])
    elif filled and len(filled) < len(node.inputs):
        b.reconnect(node, filled)


@rewrite("Expand")
def remove_expand(b: GraphBuilder, node: Node) -> None:
    """Removes an Expand that changes nothing, or whose readers broadcast by themselves to the same shape.

    Before: y = Expand(x), read by Add, Mul and the like alone
    After:  x
    """
    x, y = node.inputs[0], node.outputs[0]
    if b.shape(x) == b.shape(y):
        b.bypass(node, x)
        return
    readers = list(b.readers(y))
    if b.is_output(y) or not readers:
        return
    for reader in readers:
        shapes = [b.shape(x if t == y else t) for t in reader.inputs]
        if reader.domain or reader.op_type not in _BROADCASTING:
            return
        if np.broadcast_shapes(*shapes) != b.shape(reader.outputs[0]):
            return
    for reader in readers:
        b.reconnect(reader, [x if t == y else t for t in reader.inputs])


@rewrite("MaxPool", "AveragePool")
def remove_pool(b: GraphBuilder, node: Node) -> None:
    """Removes a pooling over single elements.

    Before: y = MaxPool(x) or AveragePool(x), window 1, stride 1, no padding
    After:  x
    """
    a = node.attrs
    if all(n == 1 for n in (*a.kernel_shape, *a.strides)) and not any(a.pads):
        b.bypass(node, node.inputs[0])
