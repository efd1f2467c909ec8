"""Windows over the spatial axes (2 and up): padding, taps, output sizes."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from .graph import attributes, expect

Tap = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A sliding window; one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    def extent(self, axis: int) -> int:
        """How far the window reaches: (kernel - 1) * dilation + 1."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def taps(self) -> Iterator[Tap]:
        return itertools.product(*(range(size) for size in self.kernel))

    def padded(self, x: np.ndarray, fill: int, out: tuple[int, ...]) -> np.ndarray:
        """The input with `fill` around it, as far as windows at `out` positions reach (ceil_mode: past the pads)."""
        widths = [(0, 0), (0, 0)]
        for axis, size in enumerate(x.shape[2:]):
            reach = (out[axis] - 1) * self.strides[axis] + self.extent(axis)
            widths.append((self.begin[axis], max(self.end[axis], reach - size - self.begin[axis])))
        return np.pad(x, widths, constant_values=fill)

    def at(self, padded: np.ndarray, tap: Tap, out: tuple[int, ...]) -> np.ndarray:
        """The element under one tap of the window, for every output position."""
        index = [slice(None), slice(None)]
        for axis, position in enumerate(tap):
            start = position * self.dilations[axis]
            stop = start + (out[axis] - 1) * self.strides[axis] + 1
            index.append(slice(start, stop, self.strides[axis]))
        return padded[tuple(index)]


def read_window(node: onnx.NodeProto, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Window:
    """The window of Conv, ConvTranspose or a pooling node with this kernel, over inputs of this spatial size."""
    values = attributes(node)
    rank = len(kernel)
    expect(rank == len(spatial), node, f"kernel {kernel} does not fit spatial size {spatial}")
    strides = tuple(values.get("strides", [1] * rank))
    dilations = tuple(values.get("dilations", [1] * rank))
    pads = list(values.get("pads", [0] * (2 * rank)))
    window = Window(kernel, strides, dilations, tuple(pads[:rank]), tuple(pads[rank:]))
    auto_pad = values.get("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        return Window(kernel, strides, dilations, (0,) * rank, (0,) * rank)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        expect(node.op_type != "ConvTranspose", node, "ConvTranspose needs explicit pads")
        totals = []
        for axis, size in enumerate(spatial):
            out = -(-size // strides[axis])
            totals.append(max(0, (out - 1) * strides[axis] + window.extent(axis) - size))
        small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        return Window(kernel, strides, dilations, begin, end)
    expect(auto_pad == "NOTSET", node, f"auto_pad {auto_pad} is not known")
    expect(min(pads, default=0) >= 0, node, "negative pads are not known")
    return window
