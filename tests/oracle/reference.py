"""Nodes that onnx.reference computes: plain tensors exactly, islands (rule 10) in float64."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from .graph import Graph, Step, expect, label_of

Convert = Callable[[np.ndarray], np.ndarray]


def reference_of(graph: Graph, node: onnx.NodeProto) -> Callable[..., list[np.ndarray]]:
    """The node's operator as a function of arrays, one for each of its present inputs, in their order."""
    names = [name for name in dict.fromkeys(node.input) if name]
    outputs = [name for name in node.output if name]
    # The evaluator does not compare element types with what is stated here.
    stated = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in side] for side in (names, outputs)
    ]
    model = helper.make_model(helper.make_graph([node], "one", *stated), opset_imports=graph.opsets, ir_version=10)
    evaluator = ReferenceEvaluator(model)
    present = [name for name in node.input if name]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            results = evaluator.run(outputs, dict(zip(present, arrays, strict=True)))
        return [np.asarray(result) for result in results]

    return run


def prepare_plain(graph: Graph, node: onnx.NodeProto) -> Step:
    """Plain tensors made of plain ones and constants; floats among them are computed in float64 and kept in float32."""
    sources = [name for name in node.input if name and not graph.is_constant(name)]
    expect(all(graph.is_plain(name) for name in sources), node, "a plain result of a quantized tensor needs an island")
    return prepare_island(graph, node)


def prepare_island(graph: Graph, node: onnx.NodeProto) -> Step:
    """Dequantize, compute in float64, quantize; integers and booleans go through as they are."""
    present = [name for name in node.input if name]
    computed = tuple(name for name in present if not graph.is_constant(name))
    fixed = {name: _widened(graph.constants[name]) for name in present if graph.is_constant(name)}
    readers = {name: _dequantizer(graph, name) for name in computed}
    outputs = tuple(name for name in node.output if name)
    writers = [_quantizer(graph, name) for name in outputs]
    reference = reference_of(graph, node)

    def run(*values: np.ndarray) -> tuple[np.ndarray, ...]:
        real = fixed | {name: readers[name](value) for name, value in zip(computed, values, strict=True)}
        results = reference(*(real[name] for name in present))
        return tuple(write(result) for write, result in zip(writers, results, strict=True))

    return Step(label_of(node), computed, outputs, run)


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _dequantizer(graph: Graph, name: str) -> Convert:
    if graph.is_plain(name):
        return _widened
    inverse = _as_float32(1 / graph.format(name).factor_map()).astype(np.float64)
    return lambda codes: codes.astype(np.float64) * inverse


def _quantizer(graph: Graph, name: str) -> Convert:
    if graph.is_plain(name):
        return lambda value: _as_float32(value) if value.dtype.kind == "f" else value
    fmt = graph.format(name)
    factor = _as_float32(fmt.factor_map()).astype(np.float64)

    def quantize(value: np.ndarray) -> np.ndarray:
        real = value.astype(np.float64) * factor
        return np.clip(np.rint(np.where(np.isnan(real), 0.0, real)), fmt.low, fmt.high).astype(np.int64)

    return quantize


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
