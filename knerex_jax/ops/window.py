"""Sliding windows: automatic padding, output sizes, what lies under each tap, and where windows of results go."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from jax import Array, lax


class Sliding(Protocol):
    """How a window moves, one entry per spatial axis: `primitives.Window`, or what the emulator makes of it."""

    @property
    def kernel(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def dilations(self) -> tuple[int, ...]: ...


def output_size(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil: bool) -> int:
    """Number of window positions along one axis (ONNX rule: no window starts in the end padding)."""
    span = size + begin + end - ((kernel - 1) * dilation + 1)
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + begin:
        count -= 1
    return count


def padded_sizes(spatial: Sequence[int], w: Sliding) -> list[int]:
    """Sizes of the result over an input [*spatial] that is padded already."""
    sides = zip(spatial, w.kernel, w.strides, w.dilations, strict=True)
    return [output_size(size, k, s, d, 0, 0, ceil=False) for size, k, s, d in sides]


def under_taps(x: Array, w: Sliding) -> Iterator[Array]:
    """For every tap of the window the elements under it; x [N, *spatial, C], padded."""
    sizes = padded_sizes(x.shape[1:-1], w)
    for tap in np.ndindex(*w.kernel):
        start = [t * d for t, d in zip(tap, w.dilations, strict=True)]
        stop = [b + (o - 1) * s + 1 for b, o, s in zip(start, sizes, w.strides, strict=True)]
        yield lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *w.strides, 1))


def side_by_side(y: Array) -> Array:
    """Windows that do not overlap, one per pixel, put in their places: [N, *spatial, *kernel, C] -> [N, *larger, C]."""
    n = (y.ndim - 2) // 2
    places = [axis for k in range(n) for axis in (1 + k, 1 + n + k)]
    sizes = [y.shape[1 + k] * y.shape[1 + n + k] for k in range(n)]
    return lax.transpose(y, (0, *places, 2 * n + 1)).reshape(y.shape[0], *sizes, y.shape[-1])


def resolve_window(attrs: dict[str, Any], spatial: tuple[int, ...]) -> dict[str, Any]:
    """Fills strides, dilations and explicit pads, so that auto_pad is known to no other rule."""
    kernel = tuple(attrs["kernel_shape"])
    n = len(kernel)
    attrs = dict(attrs)
    strides = attrs["strides"] = tuple(attrs.get("strides") or (1,) * n)
    dilations = attrs["dilations"] = tuple(attrs.get("dilations") or (1,) * n)
    auto = attrs.pop("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begins.append(small if auto == "SAME_UPPER" else large)
            ends.append(large if auto == "SAME_UPPER" else small)
        attrs["pads"] = (*begins, *ends)
    elif auto == "VALID":
        attrs["pads"] = (0,) * (2 * n)
    else:
        attrs["pads"] = tuple(attrs.get("pads") or (0,) * (2 * n))
    return attrs
