"""Attention in matrix products and a softmax, and masks in a form that fixed point can hold."""

import math

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.passes.base import Emit, GraphBuilder, input_of, rewrite

HIDDEN = -1e9
"""Stands for minus infinity in a mask: behind a softmax both are 0."""

_VERY_LOW = -1e4


@rewrite("Attention")
def spell_out_attention(b: GraphBuilder, node: Node) -> None:
    """Spells scaled dot-product attention out.

    Before: y = Attention(q, k, v, mask), of rank 3 or 4, without past, softcap or further outputs
    After:  y = MatMul(Softmax(MatMul(q * scale, k transposed) + mask), v), heads split off and put back with Transpose
    """
    a, (q, k, v) = node.attrs, node.inputs[:3]
    open_ended = getattr(a, "left_window_size", -1) == -1 and getattr(a, "right_window_size", -1) == -1
    if any(node.outputs[1:]) or any(node.inputs[4:]) or a.softcap or not open_ended or b.dtype(q) != "float32":
        return
    mask, rank = input_of(node, 3), len(b.shape(q))
    emit = b.replace(node)
    if rank == 3:
        q, k, v = (
            _split_heads(b, emit, t, heads)
            for t, heads in ((q, a.q_num_heads), (k, a.kv_num_heads), (v, a.kv_num_heads))
        )
    heads, queries, size = b.shape(q)[1:]
    k, v = (_repeat_heads(b, emit, t, heads) for t in (k, v))
    scale = 1 / math.sqrt(size) if a.scale is None else a.scale
    factor = b.new_constant(f"{node.name}.scale", np.array(scale, np.float32))
    scores = emit("MatMul", emit("Mul", q, factor), emit("Transpose", k, perm=(0, 1, 3, 2)))
    if mask:
        scores = emit("Add", scores, _additive(b, emit, node, mask))
    if a.is_causal:
        later = np.triu(np.full((queries, b.shape(k)[2]), HIDDEN, np.float32), 1)
        scores = emit("Add", scores, b.new_constant(f"{node.name}.causal", later))
    y = emit("MatMul", emit("Softmax", scores, axis=-1), v, output=None if rank == 3 else node.outputs[0])
    if rank == 3:
        emit(
            "Reshape", emit("Transpose", y, perm=(0, 2, 1, 3)), output=node.outputs[0], shape=b.shape(node.outputs[0])
        )


def _split_heads(b: GraphBuilder, emit: Emit, x: str, heads: int) -> str:
    """[B, L, heads * size] -> [B, heads, L, size]."""
    batch, length, width = b.shape(x)
    return emit("Transpose", emit("Reshape", x, shape=(batch, length, heads, width // heads)), perm=(0, 2, 1, 3))


def _repeat_heads(b: GraphBuilder, emit: Emit, x: str, heads: int) -> str:
    """Gives each of `heads` queries its key or value where several share one."""
    held = b.shape(x)[1]
    if held == heads:
        return x
    places = b.new_constant(f"{x}.heads", np.repeat(np.arange(held), heads // held))
    return emit("Gather", x, places, axis=1)


def _additive(b: GraphBuilder, emit: Emit, node: Node, mask: str) -> str:
    """A mask that is added: where a boolean one is false, minus infinity as far as a softmax can see."""
    if b.dtype(mask) != "bool":
        return mask
    value = b.constant(mask)
    if value is not None:
        return b.new_constant(f"{node.name}.mask", np.where(value, 0, HIDDEN).astype(np.float32))
    shown, hidden = (
        b.new_constant(f"{node.name}.{key}", np.array(v, np.float32)) for key, v in (("shown", 0.0), ("hidden", HIDDEN))
    )
    return emit("Where", mask, shown, hidden)


@rewrite("Where")
def where_to_mask(b: GraphBuilder, node: Node) -> None:
    """Turns a choice before a softmax into a mask, so that the scores stay integers.

    Before: y = Where(c, x, low) or Where(c, low, x), low a constant of at most -10000; only a Softmax reads y
    After:  y = Add(x, Where(c, 0, -1e9)), or the other way round
    """
    condition, *choices = node.inputs
    readers = list(b.readers(node.outputs[0]))
    if b.is_output(node.outputs[0]) or not readers or any(r.op_type != "Softmax" for r in readers):
        return
    for side in (0, 1):
        low, x = b.constant(choices[side]), choices[1 - side]
        if low is None or low.size != 1 or low.item() > _VERY_LOW or b.constant(x) is not None:
            continue
        if b.dtype(x) != "float32" or b.shape(x) != b.shape(node.outputs[0]):
            continue
        values = [HIDDEN if i == side else 0.0 for i in (0, 1)]
        names = [b.new_constant(f"{node.name}.{i}", np.array(v, np.float32)) for i, v in enumerate(values)]
        emit = b.replace(node)
        emit("Add", x, emit("Where", condition, *names), output=node.outputs[0])
        return


@rewrite("Add", "Where", "Mul")
def finite_masks(b: GraphBuilder, node: Node) -> None:
    """Replaces minus infinity in constants, which no number format holds.

    Before: y = Add(x, c), Where(k, x, c) or Mul(x, c), c a constant with entries of minus infinity or near it
    After:  the same with -1e9 there
    """
    inputs = list(node.inputs)
    for i, t in enumerate(inputs):
        value = b.constant(t)
        if value is not None and value.dtype == np.float32 and (value < HIDDEN).any():
            inputs[i] = b.new_constant(f"{node.name}.finite{i}", np.maximum(value, np.float32(HIDDEN)))
    if tuple(inputs) != node.inputs:
        b.reconnect(node, inputs)
