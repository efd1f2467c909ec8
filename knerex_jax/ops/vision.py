"""Sampling at computed positions: GridSample, AffineGrid, RoiAlign, MaxRoiPool, DeformConv, and Col2Im."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Node
from knerex_jax.ops.conv import ConvAttrs
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.window import resolve_window

Pixel = Callable[[Array, int], tuple[Array, Array | None]]
"""(integer positions as floats, axis length) -> positions inside the axis, and which of them count (None: all)."""


@dataclass(frozen=True)
class GridSampleAttrs:
    """mode: linear, nearest or cubic; padding_mode: zeros, border or reflection."""

    mode: str = "linear"
    padding_mode: str = "zeros"
    align_corners: int = 0


@dataclass(frozen=True)
class AffineGridAttrs:
    """size: shape of the image to sample, (N, C, spatial...)."""

    size: tuple[int, ...] = ()
    align_corners: int = 0


@dataclass(frozen=True)
class RoiAlignAttrs:
    """sampling_ratio: samples per bin and axis."""

    output_height: int = 1
    output_width: int = 1
    sampling_ratio: int = 0
    spatial_scale: float = 1.0
    mode: str = "avg"
    coordinate_transformation_mode: str = "half_pixel"


@dataclass(frozen=True)
class MaxRoiPoolAttrs:
    """pooled_shape: (height, width)."""

    pooled_shape: tuple[int, ...] = (1, 1)
    spatial_scale: float = 1.0


@dataclass(frozen=True)
class DeformConvAttrs(ConvAttrs):
    """offset_group: groups of input channels that share their offsets."""

    offset_group: int = 1


@dataclass(frozen=True)
class Col2ImAttrs:
    """Geometry, one entry per spatial axis; pads lists all begins, then all ends."""

    image_shape: tuple[int, ...] = ()
    block_shape: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


def _cubic_taps(t: Array) -> list[Array]:
    """Weights of the taps -1 .. 2 around the floor, at fraction t."""
    c = -0.75

    def near(d: Array) -> Array:
        return ((c + 2) * d - (c + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((c * d - 5 * c) * d + 8 * c) * d - 4 * c

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


def _taps(mode: str, at: Array) -> tuple[Array, list[Array]]:
    """First position and weights of the taps at positions `at` of one axis."""
    if mode == "nearest":
        return jnp.round(at), [jnp.ones_like(at)]
    base = jnp.floor(at)
    if mode == "linear":
        return base, [1 - (at - base), at - base]
    return base - 1, _cubic_taps(at - base)


def _inside(at: Array, size: int) -> tuple[Array, Array]:
    """Positions outside count as zeros."""
    return jnp.clip(at, 0, size - 1), (at >= 0) & (at <= size - 1)


def _sample(x: Array, at: Sequence[Array], mode: str, pixel: Pixel = _inside) -> Array:
    """Values of x [N, C, *spatial] at positions `at`, one array [N, *points] per spatial axis; [N, C, *points]."""
    axes = [_taps(mode, p) for p in at]
    total = jnp.zeros((), x.dtype)
    for combination in np.ndindex(*(len(weights) for _, weights in axes)):
        ids, factor = [], None
        for size, (first, weights), k in zip(x.shape[2:], axes, combination, strict=True):
            place, counts = pixel(first + k, size)
            weight = weights[k] if counts is None else jnp.where(counts, weights[k], 0)
            ids.append(place.astype(jnp.int32))
            factor = weight if factor is None else factor * weight
        assert factor is not None
        values = jax.vmap(lambda image, *i: image[(slice(None), *i)])(x, *ids)
        total = total + values * factor[:, None].astype(x.dtype)
    return total


def _reflect(at: Array, low: float, high: float) -> Array:
    """Folds positions back into low .. high."""
    span = high - low
    if span <= 0:
        return jnp.full_like(at, low)
    way = jnp.mod(at - low, 2 * span)
    return low + jnp.where(way > span, 2 * span - way, way)


def _grid_sample(a: GridSampleAttrs, x: Array, grid: Array) -> Array:
    def borders(size: int) -> tuple[float, float]:
        return (0.0, size - 1.0) if a.align_corners else (-0.5, size - 0.5)

    def pixel(at: Array, size: int) -> tuple[Array, Array | None]:
        if a.padding_mode == "zeros":
            return _inside(at, size)
        at = _reflect(at, *borders(size)) if a.padding_mode == "reflection" else at
        return jnp.clip(jnp.trunc(at), 0, size - 1), None

    places = []
    for size, part in zip(x.shape[2:], jnp.moveaxis(grid, -1, 0)[::-1], strict=True):
        at = (part + 1) / 2 * (size - 1) if a.align_corners else ((part + 1) * size - 1) / 2
        at = jnp.round(at) if a.mode == "nearest" else at
        if a.mode != "cubic":  # whose neighbours outside are looked up one by one
            at = jnp.clip(at, 0, size - 1) if a.padding_mode == "border" else at
            at = _reflect(at, *borders(size)) if a.padding_mode == "reflection" else at
        places.append(jnp.trunc(at) if a.mode == "nearest" else at)
    return _sample(x, places, a.mode, pixel)


def _grid_sample_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    mode = node.attrs.get("mode", "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return replace(node, attrs={**node.attrs, "mode": mode})


def _affine_grid(a: AffineGridAttrs, theta: Array) -> Array:
    spatial = a.size[2:]
    axes = []
    for size in spatial:
        steps = 2 * np.arange(size) + (0 if a.align_corners else 1)
        axes.append(steps / max(size - 1, 1) - 1 if a.align_corners and size > 1 else steps / size - 1)
    grid = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(spatial)], axis=-1)
    return jnp.einsum("...k,njk->n...j", jnp.asarray(grid, theta.dtype), theta, precision="highest")


def _roi_axis(low: Array, high: Array, bins: int, a: RoiAlignAttrs, size: int) -> tuple[Array, Array, Array, Array]:
    """Per ROI and sample of one axis: both neighbours and their weights, zero outside; each [R, bins * samples]."""
    extent = high - low
    if a.coordinate_transformation_mode != "half_pixel":
        extent = jnp.maximum(extent, 1)
    steps = jnp.asarray((np.arange(bins * a.sampling_ratio) + 0.5) / (bins * a.sampling_ratio), low.dtype)
    at = low[:, None] + extent[:, None] * steps
    inside = (at >= -1) & (at <= size)
    at = jnp.clip(at, 0, size - 1)
    first = jnp.floor(at)
    second = jnp.minimum(first + 1, size - 1)
    upper = jnp.where(inside, at - first, 0)
    lower = jnp.where(inside, 1 - (at - first), 0)
    return first.astype(jnp.int32), second.astype(jnp.int32), lower, upper


def _roi_align(a: RoiAlignAttrs, x: Array, rois: Array, batch: Array) -> Array:
    offset = 0.5 if a.coordinate_transformation_mode == "half_pixel" else 0.0
    x1, y1, x2, y2 = (rois * jnp.asarray(a.spatial_scale, rois.dtype) - offset).T
    rows = _roi_axis(y1, y2, a.output_height, a, x.shape[2])
    columns = _roi_axis(x1, x2, a.output_width, a, x.shape[3])
    corners = []
    for i in range(2):
        for j in range(2):
            values = x[batch[:, None, None], :, rows[i][:, :, None], columns[j][:, None, :]]
            weight = rows[2 + i][:, :, None] * columns[2 + j][:, None, :]
            corners.append(values * weight[..., None].astype(x.dtype))
    # ONNX takes the maximum over weighted corners, not over interpolated values.
    y = sum(corners[1:], corners[0]) if a.mode == "avg" else jnp.stack(corners).max(0)
    n = a.sampling_ratio
    y = y.reshape(-1, a.output_height, n, a.output_width, n, x.shape[1])
    y = y.mean((2, 4)) if a.mode == "avg" else y.max((2, 4))
    return jnp.moveaxis(y, -1, 1)


def _roi_align_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs = dict(node.attrs)
    if opset < 16:
        attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")
    if not attrs.get("sampling_ratio", 0):
        what = "RoiAlign whose number of samples depends on the size of the region has no rule"
        raise UnsupportedOpError(what, where=f"node {node.name}", fix="export with sampling_ratio of 1 or more")
    return replace(node, attrs=attrs)


def _bin_masks(start: Array, end: Array, bins: int, size: int) -> Array:
    """Which entries of an axis belong to each bin of each ROI: bool [R, bins, size]."""
    width = jnp.maximum(end - start + 1, 1) / bins
    index = jnp.arange(bins, dtype=start.dtype)
    first = jnp.floor(index * width[:, None]) + start[:, None]
    last = jnp.ceil((index + 1) * width[:, None]) + start[:, None]
    place = jnp.arange(size, dtype=start.dtype)
    return (place >= first[..., None]) & (place < last[..., None])


def _max_roi_pool(a: MaxRoiPoolAttrs, x: Array, rois: Array) -> Array:
    batch = rois[:, 0].astype(jnp.int32)
    scaled = rois[:, 1:] * jnp.asarray(a.spatial_scale, rois.dtype)
    x1, y1, x2, y2 = (jnp.sign(scaled) * jnp.floor(jnp.abs(scaled) + 0.5)).T
    rows, columns = _bin_masks(y1, y2, a.pooled_shape[0], x.shape[2]), _bin_masks(x1, x2, a.pooled_shape[1], x.shape[3])
    values = jnp.where(rows[:, None, :, :, None], x[batch][:, :, None], -jnp.inf).max(3)
    y = jnp.where(columns[:, None, None], values[:, :, :, None], -jnp.inf).max(4)
    return jnp.where(jnp.isneginf(y), 0, y).astype(x.dtype)


def _deform_conv(
    a: DeformConvAttrs, x: Array, w: Array, offset: Array, bias: Array | None = None, mask: Array | None = None
) -> Array:
    n, c = x.shape[:2]
    spatial, out = len(a.kernel_shape), offset.shape[2:]
    offset = offset.reshape(n * a.offset_group, *a.kernel_shape, spatial, *out)
    places = []
    for i in range(spatial):
        tap = np.arange(a.kernel_shape[i]) * a.dilations[i] - a.pads[i]
        step = np.arange(out[i]) * a.strides[i]
        shape = [1] * (2 * spatial)
        taps, steps = shape.copy(), shape.copy()
        taps[i], steps[spatial + i] = -1, -1
        regular = tap.reshape(taps) + step.reshape(steps)
        places.append(jnp.take(offset, i, axis=1 + spatial) + jnp.asarray(regular, offset.dtype))
    columns = _sample(x.reshape(n * a.offset_group, c // a.offset_group, *x.shape[2:]), places, "linear")
    if mask is not None:
        columns = columns * mask.reshape(n * a.offset_group, 1, *a.kernel_shape, *out)
    columns = columns.reshape(n, a.group, c // a.group * int(np.prod(a.kernel_shape)), *out)
    weight = w.reshape(a.group, w.shape[0] // a.group, -1)
    y = jnp.einsum("ngk...,gok->ngo...", columns, weight, precision="highest").reshape(n, w.shape[0], *out)
    return y if bias is None else y + bias.reshape((-1,) + (1,) * spatial)


def _deform_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs: dict[str, Any] = dict(node.attrs)
    attrs.setdefault("kernel_shape", shapes[node.inputs[1]][2:])
    return replace(node, attrs=resolve_window(attrs, shapes[node.inputs[0]][2:]))


def _col2im(a: Col2ImAttrs, x: Array) -> Array:
    n = len(a.image_shape)
    strides, dilations, pads = a.strides or (1,) * n, a.dilations or (1,) * n, a.pads or (0,) * (2 * n)
    counts = [
        (size + pads[i] + pads[n + i] - dilations[i] * (a.block_shape[i] - 1) - 1) // strides[i] + 1
        for i, size in enumerate(a.image_shape)
    ]
    blocks = x.reshape(x.shape[0], -1, *a.block_shape, *counts)
    total = jnp.zeros((*blocks.shape[:2], *a.image_shape), x.dtype)
    for tap in np.ndindex(*a.block_shape):
        config = [(0, 0, 0), (0, 0, 0)]
        for i, size in enumerate(a.image_shape):
            begin = tap[i] * dilations[i] - pads[i]
            config.append((begin, size - begin - (counts[i] - 1) * strides[i] - 1, strides[i] - 1))
        total = total + lax.pad(blocks[(slice(None), slice(None), *tap)], jnp.zeros((), x.dtype), config)
    return total


OPS = (
    OpDef(op_type="GridSample", attrs=GridSampleAttrs, canonical=_grid_sample_canonical, to_float=_grid_sample),
    OpDef(op_type="AffineGrid", attrs=AffineGridAttrs, static_inputs=((1, "size"),), to_float=_affine_grid),
    OpDef(op_type="RoiAlign", attrs=RoiAlignAttrs, canonical=_roi_align_canonical, to_float=_roi_align),
    OpDef(op_type="MaxRoiPool", attrs=MaxRoiPoolAttrs, to_float=_max_roi_pool),
    OpDef(op_type="DeformConv", attrs=DeformConvAttrs, canonical=_deform_canonical, to_float=_deform_conv),
    OpDef(
        op_type="Col2Im", attrs=Col2ImAttrs, static_inputs=((1, "image_shape"), (2, "block_shape")), to_float=_col2im
    ),
)
