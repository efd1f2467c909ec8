"""align, mul and matmul (rules 3 and 4): operators on two or more activations, with broadcasting."""

from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx

from .formats import Format
from .graph import Graph, Step, expect, label_of
from .integers import check_shift, mantissa, saturate, shr

MAX_RADIX_SPREAD = 16
EXTRA_RADIX = 8  # operands with scales of their own meet at radix r_y + 8

COMBINE: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
    "Add": lambda values: values[0] + values[1],
    "Sub": lambda values: values[0] - values[1],
    "Sum": lambda values: reduce(np.add, values),
    "Max": lambda values: reduce(np.maximum, values),
    "Min": lambda values: reduce(np.minimum, values),
}


def _psum_bits(operands: list[Format]) -> int:
    return 48 if any(x.bits == 15 for x in operands) else 32


def prepare_align(graph: Graph, node: onnx.NodeProto) -> Step:
    """Add, Sub, Sum: scales shared on shift-only targets, free on others; Max, Min: always shared."""
    operands = [graph.format(name) for name in node.input]
    y = graph.format(node.output[0])
    if node.op_type in ("Max", "Min") or not graph.post_multiplier:
        run, constants = _align_shared(node, operands, y)
    else:
        run, constants = _align_free(node, operands, y)
    return Step(label_of(node), tuple(node.input), (node.output[0],), run, constants)


def _align_shared(
    node: onnx.NodeProto, operands: list[Format], y: Format
) -> tuple[Callable[..., np.ndarray], dict[str, np.ndarray]]:
    label, psum = label_of(node), _psum_bits(operands)
    radixes = [x.radix_map() for x in operands]
    # Radices differ by at most 16: beyond that the smaller operand is rescaled first, to the common radix.
    largest = np.minimum(reduce(np.maximum, radixes), reduce(np.minimum, radixes) + MAX_RADIX_SPREAD)
    shifts = [radix - largest for radix in radixes]
    last = check_shift(largest - y.radix_map(), label)

    def run(*codes: np.ndarray) -> np.ndarray:
        aligned = [saturate(shr(x, n), psum) for x, n in zip(codes, shifts, strict=True)]
        return saturate(shr(saturate(COMBINE[node.op_type](aligned), psum), last), y.bits)

    return run, {"shift": last, **{f"shift{k}": n for k, n in enumerate(shifts)}}


def _align_free(
    node: onnx.NodeProto, operands: list[Format], y: Format
) -> tuple[Callable[..., np.ndarray], dict[str, np.ndarray]]:
    label, psum = label_of(node), _psum_bits(operands)
    common = y.radix_map() + EXTRA_RADIX
    multipliers, shifts = [], []
    for x in operands:
        m, e = mantissa(y.scale_map() / x.scale_map())
        multipliers.append(m)
        shifts.append(check_shift(15 - e + x.radix_map() - common, label))

    def run(*codes: np.ndarray) -> np.ndarray:
        aligned = [saturate(shr(x * m, n), psum) for x, m, n in zip(codes, multipliers, shifts, strict=True)]
        return saturate(shr(saturate(COMBINE[node.op_type](aligned), psum), EXTRA_RADIX), y.bits)

    constants = {f"m{k}": m for k, m in enumerate(multipliers)}
    return run, constants | {f"n{k}": n for k, n in enumerate(shifts)}


def prepare_mul(graph: Graph, node: onnx.NodeProto) -> Step:
    """Mul of two activations: sat_out(shr(a * b, r_a + r_b - r_y))."""
    a, b, y = (graph.format(name) for name in (*node.input, node.output[0]))
    shift = check_shift(a.radix_map() + b.radix_map() - y.radix_map(), label_of(node))

    def run(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return saturate(shr(left * right, shift), y.bits)

    return Step(label_of(node), tuple(node.input), (node.output[0],), run, {"shift": shift})


def prepare_matmul(graph: Graph, node: onnx.NodeProto) -> Step:
    """MatMul of two activations: exact sum, then the shift of mul."""
    a, b, y = (graph.format(name) for name in (*node.input, node.output[0]))
    expect(min(len(a.shape), len(b.shape)) >= 2, node, "operands of rank 2 and more are required")
    r_a, r_b = a.radix_map(), b.radix_map()
    expect(r_a.shape[-1] == 1 and r_b.shape[-2] == 1, node, "the summed axis must be per layer")
    shift = check_shift(r_a + r_b - y.radix_map(), label_of(node))

    def run(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return saturate(shr(np.matmul(left, right), shift), y.bits)

    return Step(label_of(node), tuple(node.input), (node.output[0],), run, {"shift": shift})


def has_constant_operand(graph: Graph, node: onnx.NodeProto) -> bool:
    return any(graph.is_constant(name) for name in node.input)
