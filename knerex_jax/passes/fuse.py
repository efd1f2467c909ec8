"""Rewrites that make one operator of several: activations, pooling, padding."""

import math
from dataclasses import replace

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.pool import PoolAttrs
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.ops.shape import full_pads
from knerex_jax.passes.base import GraphBuilder, input_of, rewrite

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@rewrite("Min", "Max")
def limit_to_clip(b: GraphBuilder, node: Node) -> None:
    """Writes a limit as a Clip; with `merge_clips`, Relu and Min become one Clip.

    Before: y = Min(x, c) or Max(x, c), c a constant with one element
    After:  y = Clip(x, max=c) or Clip(x, min=c)
    """
    if len(node.inputs) != 2 or b.dtype(node.outputs[0]) != "float32":
        return
    for side in (0, 1):
        limit, x = b.constant(node.inputs[side]), node.inputs[1 - side]
        if limit is not None and limit.size == 1 and b.constant(x) is None and b.shape(x) == b.shape(node.outputs[0]):
            if not math.isnan(limit.item()):
                bound = "max" if node.op_type == "Min" else "min"
                b.replace(node)("Clip", x, output=node.outputs[0], **{bound: limit.item()})
            return


@rewrite("Relu", "Clip")
def merge_clips(b: GraphBuilder, node: Node) -> None:
    """Merges two limiting activations.

    Before: y = A(B(x)), each a Relu or a Clip; nothing else reads the inner one
    After:  y = Clip(x) or Relu(x) with the limits of both
    """
    inner = b.private_producer(node.inputs[0], "Relu", "Clip")
    if inner is None or input_of(node, 1) or input_of(inner, 1):
        return
    low, high = (_limited(_limited(end, inner), node) for end in (-math.inf, math.inf))
    emit = b.replace(inner, node)
    if (low, high) == (0, math.inf):
        emit("Relu", inner.inputs[0], output=node.outputs[0])
    else:
        bounds = {"min": None if math.isinf(low) else low, "max": None if math.isinf(high) else high}
        emit("Clip", inner.inputs[0], output=node.outputs[0], **bounds)


def _limited(value: float, node: Node) -> float:
    """What a limiting activation makes of a value."""
    if node.op_type == "Relu":
        return max(value, 0.0)
    low, high = node.attrs.min, node.attrs.max
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


@rewrite("Clip")
def open_clip_to_relu(b: GraphBuilder, node: Node) -> None:
    """Drops limits that no float32 exceeds.

    Before: y = Clip(x, 0, largest float32 or infinity or absent)
    After:  y = Relu(x); without any effective limit x itself
    """
    low, high = node.attrs.min, node.attrs.max
    if input_of(node, 1) or b.dtype(node.inputs[0]) != "float32":
        return
    no_low, no_high = low is None or low <= -_FLOAT32_MAX, high is None or high >= _FLOAT32_MAX
    if no_low and no_high:
        b.bypass(node, node.inputs[0])
    elif low == 0 and no_high:
        b.replace(node)("Relu", node.inputs[0], output=node.outputs[0])
    elif (no_low and low is not None) or (no_high and high is not None):
        bounds = {"min": None if no_low else low, "max": None if no_high else high}
        b.replace(node)("Clip", node.inputs[0], output=node.outputs[0], **bounds)


@rewrite("ReduceMean")
def mean_to_global_pool(b: GraphBuilder, node: Node) -> None:
    """Writes the mean over the whole feature map as pooling.

    Before: y = ReduceMean(x) over all axes but the first two, not within a normalisation
    After:  y = GlobalAveragePool(x), with a Reshape behind it if the axes are not kept
    """
    rank = len(b.shape(node.inputs[0]))
    if rank < 3 or node.wide or reduced_axes(node.attrs, rank) != tuple(range(2, rank)):
        return
    emit = b.replace(node)
    if node.attrs.keepdims:
        emit("GlobalAveragePool", node.inputs[0], output=node.outputs[0])
    else:
        pooled = emit("GlobalAveragePool", node.inputs[0])
        emit("Reshape", pooled, output=node.outputs[0], shape=b.shape(node.outputs[0]))


@rewrite("AveragePool")
def whole_average_to_global_pool(b: GraphBuilder, node: Node) -> None:
    """Writes a window that covers the feature map as global pooling.

    Before: y = AveragePool(x), window = feature map, one position, no padding
    After:  y = GlobalAveragePool(x)
    """
    a, x = node.attrs, node.inputs[0]
    whole = a.kernel_shape == b.shape(x)[2:] and not any(a.pads) and all(d == 1 for d in a.dilations)
    if whole and all(n == 1 for n in b.shape(node.outputs[0])[2:]):
        b.replace(node)("GlobalAveragePool", x, output=node.outputs[0])


@rewrite("Conv")
def pad_into_conv(b: GraphBuilder, node: Node) -> None:
    """Lets the convolution pad.

    Before: y = Conv(Pad(x)), the Pad with zeros on spatial axes only; nothing else reads it
    After:  y = Conv(x) with larger pads
    """
    pad, pads = _foldable_pad(b, node)
    if pad is not None and pad.attrs.value == 0:
        b.replace(pad, node)(
            "Conv", pad.inputs[0], *node.inputs[1:], output=node.outputs[0], attrs=replace(node.attrs, pads=pads)
        )


@rewrite("AveragePool")
def pad_into_average_pool(b: GraphBuilder, node: Node) -> None:
    """Lets the pooling pad and count what it pads.

    Before: y = AveragePool(Pad(x)), the Pad with zeros, the pooling without padding of its own or counting it
    After:  y = AveragePool(x) with larger pads, count_include_pad 1
    """
    a = node.attrs
    pad, pads = _foldable_pad(b, node)
    if pad is None or pad.attrs.value != 0 or not _window_reaches_inside(a, pads):
        return
    if any(a.pads) and not a.count_include_pad:
        return
    attrs = replace(a, pads=pads, count_include_pad=1)
    b.replace(pad, node)("AveragePool", pad.inputs[0], output=node.outputs[0], attrs=attrs)


@rewrite("MaxPool")
def pad_into_max_pool(b: GraphBuilder, node: Node) -> None:
    """Lets the pooling pad, where the padding can never be the maximum.

    Before: y = MaxPool(Pad(x)), the Pad with the lowest float, or with zeros while x is never negative
    After:  y = MaxPool(x) with larger pads
    """
    pad, pads = _foldable_pad(b, node)
    if pad is None or any(node.outputs[1:]) or not _window_reaches_inside(node.attrs, pads):
        return
    value = pad.attrs.value
    if value <= -_FLOAT32_MAX or (value == 0 and _is_never_negative(b, pad.inputs[0])):
        attrs = replace(node.attrs, pads=pads)
        b.replace(pad, node)("MaxPool", pad.inputs[0], output=node.outputs[0], attrs=attrs)


def _foldable_pad(b: GraphBuilder, node: Node) -> tuple[Node | None, tuple[int, ...]]:
    """The constant Pad before a windowed node that touches spatial axes only, and the pads of both together."""
    pad = b.private_producer(node.inputs[0], "Pad")
    if pad is None or pad.attrs.mode != "constant":
        return None, ()
    each = full_pads(pad.attrs, len(b.shape(pad.inputs[0])))
    if input_of(pad, 1) or any(each[0] + each[1]) or any(min(p) < 0 for p in each):
        return None, ()
    more = (*(begin for begin, _ in each[2:]), *(end for _, end in each[2:]))
    return pad, tuple(own + extra for own, extra in zip(node.attrs.pads, more, strict=True))


def _window_reaches_inside(a: PoolAttrs, pads: tuple[int, ...]) -> bool:
    """Whether every window of a pooling holds an element that is not padding (and every runtime accepts the pads)."""
    plain = not a.ceil_mode and all(d == 1 for d in a.dilations)
    return plain and all(p < k for p, k in zip(pads, a.kernel_shape * 2, strict=True))


_NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "Exp", "Sqrt", "Abs", "HardSigmoid", "Softplus")
_KEEPS_SIGN = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"),
    *("Reshape", "Squeeze", "Transpose", "Slice", "Concat", "Expand", "Identity", "Add", "Mul", "Max", "Min"),
)


def _is_never_negative(b: GraphBuilder, tensor: str) -> bool:
    """Whether the graph proves that a tensor holds no negative number."""
    value = b.constant(tensor)
    if value is not None:
        return bool((value >= 0).all())
    node = b.producer(tensor)
    if node is None or node.domain:
        return False
    if node.op_type in _NEVER_NEGATIVE:
        return True
    if node.op_type == "Clip":
        return node.attrs.min is not None and node.attrs.min >= 0 and (node.attrs.max is None or node.attrs.max >= 0)
    return node.op_type in _KEEPS_SIGN and all(_is_never_negative(b, t) for t in node.inputs if t)


@rewrite("Concat")
def concat_zeros_to_pad(b: GraphBuilder, node: Node) -> None:
    """Writes zeros at the ends of a Concat as padding.

    Before: y = Concat(zeros, x, ..., zeros), constants at either end or both
    After:  y = Pad(x), or Pad(Concat(x, ...))
    """
    zeros = [(v := b.constant(t)) is not None and v.dtype == np.float32 and not v.any() for t in node.inputs]
    if all(zeros) or not (zeros[0] or zeros[-1]):
        return
    first, last = zeros.index(False), len(zeros) - zeros[::-1].index(False)
    rank, inner = len(b.shape(node.outputs[0])), node.inputs[first:last]
    axis = node.attrs.axis % rank
    begin = sum(b.shape(t)[axis] for t in node.inputs[:first])
    end = sum(b.shape(t)[axis] for t in node.inputs[last:])
    emit = b.replace(node)
    x = inner[0] if len(inner) == 1 else emit("Concat", *inner, axis=axis)
    pads = tuple(begin if i == axis else 0 for i in range(rank)) + tuple(end if i == axis else 0 for i in range(rank))
    emit("Pad", x, output=node.outputs[0], pads=pads)


@rewrite("DequantizeLinear")
def quantizers_to_clip(b: GraphBuilder, node: Node) -> None:
    """Keeps of a quantizer in the user's model only the range it lets through; the planner quantizes anew.

    Before: y = DequantizeLinear(QuantizeLinear(x, s, z), s, z), s and z constants with one element
    After:  y = Clip(x, (lowest - z) * s, (highest - z) * s), which differs by the rounding that is taken out
    """
    inner = b.producer(node.inputs[0], "QuantizeLinear")
    if inner is None or b.dtype(inner.inputs[0]) != "float32" or b.dtype(node.outputs[0]) != "float32":
        return
    parameters = [[b.constant(input_of(n, i)) for i in (1, 2)] for n in (inner, node)]
    (scale, zero), (scale_again, zero_again) = parameters
    dtype = b.dtype(node.inputs[0])
    if scale is None or scale.size != 1 or not np.array_equal(scale, scale_again):
        return
    if dtype not in ("int8", "uint8", "int16", "uint16") or not np.array_equal(zero, zero_again):
        return
    offset = 0 if zero is None else int(zero.item())
    limits = np.iinfo(dtype)
    low, high = ((end - offset) * float(scale.item()) for end in (limits.min, limits.max))
    b.replace(node)("Clip", inner.inputs[0], output=node.outputs[0], min=low, max=high)
