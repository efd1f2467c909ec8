"""poolsum and maxpool / reducemax (rules 5 and 6)."""

from collections.abc import Callable

import numpy as np
import onnx

from .formats import Format
from .graph import Graph, Step, attributes, expect, label_of
from .integers import check_shift, saturate, shr
from .spatial import Window, read_window

BELOW_ALL_CODES = -(2**40)  # padding of a maximum


def prepare_pool(graph: Graph, node: onnx.NodeProto) -> Step:
    """AveragePool and MaxPool."""
    x, y = graph.format(node.input[0]), graph.format(node.output[0])
    expect(len([name for name in node.output if name]) == 1, node, "the second output is not known")
    expect(all(size == 1 for size in x.radix_map().shape[2:]), node, "the format varies along a spatial axis")
    window = read_window(node, tuple(attributes(node)["kernel_shape"]), x.shape[2:])
    out = y.shape[2:]
    if node.op_type == "MaxPool":
        return _extreme(node, lambda codes: _window_maximum(codes, window, out), x.radix_map(), y, y.radix_map())

    include_pad = bool(attributes(node).get("count_include_pad", 0))
    count = _window_count(x.shape[2:], window, include_pad, out)
    expect(bool(np.all(count > 0)), node, "a window lies in the padding alone")
    return _average(node, lambda codes: _window_sum(codes, window, out), count, x.radix_map(), y, y.radix_map())


def _window_count(spatial: tuple[int, ...], window: Window, include_pad: bool, out: tuple[int, ...]) -> np.ndarray:
    """How many positions of each window count: those of the input, and of the stated padding if that is included.

    What ceil_mode adds beyond the stated padding never counts.
    """
    padded = window.padded(np.ones((1, 1, *spatial), dtype=np.int64), 0, out)
    if include_pad:
        sizes = zip(window.begin, spatial, window.end, strict=True)
        padded[(0, 0, *(slice(0, sum(size)) for size in sizes))] = 1
    return sum(window.at(padded, tap, out) for tap in window.taps())


def _window_sum(x: np.ndarray, window: Window, out: tuple[int, ...]) -> np.ndarray:
    padded = window.padded(x, 0, out)
    return sum(window.at(padded, tap, out) for tap in window.taps())


def _window_maximum(x: np.ndarray, window: Window, out: tuple[int, ...]) -> np.ndarray:
    padded = window.padded(x, BELOW_ALL_CODES, out)
    result = np.max([window.at(padded, tap, out) for tap in window.taps()], axis=0)
    assert result.min() > BELOW_ALL_CODES, "a window of a MaxPool lies in the padding alone"
    return result


def prepare_reduction(graph: Graph, node: onnx.NodeProto) -> Step:
    """GlobalAveragePool, GlobalMaxPool, ReduceMean, ReduceSum, ReduceMax, ReduceMin."""
    x, y = graph.format(node.input[0]), graph.format(node.output[0])
    axes = _reduced_axes(graph, node, len(x.shape))
    radix_x = x.radix_map()
    expect(all(radix_x.shape[axis] == 1 for axis in axes), node, "the format varies along a reduced axis")
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    radix_y = y.full_radix().reshape(kept)  # keepdims=0 only drops axes of size 1

    if node.op_type in ("GlobalMaxPool", "ReduceMax"):
        return _extreme(node, lambda codes: np.max(codes, axis=axes, keepdims=True), radix_x, y, radix_y)
    if node.op_type == "ReduceMin":
        return _extreme(node, lambda codes: np.min(codes, axis=axes, keepdims=True), radix_x, y, radix_y)

    def total(codes: np.ndarray) -> np.ndarray:
        return np.sum(codes, axis=axes, keepdims=True)

    if node.op_type == "ReduceSum":
        shift = check_shift(radix_x - radix_y, label_of(node))
        return _step(node, lambda codes: saturate(shr(total(codes), shift), y.bits), y, {"shift": shift})
    count = np.array(int(np.prod([x.shape[axis] for axis in axes])), dtype=np.int64)
    return _average(node, total, count, radix_x, y, radix_y)


def _reduced_axes(graph: Graph, node: onnx.NodeProto, rank: int) -> tuple[int, ...]:
    if node.op_type.startswith("Global"):
        return tuple(range(2, rank))
    axes = graph.constant(node, 1)
    listed = attributes(node).get("axes", []) if axes is None else axes.reshape(-1)
    if len(listed) == 0:
        return () if attributes(node).get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in listed))


def _average(
    node: onnx.NodeProto,
    total: Callable[[np.ndarray], np.ndarray],
    count: np.ndarray,
    radix_x: np.ndarray,
    y: Format,
    radix_y: np.ndarray,
) -> Step:
    """sat_out(shr(sum * m, k)), m = rint(2**(15 + e) / count), e = floor(log2(count)), k = 15 + e + r_x - r_y."""
    e = np.frexp(count.astype(np.float64))[1].astype(np.int64) - 1
    m = np.rint(2.0 ** (15 + e) / count).astype(np.int64)
    k = 15 + e + radix_x - radix_y
    whole = m == 2**15  # written 2**14, k - 1
    m, k = np.where(whole, 2**14, m), check_shift(np.where(whole, k - 1, k), label_of(node))
    return _step(node, lambda codes: saturate(shr(total(codes) * m, k), y.bits), y, {"m": m, "k": k})


def _extreme(
    node: onnx.NodeProto,
    extreme: Callable[[np.ndarray], np.ndarray],
    radix_x: np.ndarray,
    y: Format,
    radix_y: np.ndarray,
) -> Step:
    shift = check_shift(radix_x - radix_y, label_of(node))
    return _step(node, lambda codes: saturate(shr(extreme(codes), shift), y.bits), y, {"shift": shift})


def _step(
    node: onnx.NodeProto, run: Callable[[np.ndarray], np.ndarray], y: Format, constants: dict[str, np.ndarray]
) -> Step:
    return Step(
        label_of(node), (node.input[0],), (node.output[0],), lambda codes: run(codes).reshape(y.shape), constants
    )
