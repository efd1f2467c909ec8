"""The last rewrites: what is data but not yet quantized gets a node of its own, which is then quantized as any."""

import numpy as np

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops import REGISTRY
from knerex_jax.passes.base import GraphBuilder, Registry, rewrite


@rewrite("Add", "Sub", "Mul", "Max", "Min", "Concat", "MatMul")
def constants_to_operands(b: GraphBuilder, node: Node) -> None:
    """Gives a constant operand a node and with it a number format.

    Before: y = Add(x, c) and the like, x quantized, c a float32 constant that is no weight
    After:  y = Add(x, Identity(c))
    """
    if b.is_exact(node.outputs[0]):
        return
    inputs = list(node.inputs)
    for i, t in enumerate(inputs):
        value = b.constant(t)
        if value is None or value.dtype != np.float32 or _is_weight(node, i, value):
            continue
        inputs[i] = b.beside(node, "Identity", t, name=f"{node.name}.constant{i}")
    if tuple(inputs) != node.inputs:
        b.reconnect(node, inputs)


def _is_weight(node: Node, index: int, value: np.ndarray) -> bool:
    """Whether a matrix product takes the constant as the weights of a `mac`."""
    return node.op_type == "MatMul" and index == 1 and value.ndim >= 2 and all(n == 1 for n in value.shape[:-2])


def quantize_exact(model: Model, registry: Registry = REGISTRY) -> Model:
    """Marks where real numbers that follow from integers alone (masks) meet numbers that are quantized.

    Before: y = Add(x, mask), mask computed from integer inputs
    After:  y = Add(x, Identity(mask))
    """
    exact = model.exact
    builder = GraphBuilder(model, registry)
    made: dict[str, str] = {}
    for node in model.graph.nodes:
        read = [t for t in node.inputs if t in exact and model.graph.types[t].real]
        coded = any(t not in exact and t not in model.constants for t in node.inputs if t)
        if not read or not coded or node.op_type == "Identity":
            continue
        for t in read:
            if t not in made:
                made[t] = builder.beside(node, "Identity", t, name=f"{t}.codes")
        builder.reconnect(node, [made.get(t, t) for t in node.inputs])
    return builder.model()
