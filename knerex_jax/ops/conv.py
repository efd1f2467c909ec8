"""Conv: float formulations and the convolution form of `mac`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import PlanView, per_layer_unless
from knerex_jax.ops.constraint import Constraint, Own
from knerex_jax.ops.conv_slopes import convolution, convolved, weighted_taps
from knerex_jax.ops.mac import MacForm, mac_program
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.tiles import conv_by_tiles
from knerex_jax.ops.window import padded_sizes, resolve_window, under_taps
from knerex_jax.program.primitives import Window

# Up to so many pixels a dot over patches is faster than the CPU's convolution, with many channels up to more of them
# (AVX2, 8 samples: 512 channels at 7x7 46 against 180 ms, 256 at 14x14 50 against 67, 128 at 28x28 106 against 47).
_FEW_PIXELS, _MANY_CHANNELS, _MORE_PIXELS = 64, 256, 256


@dataclass(frozen=True)
class ConvAttrs:
    """Geometry, one entry per spatial axis; pads lists all begins, then all ends."""

    kernel_shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    group: int = 1

    @property
    def window(self) -> Window:
        half = len(self.pads) // 2
        return Window(
            self.kernel_shape, self.strides, self.dilations, tuple(zip(self.pads[:half], self.pads[half:], strict=True))
        )


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs: dict[str, Any] = dict(node.attrs)
    attrs.setdefault("kernel_shape", shapes[node.inputs[1]][2:])
    return replace(node, attrs=resolve_window(attrs, shapes[node.inputs[0]][2:]))


def _depthwise(x: Array, w: Array, a: ConvAttrs) -> Array:
    """Shifted multiply-adds over [N, *spatial, C]: 16 to 38 times faster on the CPU than a grouped convolution."""
    begins_ends = [(0, 0), *a.window.pads, (0, 0)]
    x = jnp.pad(x, begins_ends)
    if (multiple := w.shape[0] // x.shape[-1]) > 1:
        x = jnp.repeat(x, multiple, axis=-1)
    # Without barriers what precedes would be computed again, and weights in ONNX's order gathered one by one, for every
    # tap. Turned as the lowering hands them over they stay as they are: [taps, C] from [*kernel, 1, C].
    x, weights = lax.optimization_barrier((x, jnp.moveaxis(w, (0, 1), (-1, -2)).reshape(-1, len(w))))
    return weighted_taps(a.window, x, weights)


def _general(x: Array, w: Array, a: ConvAttrs) -> Array:
    """A convolution of [N, *spatial, C] with weights [O, I, *kernel] in XLA's fastest layout."""
    return convolution(a.window, x, jnp.moveaxis(w, (0, 1), (-1, -2)))


def _grouped(x: Array, w: Array, a: ConvAttrs) -> Array:
    """XLA's own form for groups; weights [O, I/group, *kernel]."""
    return convolved(
        x, jnp.moveaxis(w, (0, 1), (-1, -2)), a.strides, a.window.pads, rhs_dilation=a.dilations,
        feature_group_count=a.group,
    )  # fmt: skip


def _few_pixels(x: Array, a: ConvAttrs) -> bool:
    """Whether the output has so few that a dot over patches is the fastest form; x [N, *spatial, C], not padded."""
    padded = [n + sum(p) for n, p in zip(x.shape[1:-1], a.window.pads, strict=True)]
    pixels = math.prod(padded_sizes(padded, a.window))
    return pixels <= (_MORE_PIXELS if x.shape[-1] >= _MANY_CHANNELS else _FEW_PIXELS)


def _by_patches(x: Array, w: Array, a: ConvAttrs) -> Array:
    """One dot over patches, for maps of few pixels: the CPU's convolution takes up to four times as long there."""
    x = lax.optimization_barrier(jnp.pad(x, [(0, 0), *a.window.pads, (0, 0)]))
    patches = jnp.concatenate(list(under_taps(x, a.window)), axis=-1)
    matrix = jnp.moveaxis(w, (0, 1), (-1, -2)).reshape(-1, len(w))
    return lax.dot_general(
        patches, matrix, (((patches.ndim - 1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST
    )  # fmt: skip


def _by_group(x: Array, w: Array, a: ConvAttrs) -> Array:
    """One convolution per group: XLA's own grouped convolution is slow on the CPU."""
    pairs = zip(jnp.split(x, a.group, axis=-1), jnp.split(w, a.group, axis=0), strict=True)
    return jnp.concatenate([_general(p, q, a) for p, q in pairs], axis=-1)


def conv_float(a: ConvAttrs, x: Array, w: Array, b: Array | None = None) -> Array:
    """Convolution of x [N, C, *spatial] with w [O, C/group, *kernel]; float32, [N, O, *spatial].

    A w [O, C, t, t] of other sizes than the kernel is one of `tiles.tiled_kernel`, turned.
    """
    x = jnp.moveaxis(x, 1, -1)
    pointwise = all(k == 1 for k in a.kernel_shape) and not any(a.pads) and a.group == 1
    if w.shape[2:] != a.kernel_shape:
        y = conv_by_tiles(x, jnp.moveaxis(w, (0, 1), (-1, -2)), a.window.pads)
    elif pointwise:
        x = x[(slice(None), *(slice(None, None, s) for s in a.strides))]
        y = lax.dot_general(
            x, w.reshape(w.shape[:2]), (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
        )
    elif w.shape[1] == 1 and a.group == x.shape[-1] and a.group > 1:
        y = lax.platform_dependent(x, w, cpu=lambda x, w: _depthwise(x, w, a), default=lambda x, w: _grouped(x, w, a))
    elif a.group > 1:
        y = lax.platform_dependent(x, w, cpu=lambda x, w: _by_group(x, w, a), default=lambda x, w: _grouped(x, w, a))
    elif _few_pixels(x, a):
        y = lax.platform_dependent(x, w, cpu=lambda x, w: _by_patches(x, w, a), default=lambda x, w: _general(x, w, a))
    else:
        y = _general(x, w, a)
    return jnp.moveaxis(y if b is None else y + b, -1, 1)


def constrain_conv(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (*per_layer_unless(view, node.inputs[0], 1), Own(node.outputs[0], 1))


def feeding_channels(outputs: int, per_group: int, group: int) -> np.ndarray:
    """Which input channels feed each output channel: int [outputs, per_group], per_group inputs in every group."""
    first = np.arange(outputs) // (outputs // group) * per_group
    return first[:, None] + np.arange(per_group)


def _mac(node: Node, model: Model) -> MacForm:
    a: ConvAttrs = node.attrs
    weight = model.constants[node.inputs[1]]
    bias = model.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    feeding = feeding_channels(len(weight), weight.shape[1], a.group)
    return MacForm(weight=weight, bias=bias, feeding=feeding, kind="conv", window=a.window, group=a.group)


def constant_weight(node: Node, model: Model) -> str | None:
    """Why a weighted node has no integer rule: its weight or bias is computed."""
    computed = [t for t in node.inputs[1:] if t and t not in model.constants]
    return f"the weights of {node.op_type} are computed by the model" if computed else None


CONV = OpDef(
    op_type="Conv", attrs=ConvAttrs, canonical=_canonical, to_float=conv_float, constrain=constrain_conv,
    to_program=mac_program, no_rule=constant_weight, weight=1, mac=_mac,
)  # fmt: skip

OPS = (CONV,)
