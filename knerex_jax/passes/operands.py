"""The last rewrites: what is data but not yet quantized gets a node of its own, which is then quantized as any."""

import numpy as np

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
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


def quantize_weighted(model: Model, registry: Registry = REGISTRY) -> Model:
    """Marks where real numbers that follow from integers alone (pictures of uint8) reach the first weights.

    Before: y = Conv(x, w), x computed from integer inputs (Cast, Mul)
    After:  y = Conv(Identity(x), w)

    A weight by which one number at a time is multiplied (a table of frequencies times positions) makes no network.
    """
    exact = model.exact
    builder = GraphBuilder(model, registry)
    made: dict[str, str] = {}
    for node in model.graph.nodes:
        index = op_of(node, registry).weight
        if index is None or node.op_type not in _NETWORK or node.inputs[0] not in exact:
            continue
        weight = builder.constant(node.inputs[index])
        if weight is None or not model.graph.types[node.inputs[0]].real:
            continue
        if node.op_type in ("Gemm", "MatMul") and model.graph.shape(node.inputs[0])[-1] == 1:
            continue
        (x, *rest) = node.inputs
        if x not in made:
            made[x] = builder.beside(node, "Identity", x, name=f"{x}.codes")
        builder.reconnect(node, [made[x], *rest])
    return builder.model()


_NETWORK = ("Conv", "ConvTranspose", "Gemm", "MatMul")


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
