"""move (rule 7): codes move, then the radix of each element goes from its source's to its destination's.

Every rearrangement is one function on arrays. It is applied to the codes, and in the same way to an array that
holds the radix of every source element, so source and destination channels cannot be confused.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from .graph import Graph, Step, attributes, expect, label_of
from .integers import check_shift, saturate, shr
from .interpolation import nearest_indices
from .reference import reference_of

Rearrange = Callable[..., list[np.ndarray]]
# A radix that no tensor has, at elements that come from nowhere (padding).
NO_SOURCE = -(10**6)


def prepare_move(graph: Graph, node: onnx.NodeProto) -> Step:
    data = tuple(node.input) if node.op_type == "Concat" else (node.input[0],)
    outputs = tuple(name for name in node.output if name)
    expect(len(outputs) == 1 or node.op_type == "Split", node, "only the first output is known")
    rearrange = READERS[node.op_type](graph, node)
    formats = [graph.format(name) for name in outputs]
    sources = rearrange(*(graph.format(name).full_radix() for name in data), fill=NO_SOURCE)
    shifts = []
    for source, y in zip(sources, formats, strict=True):
        expect(source.shape == y.shape, node, f"gives shape {source.shape}, the model states {y.shape}")
        shift = np.where(source == NO_SOURCE, 0, source - y.full_radix())
        uniform = bool(np.all(shift == shift.reshape(-1)[0]))
        shifts.append(check_shift(shift.reshape(-1)[0] if uniform else shift, label_of(node)))

    def run(*codes: np.ndarray) -> tuple[np.ndarray, ...]:
        moved = rearrange(*codes, fill=0)
        return tuple(saturate(shr(x, n), y.bits) for x, n, y in zip(moved, shifts, formats, strict=True))

    return Step(label_of(node), data, outputs, run, {f"shift{k}": n for k, n in enumerate(shifts)})


def _one(function: Callable[[np.ndarray], np.ndarray]) -> Rearrange:
    """A rearrangement of one tensor into one, without padding."""
    return lambda x, fill: [function(x)]


def _integers(values: np.ndarray | None) -> list[int]:
    return [] if values is None else [int(value) for value in values.reshape(-1)]


def _reshaped(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    """Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout: the order of elements stays."""
    shape = graph.shape(node.output[0])
    return _one(lambda x: x.reshape(shape))


def _pad(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    rank = len(graph.shape(node.input[0]))
    value = graph.constant(node, 2)
    constant_zero = attributes(node).get("mode", "constant") == "constant" and (value is None or not np.any(value))
    expect(constant_zero, node, "only padding with constant 0 is known")
    pads = _integers(graph.required_constant(node, 1))
    axes = [axis % rank for axis in _integers(graph.constant(node, 3))] or list(range(rank))
    widths = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        widths[axis] = (pads[position], pads[position + len(axes)])
    grow = [(max(before, 0), max(after, 0)) for before, after in widths]
    cut = tuple(slice(max(-before, 0), after if after < 0 else None) for before, after in widths)
    return lambda x, fill: [np.pad(x[cut], grow, constant_values=fill)]


def _slice(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    rank = len(graph.shape(node.input[0]))
    starts, ends = (_integers(graph.required_constant(node, position)) for position in (1, 2))
    axes = _integers(graph.constant(node, 3)) or list(range(len(starts)))
    steps = _integers(graph.constant(node, 4)) or [1] * len(starts)
    index = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis % rank] = slice(start, end, step)
    return _one(lambda x: x[tuple(index)])


def _split(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    axis = int(attributes(node).get("axis", 0)) % len(graph.shape(node.input[0]))
    expect(all(node.output), node, "an output without a name is not known")
    sizes = [graph.shape(name)[axis] for name in node.output]
    return lambda x, fill: np.split(x, np.cumsum(sizes)[:-1], axis=axis)


def _concat(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    axis = int(attributes(node)["axis"])
    return lambda *x, fill: [np.concatenate(x, axis=axis)]


def _transpose(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    rank = len(graph.shape(node.input[0]))
    perm = tuple(attributes(node).get("perm", range(rank)[::-1]))
    return _one(partial(np.transpose, axes=perm))


def _expand(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    target = tuple(_integers(graph.required_constant(node, 1)))
    shape = np.broadcast_shapes(graph.shape(node.input[0]), target)
    return _one(lambda x: np.broadcast_to(x, shape))


def _gather(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    axis = int(attributes(node).get("axis", 0))
    indices = graph.required_constant(node, 1)
    return _one(lambda x: np.take(x, indices, axis=axis))


def _depth_to_space(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    values = attributes(node)
    block, depth_first = int(values["blocksize"]), values.get("mode", "DCR") == "DCR"

    def rearrange(x: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        if depth_first:
            blocks = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            blocks = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, c // block**2, h * block, w * block)

    return _one(rearrange)


def _space_to_depth(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    block = int(attributes(node)["blocksize"])

    def rearrange(x: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
        return blocks.reshape(n, c * block**2, h // block, w // block)

    return _one(rearrange)


def _resize_nearest(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    indices = nearest_indices(graph, node)
    return _one(lambda x: x[np.ix_(*indices)])


def _by_reference(graph: Graph, node: onnx.NodeProto) -> Rearrange:
    """Movements that the reference applies to the numbers 1, 2, ... of the elements; 0 is what it inserts."""
    shape = graph.shape(node.input[0])
    others = [graph.constant(node, position) for position in range(1, len(node.input))]
    numbers = np.arange(1, 1 + int(np.prod(shape)), dtype=np.int64).reshape(shape)
    (moved,) = reference_of(graph, node)(numbers, *others)
    return lambda x, fill: [np.concatenate([[fill], x.reshape(-1)])[moved]]


READERS: dict[str, Callable[[Graph, onnx.NodeProto], Rearrange]] = {
    "Reshape": _reshaped,
    "Flatten": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Identity": _reshaped,
    "Dropout": _reshaped,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Transpose": _transpose,
    "Expand": _expand,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": _resize_nearest,
    **dict.fromkeys(("Tile", "GatherElements", "GatherND", "ReverseSequence", "Compress", "Trilu"), _by_reference),
    "CenterCropPad": _by_reference,
}
