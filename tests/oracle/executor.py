"""Runs a planned model on codes, node by node, sample by sample."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .activations import ALONE, prepare_act
from .constants import prepare_constant, prepare_lookup
from .elementwise import has_constant_operand, prepare_align, prepare_matmul, prepare_mul
from .errors import OracleError
from .formats import Format
from .graph import Graph, Step, attributes, label_of
from .integers import quantize
from .interpolation import prepare_interp
from .mac import prepare_mac
from .movement import READERS as MOVES
from .movement import prepare_move
from .pooling import prepare_pool, prepare_reduction
from .reference import prepare_island, prepare_plain
from .tables import TABLES, prepare_table

Prepare = Callable[[Graph, onnx.NodeProto], Step]

BY_OPERATOR: dict[str, Prepare] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "BatchNormalization"), prepare_mac),
    **dict.fromkeys(("Sum", "Max", "Min"), prepare_align),
    **dict.fromkeys(ALONE, prepare_act),
    **dict.fromkeys(("AveragePool", "MaxPool"), prepare_pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), prepare_reduction),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), prepare_reduction),
    **dict.fromkeys(MOVES, prepare_move),
    **dict.fromkeys(TABLES, prepare_table),
}


@dataclass(frozen=True)
class OracleResult:
    """`codes`: quantized tensor -> int64 [N, *shape without a leading 1]; `plain`: likewise for the computed others.

    `constants`: node name -> what was derived. Weights keep the layout of the ONNX constant; vectors have one entry per
    output channel (one in all where constant and formats are the same everywhere).
    """

    codes: dict[str, np.ndarray]
    plain: dict[str, np.ndarray]
    constants: dict[str, dict[str, np.ndarray]]


def run_oracle(model: onnx.ModelProto, plan: dict[str, Any], inputs: dict[str, np.ndarray]) -> OracleResult:
    """Codes of every planned tensor, and every integer constant, for N samples of each model input."""
    graph = Graph(model, plan)
    steps = prepare(graph)
    if set(inputs) != set(graph.inputs):
        raise OracleError(f"inputs {sorted(inputs)} were given, the model has {sorted(graph.inputs)}")
    samples = {len(values) for values in inputs.values()}
    if len(samples) != 1:
        raise OracleError(f"the inputs have different numbers of samples: {sorted(samples)}")

    runs = []
    for sample in range(samples.pop()):
        runs.append(_run_sample(graph, steps, {name: values[sample] for name, values in inputs.items()}))
        missing = set(plan["tensors"]) - set(runs[-1])
        if missing:
            raise OracleError(f"no node computes these tensors of the plan: {sorted(missing)}")
    plain = [name for name in runs[0] if graph.is_plain(name) and not graph.is_constant(name)]
    constants = {step.label: {key: np.asarray(value) for key, value in step.constants.items()} for step in steps}
    return OracleResult(_stacked(runs, plan["tensors"]), _stacked(runs, plain), constants)


def prepare(graph: Graph) -> list[Step]:
    """One step per node, in the model's (topological) order; a fused activation belongs to its weighted node."""
    absorbed = set(graph.fused.values())
    for name in (*graph.fused, *absorbed, *graph.islands):
        graph.node(name)
    return [_prepare_node(graph, node) for node in graph.nodes if label_of(node) not in absorbed]


def _prepare_node(graph: Graph, node: onnx.NodeProto) -> Step:
    if node.domain not in ("", "ai.onnx"):
        raise OracleError(f"{label_of(node)}: domain {node.domain} is not known")
    rule = _rule_for(graph, node)
    if label_of(node) in graph.fused and rule is not prepare_mac:
        raise OracleError(f"{label_of(node)} ({node.op_type}): an activation fuses only into a weighted node")
    return rule(graph, node)


def _rule_for(graph: Graph, node: onnx.NodeProto) -> Prepare:
    if label_of(node) in graph.islands:
        return prepare_island
    if all(graph.is_plain(name) for name in node.output if name):
        return prepare_plain
    if node.op_type == "Identity" and graph.is_constant(node.input[0]):
        return prepare_constant
    if node.op_type == "Gather" and graph.is_constant(node.input[0]):
        return prepare_lookup
    if node.op_type in ("Mul", "Add", "Sub", "MatMul") and has_constant_operand(graph, node):
        return prepare_mac
    if node.op_type in ("Add", "Sub"):
        return prepare_align
    if node.op_type == "Mul":
        return prepare_mul
    if node.op_type == "MatMul":
        return prepare_matmul
    if node.op_type == "Resize" and attributes(node).get("mode", "nearest") != "nearest":
        return prepare_interp
    if node.op_type not in BY_OPERATOR:
        raise OracleError(f"{label_of(node)}: no rule for operator {node.op_type}")
    return BY_OPERATOR[node.op_type]


def _run_sample(graph: Graph, steps: list[Step], sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of all tensors: codes of the quantized ones, the elements of the others, plain constants included."""
    held = {name: value for name, value in graph.constants.items() if graph.is_plain(name)}
    held.update({name: _read_input(graph, name, values) for name, values in sample.items()})
    for step in steps:
        values = step.run(*(held[name] for name in step.inputs))
        values = values if isinstance(values, tuple) else (values,)
        for name, value in zip(step.outputs, values, strict=True):
            if value.shape != graph.shape(name):
                raise OracleError(f"{step.label}: {name} has shape {value.shape}, not {graph.shape(name)}")
            held[name] = value
    return held


def _read_input(graph: Graph, name: str, values: np.ndarray) -> np.ndarray:
    shape = graph.shape(name)
    if values.size != int(np.prod(shape)):
        raise OracleError(f"{name}: a sample of shape {values.shape} does not fill the model's {shape}")
    values = values.reshape(shape)
    return values if graph.is_plain(name) else quantize_input(values, graph.format(name))


def quantize_input(values: np.ndarray, fmt: Format) -> np.ndarray:
    """Codes of a model input (rule 11): saturate(rint(x * float32(scale * 2**radix))), one float32 product."""
    radix, scale = fmt.layer()
    if not np.all(np.isfinite(values)):
        raise OracleError(f"input {fmt.name} holds NaN or infinity")
    factor = np.float32(np.ldexp(scale, radix))
    with np.errstate(over="ignore"):  # a product beyond float32 is infinite and saturates
        product = values.astype(np.float32) * factor
    return quantize(product, fmt.low, fmt.high, fmt.name)


def _stacked(runs: list[dict[str, np.ndarray]], names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: np.stack([_without_batch_axis(held[name]) for held in runs]) for name in names}


def _without_batch_axis(values: np.ndarray) -> np.ndarray:
    return values[0] if values.ndim and values.shape[0] == 1 else values
