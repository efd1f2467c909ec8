"""Access by index: gathering, scattering, ordering and running along an axis."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops.dtypes import int64
from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class GatherElementsAttrs:
    """The axis that is indexed."""

    axis: int = 0


@dataclass(frozen=True)
class GatherNDAttrs:
    """batch_dims: leading axes that both inputs share."""

    batch_dims: int = 0


@dataclass(frozen=True)
class ScatterElementsAttrs:
    """reduction: what happens where something is already written: none, add, mul, max, min."""

    axis: int = 0
    reduction: str = "none"


@dataclass(frozen=True)
class ScatterNDAttrs:
    """reduction as in ScatterElements."""

    reduction: str = "none"


@dataclass(frozen=True)
class OneHotAttrs:
    """axis of the output along which the indices are spread; depth: its length."""

    axis: int = -1
    depth: float = 1


@dataclass(frozen=True)
class TopKAttrs:
    """k best along the axis, which is sorted whether wanted or not."""

    k: int = 1
    axis: int = -1
    largest: int = 1
    sorted: int = 1


@dataclass(frozen=True)
class ArgAttrs:
    """select_last_index: which of equal values counts."""

    axis: int = 0
    keepdims: int = 1
    select_last_index: int = 0


@dataclass(frozen=True)
class TriluAttrs:
    """The triangle that is kept, from diagonal k."""

    k: int = 0
    upper: int = 1


@dataclass(frozen=True)
class ReverseSequenceAttrs:
    """Axes of the sequences and of their places."""

    batch_axis: int = 1
    time_axis: int = 0


@dataclass(frozen=True)
class RunningAttrs:
    """exclusive: without the element itself; reverse: from the end."""

    axis: int = 0
    exclusive: int = 0
    reverse: int = 0


def _wrapped(indices: Array, size: int) -> Array:
    """Indices counted from the start."""
    return jnp.where(indices < 0, indices + jnp.asarray(size, indices.dtype), indices)


def _gather_elements(a: GatherElementsAttrs, x: Array, indices: Array) -> Array:
    return x[_along(indices, x, a.axis)]


def _along(indices: Array, x: Array, axis: int) -> tuple[Array, ...]:
    """Full indices of the elements that `indices` picks along one axis."""
    axis %= x.ndim
    return tuple(
        _wrapped(indices, x.shape[axis]) if i == axis else lax.broadcasted_iota(indices.dtype, indices.shape, i)
        for i in range(x.ndim)
    )


def _gather_nd(a: GatherNDAttrs, x: Array, indices: Array) -> Array:
    def pick(values: Array, places: Array) -> Array:
        return values[tuple(_wrapped(places[..., i], values.shape[i]) for i in range(places.shape[-1]))]

    for _ in range(a.batch_dims):
        pick = jax.vmap(pick)
    return pick(x, indices)


def _written(x: Array, places: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    at = x.at[places]
    if jnp.issubdtype(x.dtype, jnp.bool_) and reduction != "none":
        merge = {"add": at.max, "max": at.max, "mul": at.min, "min": at.min}[reduction]
    else:
        merge = {"none": at.set, "add": at.add, "mul": at.multiply, "max": at.max, "min": at.min}[reduction]
    return merge(updates)


def _scatter_elements(a: ScatterElementsAttrs, x: Array, indices: Array, updates: Array) -> Array:
    return _written(x, _along(indices, x, a.axis), updates, a.reduction)


def _scatter_nd(a: ScatterNDAttrs, x: Array, indices: Array, updates: Array) -> Array:
    places = tuple(_wrapped(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    return _written(x, places, updates, a.reduction)


def _as_scatter_elements(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    return replace(node, op_type="ScatterElements")


def _one_hot(a: OneHotAttrs, indices: Array, absent: None, values: Array) -> Array:
    depth = int(a.depth)
    axis = a.axis % (indices.ndim + 1)
    places = jnp.arange(depth, dtype=indices.dtype).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    return jnp.where(jnp.expand_dims(_wrapped(indices, depth), axis) == places, values[1], values[0])


def _top_k(a: TopKAttrs, x: Array) -> tuple[Array, Array]:
    order = jnp.argsort(x, axis=a.axis, stable=True, descending=bool(a.largest))
    best = lax.slice_in_dim(order, 0, a.k, axis=a.axis % x.ndim)
    return jnp.take_along_axis(x, best, axis=a.axis), best.astype(int64())


def _arg(function: Any) -> Any:
    def to_float(a: ArgAttrs, x: Array) -> Array:
        keep = bool(a.keepdims)
        if not a.select_last_index:
            return function(x, axis=a.axis, keepdims=keep).astype(int64())
        found = function(jnp.flip(x, a.axis), axis=a.axis, keepdims=keep)
        return (x.shape[a.axis] - 1 - found).astype(int64())

    return to_float


def _trilu(a: TriluAttrs, x: Array) -> Array:
    rows, columns = x.shape[-2:]
    distance = np.arange(columns) - np.arange(rows)[:, None]
    return jnp.where(distance >= a.k if a.upper else distance <= a.k, x, jnp.zeros((), x.dtype))


def _reverse_sequence(a: ReverseSequenceAttrs, x: Array, lengths: Array) -> Array:
    shape = [x.shape[i] if i in (a.batch_axis, a.time_axis) else 1 for i in range(x.ndim)]
    place = lax.broadcasted_iota(lengths.dtype, shape, a.time_axis)
    length = lengths.reshape([-1 if i == a.batch_axis else 1 for i in range(x.ndim)])
    return jnp.take_along_axis(x, jnp.where(place < length, length - 1 - place, place), axis=a.time_axis)


def _running(function: Any, neutral: int) -> Any:
    def to_float(a: RunningAttrs, x: Array) -> Array:
        axis, size = a.axis % x.ndim, x.shape[a.axis]
        x = jnp.flip(x, axis) if a.reverse else x
        if a.exclusive:
            start = jnp.full_like(lax.slice_in_dim(x, 0, min(size, 1), axis=axis), neutral)
            x = jnp.concatenate([start, lax.slice_in_dim(x, 0, max(size - 1, 0), axis=axis)], axis)
        y = function(x, axis=axis, dtype=x.dtype)
        return jnp.flip(y, axis) if a.reverse else y

    return to_float


def _op(op_type: str, attrs: type, to_float: Any, **rules: Any) -> OpDef:
    return OpDef(op_type=op_type, attrs=attrs, to_float=to_float, **rules)


OPS = (
    _op("GatherElements", GatherElementsAttrs, _gather_elements),
    _op("GatherND", GatherNDAttrs, _gather_nd),
    _op("Scatter", ScatterElementsAttrs, _scatter_elements, canonical=_as_scatter_elements),
    _op("ScatterElements", ScatterElementsAttrs, _scatter_elements),
    _op("ScatterND", ScatterNDAttrs, _scatter_nd),
    _op("OneHot", OneHotAttrs, _one_hot, static_inputs=((1, "depth"),)),
    _op("TopK", TopKAttrs, _top_k, static_inputs=((1, "k"),)),
    _op("ArgMax", ArgAttrs, _arg(jnp.argmax)),
    _op("ArgMin", ArgAttrs, _arg(jnp.argmin)),
    _op("Trilu", TriluAttrs, _trilu, static_inputs=((1, "k"),)),
    _op("ReverseSequence", ReverseSequenceAttrs, _reverse_sequence),
    _op("CumSum", RunningAttrs, _running(jnp.cumsum, 0), static_inputs=((1, "axis"),)),
    _op("CumProd", RunningAttrs, _running(jnp.cumprod, 1), static_inputs=((1, "axis"),)),
)
