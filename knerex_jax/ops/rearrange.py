"""Data movement that is written as several simpler moves: blocks, tiles, crops."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class DepthToSpaceAttrs:
    """mode: "DCR" (block rows, block columns, depth) or "CRD"."""

    blocksize: int = 1
    mode: str = "DCR"


@dataclass(frozen=True)
class SpaceToDepthAttrs:
    """mode as in DepthToSpace."""

    blocksize: int = 1
    mode: str = "DCR"


@dataclass(frozen=True)
class TileAttrs:
    """How often each axis is repeated."""

    repeats: tuple[int, ...] = ()


@dataclass(frozen=True)
class CenterCropPadAttrs:
    """Wanted sizes of the axes (None: of all)."""

    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None


def block_moves(
    a: DepthToSpaceAttrs | SpaceToDepthAttrs, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What moves blocks between channels and positions of a tensor [N, C, H, W]: a split shape, an order, a shape."""
    n, c, h, w = shape
    b = a.blocksize
    if isinstance(a, SpaceToDepthAttrs):
        order = (0, 3, 5, 1, 2, 4) if a.mode == "DCR" else (0, 1, 3, 5, 2, 4)
        return (n, c, h // b, b, w // b, b), order, (n, c * b**2, h // b, w // b)
    depth = c // b**2
    merged = (n, depth, h * b, w * b)
    if a.mode == "DCR":
        return (n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2), merged
    return (n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3), merged


def _move_blocks(a: DepthToSpaceAttrs | SpaceToDepthAttrs, x: Array) -> Array:
    split, order, merged = block_moves(a, x.shape)
    return x.reshape(split).transpose(order).reshape(merged)


def _center_crop_pad(a: CenterCropPadAttrs, x: Array) -> Array:
    axes = range(x.ndim) if a.axes is None else a.axes
    pads = [(0, 0, 0)] * x.ndim
    for axis, wanted in zip(axes, a.shape, strict=True):
        missing = wanted - x.shape[axis]
        begin = missing // 2 if missing > 0 else -(-missing // 2)
        pads[axis] = (begin, missing - begin, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


OPS = (
    OpDef(op_type="DepthToSpace", attrs=DepthToSpaceAttrs, to_float=_move_blocks),
    OpDef(op_type="SpaceToDepth", attrs=SpaceToDepthAttrs, to_float=_move_blocks),
    OpDef(
        op_type="Tile", attrs=TileAttrs, static_inputs=((1, "repeats"),), to_float=lambda a, x: jnp.tile(x, a.repeats)
    ),
    OpDef(op_type="CenterCropPad", attrs=CenterCropPadAttrs, static_inputs=((1, "shape"),), to_float=_center_crop_pad),
)
