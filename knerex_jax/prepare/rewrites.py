"""Rewrites that are made on request only: they help some compilers, and cost work on others."""

import math

import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.passes.base import GraphBuilder, input_of, rewrite


@rewrite("AveragePool")
def average_pool_to_conv(b: GraphBuilder, node: Node) -> None:
    """Averages with a depthwise convolution.

    Before: y = AveragePool(x) whose windows all have as many elements (no padding, or padding that counts)
    After:  y = Conv(x, 1 / elements of the window), one group per channel
    """
    a, x = node.attrs, node.inputs[0]
    if a.ceil_mode or (any(a.pads) and not a.count_include_pad):
        return
    channels, window = b.shape(x)[1], tuple(a.kernel_shape)
    weight = np.full((channels, 1, *window), 1 / math.prod(window), np.float32)
    emit = b.replace(node)
    emit(
        "Conv", x, b.new_constant(f"{node.name}.weight", weight), output=node.outputs[0], kernel_shape=window,
        strides=a.strides, dilations=a.dilations, pads=a.pads, group=channels,
    )  # fmt: skip


@rewrite("Conv")
def dilated_conv_to_plain(b: GraphBuilder, node: Node) -> None:
    """Writes the gaps of a dilated window as zeros among its weights.

    Before: y = Conv(x, w, c), dilations d above 1, w constant
    After:  y = Conv(x, w with d - 1 zeros between its entries, c), dilations 1
    """
    dilations, weight = node.attrs.dilations, b.constant(node.inputs[1])
    if weight is None or all(d == 1 for d in dilations):
        return
    window = tuple((n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilations, strict=True))
    spread = np.zeros((*weight.shape[:2], *window), weight.dtype)
    spread[(..., *(slice(None, None, d) for d in dilations))] = weight
    a, bias = node.attrs, input_of(node, 2)
    inputs = (node.inputs[0], b.new_constant(f"{node.name}.weight", spread), *([bias] if bias else []))
    emit = b.replace(node)
    emit(
        "Conv", *inputs, output=node.outputs[0], name=node.name, kernel_shape=window, strides=a.strides,
        dilations=(1,) * len(dilations), pads=a.pads, group=a.group,
    )  # fmt: skip
