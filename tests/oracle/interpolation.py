"""Resize: source positions of every mode; interp (rule 8) for linear and cubic."""

import numpy as np
import onnx

from .graph import Graph, Step, attributes, expect, float_attribute, label_of
from .integers import check_shift, saturate, shr


def _scales(graph: Graph, node: onnx.NodeProto) -> list[float]:
    """One float64 factor per axis: the float32 values of `scales`, or output size / input size."""
    values = attributes(node)
    expect(values.get("keep_aspect_ratio_policy", "stretch") == "stretch", node, "only policy stretch is known")
    expect(not values.get("antialias", 0), node, "antialias is not known")
    shape_x, shape_y = graph.shape(node.input[0]), graph.shape(node.output[0])
    rank = len(shape_x)
    axes = [axis % rank for axis in values.get("axes", range(rank))]
    given = graph.constant(node, 2)
    factors = [1.0] * rank
    if given is not None and given.size:
        for axis, factor in zip(axes, given.reshape(-1), strict=True):
            factors[axis] = float(factor)
    else:
        for axis in axes:
            factors[axis] = shape_y[axis] / shape_x[axis]
    return factors


def source_positions(mode: str, size_in: int, size_out: int, factor: float) -> np.ndarray:
    """Where each output position lies on the input axis, float64."""
    position = np.arange(size_out, dtype=np.float64)
    if mode == "asymmetric":
        return position / factor
    if mode == "align_corners":
        return position * (size_in - 1) / (size_out - 1) if size_out > 1 else np.zeros(size_out)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and size_out > 1):
        return (position + 0.5) / factor - 0.5
    assert mode == "pytorch_half_pixel", mode
    return np.zeros(size_out)


def _positions(graph: Graph, node: onnx.NodeProto) -> list[np.ndarray]:
    mode = attributes(node).get("coordinate_transformation_mode", "half_pixel")
    known = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    expect(mode in known, node, f"coordinate_transformation_mode {mode} is not known")
    sizes = zip(graph.shape(node.input[0]), graph.shape(node.output[0]), _scales(graph, node), strict=True)
    return [source_positions(mode, *entry) for entry in sizes]


def nearest_indices(graph: Graph, node: onnx.NodeProto) -> list[np.ndarray]:
    """Source index of every output position, per axis."""
    rounding = {
        "round_prefer_floor": lambda position: np.ceil(position - 0.5),
        "round_prefer_ceil": lambda position: np.floor(position + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    mode = attributes(node).get("nearest_mode", "round_prefer_floor")
    expect(mode in rounding, node, f"nearest_mode {mode} is not known")
    shape = graph.shape(node.input[0])
    return [
        np.clip(rounding[mode](position), 0, size - 1).astype(np.int64)
        for position, size in zip(_positions(graph, node), shape, strict=True)
    ]


def tap_weights(fraction: np.ndarray, mode: str, cubic_a: float) -> np.ndarray:
    """Float weights [position, tap] of the taps floor + 0, 1 (linear) or floor - 1 .. 2 (cubic)."""
    if mode == "linear":
        return np.stack([1 - fraction, fraction], axis=1)

    def near(d: np.ndarray) -> np.ndarray:  # distance up to 1
        return ((cubic_a + 2) * d - (cubic_a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:  # distance 1 to 2
        return ((cubic_a * d - 5 * cubic_a) * d + 8 * cubic_a) * d - 4 * cubic_a

    return np.stack([far(1 + fraction), near(fraction), near(1 - fraction), far(2 - fraction)], axis=1)


def integer_weights(weights: np.ndarray, one: int) -> np.ndarray:
    """rint(w * one), then the largest integer of each row (the first of equals) takes up what is missing to `one`."""
    codes = np.rint(weights * one).astype(np.int64)
    rows = np.arange(len(codes))
    codes[rows, np.argmax(codes, axis=1)] += one - codes.sum(axis=1)
    return codes


def _axis_taps(
    position: np.ndarray, size: int, mode: str, cubic_a: float, exclude_outside: bool, one: int
) -> tuple[np.ndarray, np.ndarray]:
    """(index, integer weight), both [position, tap]. Taps outside repeat the edge, or are excluded."""
    floor = np.floor(position)
    weights = tap_weights(position - floor, mode, cubic_a)
    first = 0 if mode == "linear" else -1
    index = floor.astype(np.int64)[:, None] + first + np.arange(weights.shape[1])
    if exclude_outside:
        weights = np.where((index < 0) | (index >= size), 0.0, weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, size - 1), integer_weights(weights, one)


def prepare_interp(graph: Graph, node: onnx.NodeProto) -> Step:
    """Linear and cubic Resize over the last two axes (the last one of a rank 3 tensor)."""
    label, values = label_of(node), attributes(node)
    x, y = graph.format(node.input[0]), graph.format(node.output[0])
    rank = len(x.shape)
    expect(rank in (3, 4), node, "one or two spatial axes are required")
    positions = _positions(graph, node)
    factors = _scales(graph, node)
    expect(x.shape[:2] == y.shape[:2] and factors[:2] == [1, 1], node, "only spatial axes can be resized")
    expect(all(size == 1 for size in x.radix_map().shape[2:]), node, "the format varies along a spatial axis")
    one = 128 if x.bits == 8 else 16384
    cubic_a = float_attribute(node, "cubic_coeff_a", -0.75)
    exclude = bool(values.get("exclude_outside", 0)) and values["mode"] == "cubic"
    if rank == 3:  # an axis of one position with weight `one` stands for the height
        index_h, weight_h = np.zeros((1, 1), dtype=np.int64), np.full((1, 1), one)
    else:
        index_h, weight_h = _axis_taps(positions[2], x.shape[2], values["mode"], cubic_a, exclude, one)
    index_w, weight_w = _axis_taps(positions[-1], x.shape[-1], values["mode"], cubic_a, exclude, one)
    shift = check_shift(2 * (one.bit_length() - 1) + x.radix_map() - y.radix_map(), label)

    def run(codes: np.ndarray) -> np.ndarray:
        image = codes.reshape(*x.shape[:2], -1, x.shape[-1])
        total = np.zeros((*x.shape[:2], len(index_h), len(index_w)), dtype=np.int64)
        for i in range(index_h.shape[1]):
            rows = image[:, :, index_h[:, i], :] * weight_h[:, i, None]
            for j in range(index_w.shape[1]):
                total += rows[:, :, :, index_w[:, j]] * weight_w[:, j]
        return saturate(shr(total.reshape(y.shape), shift), y.bits)

    constants = {"index_h": index_h, "weight_h": weight_h, "index_w": index_w, "weight_w": weight_w, "shift": shift}
    return Step(label, (node.input[0],), (node.output[0],), run, constants)
