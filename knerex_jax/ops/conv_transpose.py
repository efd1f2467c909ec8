"""ConvTranspose: float formulations and the convolution form of `mac`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.conv import ConvAttrs, constant_weight, constrain_conv, conv_float, feeding_channels
from knerex_jax.ops.mac import MacForm, mac_program
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.window import side_by_side


@dataclass(frozen=True)
class ConvTransposeAttrs(ConvAttrs):
    """As Conv; what an output shape or automatic padding asks for is spelled out in pads and output_padding."""

    output_padding: tuple[int, ...] = ()


def _transpose_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs: dict[str, Any] = dict(node.attrs)
    spatial = shapes[node.inputs[0]][2:]
    n = len(spatial)
    kernel = attrs.setdefault("kernel_shape", shapes[node.inputs[1]][2:])
    strides, dilations = attrs.get("strides") or (1,) * n, attrs.get("dilations") or (1,) * n
    extra = tuple(attrs.get("output_padding") or (0,) * n)
    auto, wanted = attrs.pop("auto_pad", "NOTSET"), attrs.pop("output_shape", ())
    pads = attrs.get("pads") or (0,) * (2 * n)
    if auto.startswith("SAME") and not wanted:
        wanted = tuple(size * s for size, s in zip(spatial, strides, strict=True))
    if wanted:
        full = [
            s * (size - 1) + e + (k - 1) * d
            + 1 for size, s, e, k, d in zip(spatial, strides, extra, kernel, dilations, strict=True)
        ]  # fmt: skip
        missing = [f - w for f, w in zip(full, wanted[-n:], strict=True)]
        # The spare entry of an odd number goes to the end for SAME_UPPER, else to the beginning.
        begins = [max(m, 0) // 2 if auto == "SAME_UPPER" else -(-max(m, 0) // 2) for m in missing]
        pads = (*begins, *(max(m, 0) - b for m, b in zip(missing, begins, strict=True)))
        extra = tuple(e + max(-m, 0) for e, m in zip(extra, missing, strict=True))
    attrs |= {"strides": tuple(strides), "dilations": tuple(dilations), "pads": tuple(pads), "output_padding": extra}
    return replace(node, attrs=attrs)


def conv_transpose_float(a: ConvTransposeAttrs, x: Array, w: Array, b: Array | None = None) -> Array:
    """Transposed convolution of x [N, C, *spatial] with w [C, O/group, *kernel]; [N, O, *spatial]."""
    n = x.ndim - 2
    if a.group == 1 and a.kernel_shape == a.strides and not any((*a.pads, *a.output_padding)):
        y = _apart(x, w)
    else:
        y = lax.platform_dependent(
            x, w, cpu=lambda x, w: _among_zeros(x, w, a), default=lambda x, w: _transposed(x, w, a)
        )
    return y if b is None else y + b.reshape((-1,) + (1,) * n)


def _apart(x: Array, w: Array) -> Array:
    """Every pixel makes a window of its own, as large as the stride: one dot."""
    last = jnp.moveaxis(x, 1, -1)
    dims = (((last.ndim - 1,), (0,)), ((), ()))
    y = lax.dot_general(last, jnp.moveaxis(w, 1, -1), dims, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(side_by_side(y), -1, 1)


def _among_zeros(x: Array, w: Array, a: ConvTransposeAttrs) -> Array:
    """A convolution of the input with zeros between its pixels, whose kernels are fast.

    A CPU's own transposed one is not (24 -> 24 channels, 2 x 2, stride 2, 80 x 80: 4 GFLOP/s).
    """
    config = [(0, 0, 0), (0, 0, 0), *((*p, s - 1) for p, s in zip(_reached(a), a.strides, strict=True))]
    ones, none = (1,) * len(a.strides), (0,) * (2 * len(a.strides))
    plain = ConvAttrs(a.kernel_shape, ones, a.dilations, none, a.group)
    return conv_float(plain, lax.pad(x, np.zeros((), x.dtype), config), _turned(w, a))


def _transposed(x: Array, w: Array, a: ConvTransposeAttrs) -> Array:
    return lax.conv_general_dilated(
        x, _turned(w, a), (1,) * len(a.strides), _reached(a), lhs_dilation=a.strides, rhs_dilation=a.dilations,
        feature_group_count=a.group, precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _turned(w: Array, a: ConvTransposeAttrs) -> Array:
    """The kernel of the plain convolution, [O, C/group, *kernel]."""
    inputs, per_group = w.shape[:2]
    grouped = w.reshape(a.group, inputs // a.group, per_group, *w.shape[2:])
    kernel = jnp.moveaxis(grouped, 2, 1).reshape(a.group * per_group, inputs // a.group, *w.shape[2:])
    return jnp.flip(kernel, range(2, w.ndim))


def _reached(a: ConvTransposeAttrs) -> list[tuple[int, int]]:
    """Zeros that the plain convolution needs around its input, negative where it is cropped."""
    reach = [(k - 1) * d for k, d in zip(a.kernel_shape, a.dilations, strict=True)]
    extra = a.output_padding or (0,) * len(reach)
    return [(r - begin, r - end + e) for r, (begin, end), e in zip(reach, a.window.pads, extra, strict=True)]


def _transpose_mac(node: Node, model: Model) -> MacForm:
    a: ConvTransposeAttrs = node.attrs
    weight = model.constants[node.inputs[1]]
    inputs, per_group = weight.shape[:2]
    kernel, feeding_each = weight.shape[2:], inputs // a.group
    outputs = a.group * per_group

    def turn(w: np.ndarray) -> np.ndarray:
        """[C, O/group, *kernel] -> [O, C/group, *kernel]."""
        grouped = w.reshape(a.group, feeding_each, per_group, *kernel)
        return np.moveaxis(grouped, 2, 1).reshape(outputs, feeding_each, *kernel)

    def restore(w: np.ndarray) -> np.ndarray:
        grouped = w.reshape(a.group, per_group, feeding_each, *kernel)
        return grouped.swapaxes(1, 2).reshape(inputs, per_group, *kernel)

    return MacForm(
        weight=turn(weight), bias=model.constant(node.inputs[2]) if len(node.inputs) > 2 else None,
        feeding=feeding_channels(outputs, feeding_each, a.group), kind="conv_transpose", restore=restore,
        window=a.window, group=a.group, output_padding=a.output_padding or (0,) * len(kernel),
    )  # fmt: skip


CONV_TRANSPOSE = OpDef(
    op_type="ConvTranspose", attrs=ConvTransposeAttrs, canonical=_transpose_canonical, to_float=conv_transpose_float,
    constrain=constrain_conv, to_program=mac_program, no_rule=constant_weight, weight=1, mac=_transpose_mac,
)  # fmt: skip

OPS = (CONV_TRANSPOSE,)
