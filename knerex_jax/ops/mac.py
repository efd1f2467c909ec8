"""Weighted nodes: one description of their weights, and from it the primitive `mac`, whatever the operator."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from knerex_jax.fixedpoint.weights import (
    HARD_SWISH_REACH,
    clip_integers,
    hard_swish_integers,
    mac_integers,
    requantize_integers,
    slope_integers,
)
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.build import ActSpec, Built, ProgramView
from knerex_jax.program.primitives import Mac, Window


@dataclass(frozen=True, kw_only=True)
class MacForm:
    """The weights of a node, output channels first.

    Attributes:
      weight: float32 [O, J, *kernel], J the inputs that feed an output.
      bias: float32 [O] or None; input 2 of the node where it has one.
      feeding: int [O, J], number of the input channel behind weight[o, j].
      restore: [O, J, *kernel] -> the layout of the node's own weight input; takes JAX arrays, too.
      axis: channel axis of the output.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    feeding: np.ndarray
    kind: Literal["conv", "conv_transpose", "dense", "diagonal"]
    restore: Callable[[Any], Any] = lambda w: w
    axis: int = 1
    window: Window | None = None
    group: int = 1
    output_padding: tuple[int, ...] = ()


def mac_count(node: Node, model: Model) -> int:
    """Multiplications of a node for one sample: of a weighted one, or of the product of two computed operands.

    Padding counts as if it were multiplied; nodes of any other kind have none.
    """
    graph = model.graph
    if node.op_type in ("MatMul", "Gemm"):
        x, y = graph.types[node.inputs[0]], graph.types[node.outputs[0]]
        return y.size * x.shape[-1]
    if node.op_type == "Conv":
        return graph.types[node.outputs[0]].size * math.prod(graph.shape(node.inputs[1])[1:])
    if node.op_type == "ConvTranspose":
        return graph.types[node.inputs[0]].size * math.prod(graph.shape(node.inputs[1])[1:])
    return graph.types[node.outputs[0]].size if node.op_type == "BatchNormalization" else 0


def act_integers(
    act: ActSpec, scale: np.ndarray, radix: np.ndarray, psum_bits: int, bits: int
) -> dict[str, np.ndarray]:
    """Integer constants of an activation applied to a value of that format; bits: width of the node's data input."""
    if act.kind == "clip":
        return clip_integers(act.low, act.high, scale, radix, psum_bits)
    if act.kind == "leaky":
        assert act.slope is not None
        return slope_integers(act.slope, bits)
    return {}


def _room(act: ActSpec, y_scale: np.ndarray, y_radix: np.ndarray, y_bits: int) -> np.ndarray:
    """What the accumulator has to hold apart from the bias, float64 [O], in the units its weights are scaled to."""
    room = np.ldexp(1.0, y_bits - 1 - y_radix)
    if act.kind == "hard_swish":
        return np.maximum(room / y_scale, HARD_SWISH_REACH)
    return room if act.magnitude is None else np.minimum(room, act.magnitude * y_scale)


def mac_program(node: Node, view: ProgramView) -> Built:
    """The `mac` of a node with constant weights, its fused activation included."""
    rule = op_of(node, view.registry).mac
    assert rule is not None
    form = rule(node, view.model)
    fused = view.activation(node)
    act = ActSpec("none") if fused is None else fused[1]
    x, y = node.inputs[0], node.outputs[0] if fused is None else fused[0].outputs[0]
    x_format, y_format = view.formats[x], view.formats[y]
    channels, outputs = int(form.feeding.max()) + 1, len(form.weight)
    y_scale, y_radix = view.scale(y, outputs), view.radix(y, outputs)
    # Without groups every output reads the same inputs.
    feeding = form.feeding[:1] if form.group == 1 and form.kind != "diagonal" else form.feeding
    weight_bits, post_multiplier = view.weight_bits[node.name], view.target.post_multiplier
    swish = act.kind == "hard_swish"
    psum_bits = 16 if swish else view.target.psum_bits(x_format.bits, 15 if weight_bits == 15 else 8)
    constants, acc = mac_integers(
        node.name, form.weight, form.bias,
        x_scale=view.scale(x, channels)[feeding], x_radix=view.radix(x, channels)[feeding],
        y_scale=np.ones(outputs) if swish else y_scale, room=_room(act, y_scale, y_radix, y_format.bits),
        most_radix=None if swish else y_radix + 15, weight_bits=weight_bits, psum_bits=psum_bits,
        post_multiplier=post_multiplier,
    )  # fmt: skip
    if swish:
        constants |= hard_swish_integers(node.name, acc, y_scale, y_radix)
    else:
        constants |= requantize_integers(node.name, acc, y_radix, post_multiplier)
        constants |= act_integers(act, acc.scale, acc.radix, psum_bits, x_format.bits)
    if form.kind == "diagonal":
        constants["weight"] = constants["weight"].reshape(outputs)
    if form.kind == "conv_transpose":
        constants["weight"] = form.restore(constants["weight"])
    instruction = Mac(
        name=node.name, inputs=(x,), output=y, nodes=(node.name,) if fused is None else (node.name, fused[0].name),
        bits=y_format.bits, axis=form.axis, kind=form.kind, window=form.window, group=form.group,
        output_padding=form.output_padding, x_bits=x_format.bits, weight_bits=weight_bits, psum_bits=psum_bits,
        post_multiplier=post_multiplier, act=act.kind,
    )  # fmt: skip
    return ((instruction, constants),)
