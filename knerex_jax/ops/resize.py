"""Resize: sampling positions and weights per axis in NumPy, and the float rule built on them.

Sampling is separable, so every axis has its own small plan: the input index of each output position (nearest) or a few
indices with weights (linear, cubic, antialiased). Upsample is the old name of Resize.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.graph.ir import Node
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.places import taken


@dataclass(frozen=True)
class ResizeAttrs:
    """As in ONNX: either scales or sizes is given, for `axes` or for all axes; roi only for tf_crop_and_resize."""

    roi: tuple[float, ...] | None = None
    scales: tuple[float, ...] | None = None
    sizes: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    extrapolation_value: float = 0.0
    antialias: int = 0
    keep_aspect_ratio_policy: str = "stretch"


class AxisPlan(NamedTuple):
    """What Resize does to one axis.

    Attributes:
      size_in, size_out: lengths before and after.
      scale: output positions per input position, float64 of the float32 value given, or size_out / size_in.
      start, end: the part of the axis that is kept, relative to its length; only tf_crop_and_resize looks at it.
    """

    size_in: int
    size_out: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def axis_plans(a: ResizeAttrs, shape: tuple[int, ...]) -> tuple[AxisPlan, ...]:
    """The plan of every axis of an input of that shape; axes that are not resized have scale 1 and equal sizes."""
    rank = len(shape)
    axes = tuple(range(rank)) if a.axes is None else tuple(i % rank for i in a.axes)
    starts, ends = (a.roi[: len(axes)], a.roi[len(axes) :]) if a.roi else ((0.0,) * len(axes), (1.0,) * len(axes))
    plans = {axis: AxisPlan(size, size, 1.0) for axis, size in enumerate(shape)}
    for i, (size, scale) in enumerate(_sizes_and_scales(a, [shape[axis] for axis in axes])):
        plans[axes[i]] = AxisPlan(shape[axes[i]], size, scale, starts[i], ends[i])
    return tuple(plans[axis] for axis in range(rank))


def _sizes_and_scales(a: ResizeAttrs, sizes_in: list[int]) -> list[tuple[int, float]]:
    if a.scales:
        return [(int(np.floor(n * s)), float(s)) for n, s in zip(sizes_in, a.scales, strict=True)]
    assert a.sizes, "Resize needs scales or sizes"
    scales = [out / n for out, n in zip(a.sizes, sizes_in, strict=True)]
    if a.keep_aspect_ratio_policy == "stretch":
        return list(zip(a.sizes, scales, strict=True))
    scale = min(scales) if a.keep_aspect_ratio_policy == "not_larger" else max(scales)
    return [(int(scale * n + 0.5), scale) for n in sizes_in]


def axis_positions(a: ResizeAttrs, plan: AxisPlan) -> np.ndarray:
    """Where each output position lies on the input axis: float64 [size_out], not clamped.

    Raises:
      ValueError: the coordinate transformation is not known.
    """
    size_in, size_out, scale, start, end = plan
    at, mode = np.arange(size_out, dtype=np.float64), a.coordinate_transformation_mode
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (size_in - 1) / (size_out - 1) if size_out > 1 else np.zeros(size_out)
    if mode == "pytorch_half_pixel" and size_out == 1:
        return np.zeros(1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        offset = size_in / 2 * (1 - size_out / (scale * size_in))
        return offset + (at + 0.5) / scale - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    if mode == "tf_crop_and_resize":
        if size_out == 1:
            return np.array([0.5 * (start + end) * (size_in - 1)])
        return start * (size_in - 1) + at * (end - start) * (size_in - 1) / (size_out - 1)
    raise ValueError(f"unknown coordinate_transformation_mode {mode!r}")


def axis_nearest(a: ResizeAttrs, plan: AxisPlan) -> np.ndarray:
    """Input index of each output position in nearest mode: int64 [size_out], clamped to the axis.

    Raises:
      ValueError: the rounding is not known.
    """
    at = axis_positions(a, plan)
    if a.nearest_mode == "round_prefer_floor":
        index = np.ceil(at - 0.5)
    elif a.nearest_mode == "round_prefer_ceil":
        index = np.floor(at + 0.5)
    elif a.nearest_mode in ("floor", "ceil"):
        index = np.floor(at) if a.nearest_mode == "floor" else np.ceil(at)
    else:
        raise ValueError(f"unknown nearest_mode {a.nearest_mode!r}")
    return np.clip(index, 0, plan.size_in - 1).astype(np.int64)


def axis_taps(a: ResizeAttrs, plan: AxisPlan) -> tuple[np.ndarray, np.ndarray]:
    """Linear and cubic modes: indices int64 [size_out, taps] clamped to the axis, and their weights, float64.

    The weights of an output position sum to 1. Positions outside repeat the border, unless `exclude_outside`.
    """
    at = axis_positions(a, plan)
    base = np.floor(at)
    if a.antialias and plan.scale < 1:
        first, weights = _wide_taps(a, at - base, plan.scale)
    elif a.mode == "linear":
        first, weights = 0, np.stack([1 - (at - base), at - base], axis=1)
    else:
        t = at - base
        first, weights = -1, np.stack([_cubic(d, a.cubic_coeff_a) for d in (1 + t, t, 1 - t, 2 - t)], axis=1)
    index = base.astype(np.int64)[:, None] + first + np.arange(weights.shape[1])
    if a.exclude_outside and (a.mode == "cubic" or a.antialias):
        weights = np.where((index < 0) | (index >= plan.size_in), 0.0, weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, plan.size_in - 1), weights


def axis_weights(a: ResizeAttrs, plan: AxisPlan) -> np.ndarray:
    """Linear and cubic modes as a matrix: float64 [size_out, size_in], rows sum to 1."""
    index, weights = axis_taps(a, plan)
    dense = np.zeros((plan.size_out, plan.size_in))
    np.add.at(dense, (np.arange(plan.size_out)[:, None], index), weights)
    return dense


def axis_outside(a: ResizeAttrs, plan: AxisPlan) -> np.ndarray:
    """Output positions that take the extrapolation value: bool [size_out]."""
    if a.coordinate_transformation_mode != "tf_crop_and_resize":
        return np.zeros(plan.size_out, bool)
    at = axis_positions(a, plan)
    return (at < 0) | (at > plan.size_in - 1)


def is_resized(a: ResizeAttrs, plan: AxisPlan) -> bool:
    """Whether the axis changes at all."""
    cropped = a.coordinate_transformation_mode == "tf_crop_and_resize" and (plan.start, plan.end) != (0.0, 1.0)
    return cropped or plan.size_in != plan.size_out or plan.scale != 1.0


def _cubic(d: np.ndarray, c: float) -> np.ndarray:
    """Keys' kernel at distances d >= 0."""
    near = ((c + 2) * d - (c + 3)) * d * d + 1
    far = ((c * d - 5 * c) * d + 8 * c) * d - 4 * c
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _wide_taps(a: ResizeAttrs, fraction: np.ndarray, scale: float) -> tuple[int, np.ndarray]:
    """First tap relative to the floor, and normalised weights [out, taps] of the kernel stretched by 1 / scale."""
    reach = int(np.ceil((1 if a.mode == "linear" else 2) / scale))
    distance = np.abs(np.arange(-reach, reach + 2) - fraction[:, None]) * scale
    weights = np.maximum(1 - distance, 0) if a.mode == "linear" else _cubic(distance, a.cubic_coeff_a)
    return -reach, weights / weights.sum(axis=1, keepdims=True)


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _resize(a: ResizeAttrs, x: Array) -> Array:
    plans = [(axis, plan) for axis, plan in enumerate(axis_plans(a, x.shape)) if is_resized(a, plan)]
    if a.mode == "nearest":
        x = taken(x, [axis_nearest(a, plan) for _, plan in plans], [axis for axis, _ in plans])
        for axis, plan in plans:
            x = _extrapolated(a, x, axis, plan)
        return x
    working = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    for axis, plan in plans:
        index, weights = axis_taps(a, plan)
        total = jnp.zeros((), working.dtype)
        for k in np.flatnonzero(weights.any(axis=0)):
            factor = _along(weights[:, k], axis, x.ndim).astype(working.dtype)
            total = total + jnp.take(working, index[:, k], axis=axis) * factor
        working = _extrapolated(a, total, axis, plan)
    if working.dtype == x.dtype:
        return working
    limits = jnp.iinfo(x.dtype)
    return jnp.clip(jnp.round(working), limits.min, limits.max).astype(x.dtype)


def _extrapolated(a: ResizeAttrs, y: Array, axis: int, plan: AxisPlan) -> Array:
    outside = axis_outside(a, plan)
    if not outside.any():
        return y
    return jnp.where(_along(outside, axis, y.ndim), jnp.asarray(a.extrapolation_value, y.dtype), y)


_STATIC = ((1, "roi"), (2, "scales"), (3, "sizes"))


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs = {k: v for k, v in node.attrs.items() if k not in ("roi", "scales", "sizes") or v != ()}
    if opset <= 10:
        attrs = _asymmetric(attrs, attrs.pop("roi"))
    return replace(node, attrs=attrs, inputs=node.inputs[:1])


def _upsample_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs = dict(node.attrs)
    attrs["mode"] = {"bilinear": "linear"}.get(attrs.get("mode", "nearest"), attrs.get("mode", "nearest"))
    return replace(node, op_type="Resize", attrs=_asymmetric(attrs, attrs.pop("scales")), inputs=node.inputs[:1])


def _asymmetric(attrs: Mapping[str, Any], scales: Any) -> dict[str, Any]:
    """What Upsample, and Resize of opset 10, did without saying so."""
    scales = scales if isinstance(scales, tuple) else (scales,)
    rounding = "floor" if any(s > 1 for s in scales) else "ceil"
    return {**attrs, "scales": scales, "coordinate_transformation_mode": "asymmetric", "nearest_mode": rounding}


RESIZE = OpDef(op_type="Resize", attrs=ResizeAttrs, static_inputs=_STATIC, canonical=_canonical, to_float=_resize)
UPSAMPLE = OpDef(
    op_type="Upsample", attrs=ResizeAttrs, static_inputs=((1, "scales"),), canonical=_upsample_canonical,
    to_float=_resize,
)  # fmt: skip

OPS = (UPSAMPLE,)
