"""act (rule 2): on the partial sum p inside a mac, or alone on codes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from .errors import OracleError
from .graph import Graph, Step, expect, float_attribute, label_of
from .integers import check_shift, quantize, saturate, shr, signed_range

FUSABLE = ("Relu", "Clip", "LeakyRelu", "PRelu")
ALONE = ("Relu", "Clip", "LeakyRelu", "PRelu", "Neg", "Abs")
MAX_SLOPE_SHIFT = 30
Unit = tuple[np.ndarray, np.ndarray]  # scale and radix


@dataclass(frozen=True)
class Act:
    run: Callable[[np.ndarray], np.ndarray]
    constants: dict[str, np.ndarray]


def clip_bounds(graph: Graph, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """Lower and upper bound of a Clip, None where absent."""
    bounds = []
    for position in (1, 2):
        value = graph.constant(node, position)
        expect(value is None or value.size == 1, node, "a Clip bound must be a scalar")
        bounds.append(None if value is None else float(value.reshape(())))
    return bounds[0], bounds[1]


def make_act(graph: Graph, node: onnx.NodeProto, unit: Unit, value_bits: int, data_bits: int) -> Act:
    """The activation on integers of `value_bits` bits whose unit is `unit` = (scale, radix), as maps of its rank.

    `data_bits` is the width of the data (8 or 15), which decides the precision of slopes.
    """
    if node.op_type == "Relu":
        return Act(lambda p: np.maximum(0, p), {})
    if node.op_type == "Clip":
        return _make_clip(graph, node, unit, value_bits)
    if node.op_type in ("LeakyRelu", "PRelu"):
        return _make_slope(graph, node, value_bits, data_bits)
    if node.op_type == "Neg":
        return Act(lambda p: -p, {})
    if node.op_type == "Abs":
        return Act(lambda p: np.where(p < 0, -p, p), {})
    raise OracleError(f"{label_of(node)} ({node.op_type}): not an activation of rule 2")


def _make_clip(graph: Graph, node: onnx.NodeProto, unit: Unit, value_bits: int) -> Act:
    scale, radix = unit
    low, high = signed_range(value_bits)
    constants = {}
    for name, bound in zip(("lo", "hi"), clip_bounds(graph, node), strict=True):
        if bound is not None:
            real = np.ldexp(bound * scale, radix.astype(np.int32))
            constants[name] = quantize(real, low, high, f"{label_of(node)}: {name}")

    def run(p: np.ndarray) -> np.ndarray:
        if "lo" in constants:
            p = np.maximum(p, constants["lo"])
        if "hi" in constants:
            p = np.minimum(p, constants["hi"])
        return p

    return Act(run, constants)


def _make_slope(graph: Graph, node: onnx.NodeProto, value_bits: int, data_bits: int) -> Act:
    if node.op_type == "LeakyRelu":
        slope = np.array(float_attribute(node, "alpha", 0.01))
    else:
        slope = graph.required_constant(node, 1).astype(np.float64)
    pairs = [slope_code(float(value), data_bits, label_of(node)) for value in slope.reshape(-1)]
    a = np.array([pair[0] for pair in pairs], dtype=np.int64).reshape(slope.shape)
    k = np.array([pair[1] for pair in pairs], dtype=np.int64).reshape(slope.shape)
    return Act(lambda p: np.where(p < 0, saturate(shr(p * a, k), value_bits), p), {"a": a, "k": k})


def slope_code(slope: float, data_bits: int, where: str) -> tuple[int, int]:
    """(a, k): a = rint(slope * 2**k), k <= 30 the largest integer with |a| <= 127 (15-bit data: 16383)."""
    limit = 2 ** (data_bits - 1) - 1
    for k in range(MAX_SLOPE_SHIFT, -17, -1):
        a = int(np.rint(np.ldexp(slope, k)))
        if abs(a) <= limit:
            return a, k
    raise OracleError(f"{where}: slope {slope} is too large")


def prepare_act(graph: Graph, node: onnx.NodeProto) -> Step:
    """An activation alone: sat_out(shr(act(x), r_x - r_y))."""
    label = label_of(node)
    x, y = graph.format(node.input[0]), graph.format(node.output[0])
    act = make_act(graph, node, (x.scale_map(), x.radix_map()), x.bits, x.bits)
    shift = check_shift(x.radix_map() - y.radix_map(), label)

    def run(codes: np.ndarray) -> np.ndarray:
        return saturate(shr(act.run(codes), shift), y.bits)

    return Step(label, (node.input[0],), (node.output[0],), run, {**act.constants, "shift": shift})
