"""Conv: float formulations and the convolution form of `mac`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import PlanView, per_layer_unless
from knerex_jax.ops.constraint import Constraint, Own
from knerex_jax.ops.mac import MacForm, mac_program
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.window import resolve_window
from knerex_jax.program.primitives import Window


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
    spatial = x.shape[1:-1]
    out = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(spatial, a.kernel_shape, a.strides, a.dilations, strict=True)
    ]
    total = None
    for tap in np.ndindex(*a.kernel_shape):
        start = [t * d for t, d in zip(tap, a.dilations, strict=True)]
        stop = [b + (o - 1) * s + 1 for b, o, s in zip(start, out, a.strides, strict=True)]
        part = (
            lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *a.strides, 1))
            * w[(slice(None), 0, *tap)]
        )
        total = part if total is None else total + part
    assert total is not None
    return total


def _general(x: Array, w: Array, a: ConvAttrs, group: int) -> Array:
    """A convolution of [N, *spatial, C] with weights [O, I/group, *kernel] in XLA's fastest layout."""
    n = x.ndim - 2
    letters = "DHW"[-n:]
    dims = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, jnp.moveaxis(w, (0, 1), (-1, -2)), a.strides, a.window.pads, rhs_dilation=a.dilations,
        dimension_numbers=dims, feature_group_count=group, precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _by_group(x: Array, w: Array, a: ConvAttrs) -> Array:
    """One convolution per group: XLA's own grouped convolution is slow on the CPU."""
    pairs = zip(jnp.split(x, a.group, axis=-1), jnp.split(w, a.group, axis=0), strict=True)
    return jnp.concatenate([_general(p, q, a, 1) for p, q in pairs], axis=-1)


def conv_float(a: ConvAttrs, x: Array, w: Array, b: Array | None = None) -> Array:
    """Convolution of x [N, C, *spatial] with w [O, C/group, *kernel]; float32, [N, O, *spatial]."""
    x = jnp.moveaxis(x, 1, -1)
    pointwise = all(k == 1 for k in a.kernel_shape) and not any(a.pads) and a.group == 1
    if pointwise:
        x = x[(slice(None), *(slice(None, None, s) for s in a.strides))]
        y = lax.dot_general(
            x, w.reshape(w.shape[:2]), (((x.ndim - 1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
        )
    elif w.shape[1] == 1 and a.group == x.shape[-1] and a.group > 1:
        y = lax.platform_dependent(
            x, w, cpu=lambda x, w: _depthwise(x, w, a), default=lambda x, w: _general(x, w, a, a.group)
        )
    elif a.group > 1:
        y = lax.platform_dependent(
            x, w, cpu=lambda x, w: _by_group(x, w, a), default=lambda x, w: _general(x, w, a, a.group)
        )
    else:
        y = _general(x, w, a, 1)
    return jnp.moveaxis(y if b is None else y + b, -1, 1)


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (*per_layer_unless(view, node.inputs[0], 1), Own(node.outputs[0], 1))


def _mac(node: Node, model: Model) -> MacForm:
    a: ConvAttrs = node.attrs
    weight = model.constants[node.inputs[1]]
    outputs, per_group = weight.shape[:2]
    first = np.arange(outputs) // (outputs // a.group) * per_group
    bias = model.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    feeding = first[:, None] + np.arange(per_group)
    return MacForm(weight=weight, bias=bias, feeding=feeding, kind="conv", window=a.window, group=a.group)


CONV = OpDef(
    op_type="Conv", attrs=ConvAttrs, canonical=_canonical, to_float=conv_float, constrain=_constrain,
    to_program=mac_program, weight=1, mac=_mac,
)  # fmt: skip

OPS = (CONV,)
