"""Constants that enter as data: whole tensors, and tables from which rows are picked."""

import numpy as np
import onnx

from .formats import Format
from .graph import Graph, Step, attributes, expect, label_of
from .integers import quantize


def _codes_of(values: np.ndarray, fmt: Format, where: str) -> np.ndarray:
    """saturate(rint(c * (scale * 2**radix))) in float64, channel by channel."""
    return quantize(values.astype(np.float64) * fmt.factor_map(), fmt.low, fmt.high, where)


def prepare_constant(graph: Graph, node: onnx.NodeProto) -> Step:
    """Identity of a float initializer: the codes of the constant."""
    label = label_of(node)
    codes = _codes_of(graph.required_constant(node, 0), graph.format(node.output[0]), label)
    return Step(label, (), (node.output[0],), lambda: codes, {"codes": codes})


def prepare_lookup(graph: Graph, node: onnx.NodeProto) -> Step:
    """Gather of rows of a float initializer by plain indices; negative ones count from the end.

    The rows are picked as floats and quantized in their place, which gives the codes of a table that was quantized
    first: every element has the format of its own place.
    """
    label, axis = label_of(node), int(attributes(node).get("axis", 0))
    table, y = graph.required_constant(node, 0), graph.format(node.output[0])
    expect(graph.is_plain(node.input[1]), node, "the indices must be integers")

    def run(indices: np.ndarray) -> np.ndarray:
        return _codes_of(np.take(table, indices, axis=axis), y, label)

    return Step(label, (node.input[1],), (node.output[0],), run)
