"""Pooling over windows and over the whole map: `maxpool` and `poolsum`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import Built, PlanView, ProgramView
from knerex_jax.ops.constraint import Constraint, Same
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.sums import mean_integers, reduction_shift
from knerex_jax.ops.window import output_size, resolve_window
from knerex_jax.program.primitives import MaxPool, PoolSum, Window


@dataclass(frozen=True)
class PoolAttrs:
    """Geometry as in ONNX; pads lists all begins, then all ends."""

    kernel_shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    ceil_mode: int = 0
    count_include_pad: int = 0
    storage_order: int = 0


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    return replace(node, attrs=resolve_window(dict(node.attrs), shapes[node.inputs[0]][2:]))


def pool_window(a: PoolAttrs, spatial: tuple[int, ...]) -> Window:
    """The window with the extra end padding that ceil mode needs, so that floor mode gives the same size."""
    half = len(a.kernel_shape)
    pads = []
    for size, k, s, d, begin, end in zip(
        spatial, a.kernel_shape, a.strides, a.dilations, a.pads[:half], a.pads[half:], strict=True
    ):
        count = output_size(size, k, s, d, begin, end, bool(a.ceil_mode))
        needed = (count - 1) * s + (k - 1) * d + 1
        pads.append((begin, max(end, needed - size - begin)))
    return Window(a.kernel_shape, a.strides, a.dilations, tuple(pads))


def _reduce_window(x: Array, w: Window, init: float, op: object) -> Array:
    return lax.reduce_window(
        x, np.asarray(init, x.dtype), op, (1, 1, *w.kernel), (1, 1, *w.strides),
        ((0, 0), (0, 0), *w.pads), window_dilation=(1, 1, *w.dilations),
    )  # fmt: skip


def _max_pool(a: PoolAttrs, x: Array) -> Array:
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _reduce_window(x, pool_window(a, x.shape[2:]), lowest, lax.max)


def window_counts(a: PoolAttrs, spatial: tuple[int, ...]) -> np.ndarray:
    """How many inputs each output pixel of an average counts: int64, shaped like the spatial output."""
    half, w = len(a.kernel_shape), pool_window(a, spatial)
    counts = np.ones((), np.int64)
    for i, size in enumerate(spatial):
        begin, end = a.pads[i], a.pads[half + i]
        # Ceil mode's extra padding is never counted, the stated padding only on request.
        low, high = (-begin, size + end) if a.count_include_pad else (0, size)
        taps = np.arange(w.kernel[i]) * w.dilations[i] - begin
        starts = np.arange(0, size + sum(w.pads[i]) - taps[-1] - begin, w.strides[i])
        places = starts[:, None] + taps
        counts = counts[..., None] * ((places >= low) & (places < high)).sum(axis=1)
    return counts


def _average_pool(a: PoolAttrs, x: Array) -> Array:
    total = _reduce_window(x, pool_window(a, x.shape[2:]), 0, lax.add)
    return total / window_counts(a, x.shape[2:]).astype(x.dtype)


def _spatial(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (Same(node.outputs[0], node.inputs[:1], within=True),)


def _max_program(node: Node, view: ProgramView) -> Built:
    x, y = node.inputs[0], node.outputs[0]
    spatial = view.shape(x)[2:]
    whole = node.op_type == "GlobalMaxPool"
    instruction = MaxPool(
        name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=view.formats[y].bits, axis=view.axis(y, (x,)),
        window=None if whole else pool_window(node.attrs, spatial),
        axes=tuple(range(2, 2 + len(spatial))) if whole else (), x_bits=view.formats[x].bits,
    )  # fmt: skip
    return ((instruction, {"n": reduction_shift(node, view)}),)


def _average_program(node: Node, view: ProgramView) -> Built:
    x, y = node.inputs[0], node.outputs[0]
    spatial = view.shape(x)[2:]
    whole = node.op_type == "GlobalAveragePool"
    counts = np.full((1,) * len(spatial), np.prod(spatial)) if whole else window_counts(node.attrs, spatial)
    instruction = PoolSum(
        name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=view.formats[y].bits, axis=view.axis(y, (x,)),
        window=None if whole else pool_window(node.attrs, spatial),
        axes=tuple(range(2, 2 + len(spatial))) if whole else (), x_bits=view.formats[x].bits,
    )  # fmt: skip
    return ((instruction, mean_integers(node, view, counts)),)


MAX_POOL = OpDef(
    op_type="MaxPool", attrs=PoolAttrs, canonical=_canonical, to_float=_max_pool, constrain=_constrain,
    to_program=_max_program,
)  # fmt: skip
AVERAGE_POOL = OpDef(
    op_type="AveragePool", attrs=PoolAttrs, canonical=_canonical, to_float=_average_pool, constrain=_constrain,
    to_program=_average_program,
)  # fmt: skip
GLOBAL_AVERAGE_POOL = OpDef(
    op_type="GlobalAveragePool", to_float=lambda a, x: x.mean(_spatial(x), keepdims=True), constrain=_constrain,
    to_program=_average_program,
)  # fmt: skip
GLOBAL_MAX_POOL = OpDef(
    op_type="GlobalMaxPool", to_float=lambda a, x: x.max(_spatial(x), keepdims=True), constrain=_constrain,
    to_program=_max_program,
)  # fmt: skip

OPS = (MAX_POOL, AVERAGE_POOL, GLOBAL_AVERAGE_POOL, GLOBAL_MAX_POOL)
