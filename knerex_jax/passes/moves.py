"""Rewrites of data movement into the few forms that move codes."""

import math
from collections.abc import Mapping
from itertools import accumulate

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.rearrange import block_moves
from knerex_jax.ops.shape import full_pads
from knerex_jax.passes.base import GraphBuilder, rewrite


@rewrite("Split")
def split_to_slices(b: GraphBuilder, node: Node) -> None:
    """Cuts the parts out one by one.

    Before: y0, ..., yn = Split(x)
    After:  yi = Slice(x)
    """
    x = node.inputs[0]
    axis = node.attrs.axis % len(b.shape(x))
    ends = list(accumulate(b.shape(t)[axis] for t in node.outputs if t))
    assert "" not in node.outputs and ends[-1] == b.shape(x)[axis], f"{node.name}: a part of Split is unnamed"
    emit = b.replace(node)
    for output, start, end in zip(node.outputs, [0, *ends], ends, strict=False):
        emit("Slice", x, output=output, starts=(start,), ends=(end,), axes=(axis,), steps=(1,))


@rewrite("Gather")
def gather_to_slice(b: GraphBuilder, node: Node) -> None:
    """Takes neighbouring entries as a slice.

    Before: y = Gather(x, i), i one constant index or an evenly rising row of them, x computed
    After:  y = Slice(x), with a Reshape behind it where the axis disappears
    """
    x, indices = node.inputs[0], b.constant(node.inputs[1])
    if indices is None or indices.size == 0 or b.constant(x) is not None:
        return
    shape = b.shape(x)
    axis = node.attrs.axis % len(shape)
    where = indices.ravel() % shape[axis]
    step = int(where[1] - where[0]) if where.size > 1 else 1
    if (where.size > 1 and indices.ndim != 1) or step < 1 or not (np.diff(where) == step).all():
        return
    cut: dict[str, tuple[int, ...]] = {
        "starts": (int(where[0]),), "ends": (int(where[-1]) + 1,), "axes": (axis,), "steps": (step,)
    }  # fmt: skip
    emit = b.replace(node)
    if indices.ndim == 1:
        emit("Slice", x, output=node.outputs[0], **cut)
    else:
        assert math.prod(indices.shape) == 1
        emit("Reshape", emit("Slice", x, **cut), output=node.outputs[0], shape=b.shape(node.outputs[0]))


@rewrite("Gather")
def gather_flat(b: GraphBuilder, node: Node) -> None:
    """Takes constant places one by one.

    Before: y = Gather(x, i), i constant but no vector, x computed
    After:  y = Reshape(Gather(x, all of i))
    """
    x, indices = node.inputs[0], b.constant(node.inputs[1])
    if indices is None or indices.ndim == 1 or indices.size < 2 or b.constant(x) is not None:
        return
    flat = b.new_constant(f"{node.name}.places", indices.reshape(-1))
    emit = b.replace(node)
    emit("Reshape", emit("Gather", x, flat, attrs=node.attrs), output=node.outputs[0], shape=b.shape(node.outputs[0]))


@rewrite("Tile")
def tile_to_gather(b: GraphBuilder, node: Node) -> None:
    """Repeats a tensor by taking its places again and again.

    Before: y = Tile(x)
    After:  y = Gather(...Gather(x)), one for each axis that is repeated
    """
    repeats, shape = node.attrs.repeats, b.shape(node.inputs[0])
    axes = [i for i, times in enumerate(repeats) if times != 1]
    if not axes:
        b.bypass(node, node.inputs[0])
        return
    _take_places(b, node, {axis: np.tile(np.arange(shape[axis]), repeats[axis]) for axis in axes})


@rewrite("Pad")
def pad_to_gather(b: GraphBuilder, node: Node) -> None:
    """Pads with what is there by taking its places again.

    Before: y = Pad(x), mode reflect, edge or wrap
    After:  y = Gather(...Gather(x)), one for each axis that is padded
    """
    a, shape = node.attrs, b.shape(node.inputs[0])
    padded = {axis: pair for axis, pair in enumerate(full_pads(a, len(shape))) if any(pair)}
    if a.mode == "constant" or not padded or 0 in b.shape(node.outputs[0]):
        return
    places = {}
    for axis, (begin, end) in padded.items():
        inside = np.arange(max(-begin, 0), shape[axis] - max(-end, 0))  # negative pads crop first
        places[axis] = np.pad(inside, (max(begin, 0), max(end, 0)), mode=a.mode)
    _take_places(b, node, places)


def _take_places(b: GraphBuilder, node: Node, places: Mapping[int, np.ndarray]) -> None:
    """Puts one Gather per axis in place of a node: axis -> the places that are taken along it."""
    x, emit, last = node.inputs[0], b.replace(node), list(places)[-1]
    for axis, index in places.items():
        taken = b.new_constant(f"{node.name}.axis{axis}", index)
        x = emit("Gather", x, taken, axis=axis, output=node.outputs[0] if axis == last else None)


@rewrite("DepthToSpace", "SpaceToDepth")
def blocks_to_transpose(b: GraphBuilder, node: Node) -> None:
    """Moves blocks between channels and positions in three plain steps.

    Before: y = DepthToSpace(x) or SpaceToDepth(x)
    After:  y = Reshape(Transpose(Reshape(x)))
    """
    x = node.inputs[0]
    split, order, merged = block_moves(node.attrs, b.shape(x))
    emit = b.replace(node)
    turned = emit("Transpose", emit("Reshape", x, shape=split), perm=order)
    emit("Reshape", turned, output=node.outputs[0], shape=merged)
