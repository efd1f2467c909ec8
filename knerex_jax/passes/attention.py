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

    Before: y = Attention(q, k, v, mask), of rank 3 or 4, without past, window, softcap or further outputs
    After:  y = MatMul(Softmax(MatMul(q * scale, k transposed) + mask), v), heads split off and put back with Transpose;
            a query that sees no key at all gets a mean of v instead of zeros
    """
    a, (q, k, v) = node.attrs, node.inputs[:3]
    open_ended = a.left_window_size == a.right_window_size == -1
    if any(node.outputs[1:]) or any(node.inputs[4:]) or a.softcap or not open_ended or b.dtype(q) != "float32":
        return
    mask, rank, keys = input_of(node, 3), len(b.shape(q)), b.shape(k)[-2]
    if mask and b.shape(mask)[-1] != keys:  # what is missing there is hidden
        return
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
    masks = [_additive(b, emit, node, mask)] if mask else []
    if a.is_causal:
        later = np.triu(np.full((queries, keys), HIDDEN, np.float32), 1)
        masks.append(b.new_constant(f"{node.name}.causal", later))
    if masks:
        scores = emit("Add", scores, masks[0] if len(masks) == 1 else emit("Add", *masks))
    y = emit("MatMul", emit("Softmax", scores, axis=-1), v, output=None if rank == 3 else node.outputs[0])
    if rank == 3:
        emit("Reshape", emit("Transpose", y, perm=(0, 2, 1, 3)), output=node.outputs[0], shape=b.shape(node.outputs[0]))


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
    return _mask_where(b, emit, node, mask, hidden=1) if b.dtype(mask) == "bool" else mask


def _mask_where(b: GraphBuilder, emit: Emit, node: Node, condition: str, *, hidden: int) -> str:
    """0 and `HIDDEN` by a boolean: choice number `hidden` of a Where is the latter."""
    choices = [np.array(HIDDEN if i == hidden else 0, np.float32) for i in (0, 1)]
    value = b.constant(condition)
    if value is not None:
        return b.new_constant(f"{node.name}.mask", np.where(value, *choices))
    return emit("Where", condition, *(b.new_constant(f"{node.name}.{i}", c) for i, c in enumerate(choices)))


def feeds_softmax(b: GraphBuilder, tensor: str) -> bool:
    """Whether nothing but softmax reads a tensor, directly or behind further sums."""
    readers = list(b.readers(tensor))
    return (
        bool(readers)
        and not b.is_output(tensor)
        and all(r.op_type == "Softmax" or (r.op_type == "Add" and feeds_softmax(b, r.outputs[0])) for r in readers)
    )


def is_mask(b: GraphBuilder, tensor: str) -> bool:
    """Whether a summand before a softmax hides places: computed from integers alone, or a constant that is very low."""
    value = b.constant(tensor)
    return b.is_exact(tensor) if value is None else value.size > 1 and bool((value <= _VERY_LOW).any())


def only_hides(value: np.ndarray) -> bool:
    """Whether a constant is nothing but a mask, whatever reads the sum: every entry shows or hides."""
    return value.size > 1 and bool(((value == 0) | (value <= _VERY_LOW)).all() and value.any())


@rewrite("Add")
def masks_last(b: GraphBuilder, node: Node) -> None:
    """Gathers the masks of a softmax in one operand, so that no other sum has to reach as far down as they do.

    Before: y = Add(Add(x, m), n), m a mask and x none; only a softmax reads y, and nothing else the inner sum
    After:  y = Add(x, Add(m, n)) if n is a mask, too, else Add(Add(x, n), m)
    """
    if not feeds_softmax(b, node.outputs[0]):
        return
    for n, total in (node.inputs, node.inputs[::-1]):
        inner = b.private_producer(total, "Add")
        if inner is None:
            continue
        for m, x in (inner.inputs, inner.inputs[::-1]):
            if is_mask(b, m) and not is_mask(b, x):
                emit = b.replace(inner, node)
                summands = (x, emit("Add", m, n)) if is_mask(b, n) else (emit("Add", x, n), m)
                emit("Add", *summands, output=node.outputs[0])
                return


@rewrite("Where")
def where_to_mask(b: GraphBuilder, node: Node) -> None:
    """Turns a choice before a softmax into a mask, so that the scores stay integers.

    Before: y = Where(c, x, low) or Where(c, low, x), low a constant of at most -10000; only softmax reads y
    After:  y = Add(x, Where(c, 0, -1e9)), or the other way round
    """
    condition, *choices = node.inputs
    if not feeds_softmax(b, node.outputs[0]):
        return
    for side in (0, 1):
        low, x = b.constant(choices[side]), choices[1 - side]
        if low is None or low.size != 1 or low.item() > _VERY_LOW or b.constant(x) is not None:
            continue
        if b.dtype(x) != "float32" or b.shape(x) != b.shape(node.outputs[0]):
            continue
        emit = b.replace(node)
        emit("Add", x, _mask_where(b, emit, node, condition, hidden=side), output=node.outputs[0])
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
