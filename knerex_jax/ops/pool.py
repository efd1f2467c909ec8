"""Pooling over windows and over the whole map: `maxpool` and `poolsum`."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import Built, PlanView, ProgramView, per_layer_unless
from knerex_jax.ops.constraint import Constraint, Layer, Same
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.sums import mean_integers, reduction_shift
from knerex_jax.ops.window import output_size, resolve_window, under_taps
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


@dataclass(frozen=True)
class MaxPoolAttrs(PoolAttrs):
    """with_indices: whether the second output, the flat position of each maximum, is wanted."""

    with_indices: bool = False


@dataclass(frozen=True)
class LpPoolAttrs(PoolAttrs):
    """Pooling by the p-norm."""

    p: int = 2


@dataclass(frozen=True)
class GlobalLpPoolAttrs:
    """The p-norm of the whole map."""

    p: int = 2


@dataclass(frozen=True)
class MaxUnpoolAttrs:
    """Geometry of the MaxPool that is undone; output_shape is full, the batch included."""

    kernel_shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    output_shape: tuple[int, ...] | None = None


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs = resolve_window(dict(node.attrs), shapes[node.inputs[0]][2:])
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        attrs["ceil_mode"] = 0  # automatic padding decides about the size alone
    return replace(node, attrs=attrs)


def _max_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    node = _canonical(node, opset, shapes)
    indices = len(node.outputs) > 1 and bool(node.outputs[1])
    return replace(node, attrs={**node.attrs, "with_indices": indices}, outputs=node.outputs[: 1 + indices])


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


_LONG = 16
"""Windows that are longer along an axis are left to the compiler."""


def _reduce_window(x: Array, w: Window, init: float, op: Callable[[Array, Array], Array]) -> Array:
    def plain(x: Array) -> Array:
        return lax.reduce_window(
            x, np.asarray(init, x.dtype), op, (1, 1, *w.kernel), (1, 1, *w.strides),
            ((0, 0), (0, 0), *w.pads), window_dilation=(1, 1, *w.dilations),
        )  # fmt: skip

    if max(w.kernel) > _LONG:
        return plain(x)
    return lax.platform_dependent(x, cpu=lambda x: _over_taps(x, w, init, op), default=plain)


def _over_taps(x: Array, w: Window, init: float, op: Callable[[Array, Array], Array]) -> Array:
    """What is under every tap of the window, combined element by element, channels last.

    Four to seven times faster on a CPU than its own loop over windows (3x3, stride 2, 64 channels, 112x112).
    """
    x = jnp.pad(jnp.moveaxis(x, 1, -1), [(0, 0), *w.pads, (0, 0)], constant_values=np.asarray(init, x.dtype))
    for window in [w] if math.prod(w.kernel) <= 9 else _by_axis(w):
        # Behind a barrier, or every tap would compute again what precedes.
        x = reduce(op, under_taps(lax.optimization_barrier(x), window))
    return jnp.moveaxis(x, -1, 1)


def _by_axis(w: Window) -> Iterator[Window]:
    """Windows along one axis each that together are this one, for what is padded already."""
    for axis in range(len(w.kernel)):
        kernel, strides, dilations = (_ones_but(axis, n) for n in (w.kernel, w.strides, w.dilations))
        yield Window(kernel, strides, dilations, ((0, 0),) * len(w.kernel))


def _ones_but(axis: int, numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n if k == axis else 1 for k, n in enumerate(numbers))


def _lowest(dtype: np.dtype) -> float:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else int(jnp.iinfo(dtype).min)


def _max_pool(a: MaxPoolAttrs, x: Array) -> Array | tuple[Array, Array]:
    window = pool_window(a, x.shape[2:])
    if a.with_indices:
        return _max_with_indices(x, window, column_major=bool(a.storage_order))
    return _reduce_window(x, window, _lowest(x.dtype), lax.max)


def _max_with_indices(x: Array, w: Window, *, column_major: bool) -> tuple[Array, Array]:
    """The maxima and the flat positions in x of their first occurrences; the spatial part row- or column-major."""
    order = (0, 1, *reversed(range(2, x.ndim))) if column_major else tuple(range(x.ndim))
    places = np.arange(x.size).reshape([x.shape[i] for i in order]).transpose(np.argsort(order))
    pads = [(0, 0), (0, 0), *w.pads]
    values = jnp.pad(x, pads, constant_values=np.asarray(_lowest(x.dtype), x.dtype))
    places, inside = np.pad(places, pads), np.pad(np.ones(x.shape, bool), pads)
    taps = []
    for tap in np.ndindex(*w.kernel):
        cut = tuple(_tap_slice(n, t, *g) for n, t, g in zip(values.shape[2:], tap, _geometry(w), strict=True))
        taps.append(tuple(v[(..., *cut)] for v in (values, places, inside)))
    best, best_place, found = taps[0]
    for value, place, valid in taps[1:]:
        better = valid & ((value > best) | ~found)
        best, best_place, found = jnp.where(better, value, best), jnp.where(better, place, best_place), found | valid
    best_place = jnp.asarray(best_place)
    return best, best_place.astype(jax.dtypes.canonicalize_dtype(np.int64))


def _geometry(w: Window) -> list[tuple[int, int, int]]:
    return list(zip(w.kernel, w.strides, w.dilations, strict=True))


def _tap_slice(size: int, tap: int, kernel: int, stride: int, dilation: int) -> slice:
    """The entries of a padded axis that one tap of the window meets."""
    count = (size - (kernel - 1) * dilation - 1) // stride + 1
    return slice(tap * dilation, tap * dilation + (count - 1) * stride + 1, stride)


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


def _powers(x: Array, p: int) -> Array:
    return x * x if p == 2 else jnp.abs(x) ** p


def _root(total: Array, p: int) -> Array:
    return jnp.sqrt(total) if p == 2 else total ** jnp.asarray(1 / p, total.dtype)


def _lp_pool(a: LpPoolAttrs, x: Array) -> Array:
    return _root(_reduce_window(_powers(x, a.p), pool_window(a, x.shape[2:]), 0, lax.add), a.p)


def _global_lp_pool(a: GlobalLpPoolAttrs, x: Array) -> Array:
    return _root(_powers(x, a.p).sum(_spatial(x), keepdims=True), a.p)


def _max_unpool(a: MaxUnpoolAttrs, x: Array, indices: Array) -> Array:
    half = len(a.kernel_shape)
    strides, pads = a.strides or (1,) * half, a.pads or (0,) * (2 * half)
    spatial = [
        (n - 1) * s - b - e + k
        for n, s, b, e, k in zip(x.shape[2:], strides, pads[:half], pads[half:], a.kernel_shape, strict=True)
    ]
    shape = (*x.shape[:2], *spatial)
    y = jnp.zeros(int(np.prod(shape)), x.dtype).at[indices.ravel()].set(x.ravel()).reshape(shape)
    if a.output_shape is None:
        return y
    return lax.pad(y, jnp.zeros((), x.dtype), [(0, to - n, 0) for to, n in zip(a.output_shape, shape, strict=True)])


def _spatial(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    x, y = node.inputs[0], node.outputs[0]
    # Codes of all positions are combined, so channels that run along them must mean the same.
    mixed = per_layer_unless(view, x, 1)
    return (*mixed, *(Layer(y) for _ in mixed), Same(y, (x,), within=True))


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
    op_type="MaxPool", attrs=MaxPoolAttrs, canonical=_max_canonical, to_float=_max_pool, constrain=_constrain,
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

OPS = (
    MAX_POOL,
    AVERAGE_POOL,
    GLOBAL_AVERAGE_POOL,
    GLOBAL_MAX_POOL,
    OpDef(op_type="LpPool", attrs=LpPoolAttrs, canonical=_canonical, to_float=_lp_pool),
    OpDef(op_type="GlobalLpPool", attrs=GlobalLpPoolAttrs, to_float=_global_lp_pool),
    OpDef(op_type="MaxUnpool", attrs=MaxUnpoolAttrs, static_inputs=((2, "output_shape"),), to_float=_max_unpool),
)
