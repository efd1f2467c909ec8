"""The geometry of a convolution as the emulator computes it, and its weights in that layout."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from knerex_jax.program.primitives import Mac

Taps = tuple[int, ...]

# Groups are multiplied together, with zeros between them, until a block has this many input channels: the integer
# kernels are so much faster on wide operands that it pays (3x3, 32 groups of 4 channels, 56x56, 4 samples: 13 ms
# against 21 ms as a batched dot of the groups; 64 channels 14 ms, 128 channels 16 ms).
_BLOCK_CHANNELS = 32


@dataclass(frozen=True)
class Geometry:
    """A convolution over channels-last arrays; a transposed one is a plain one over an input with zeros between.

    Attributes:
      kernel, strides, dilations: one entry per spatial axis (at least two: a single one gets an axis of size 1 before).
      pads: (begin, end, zeros between neighbours) per spatial axis; negative pads crop.
      group: groups of channels.
      channels: (inputs, outputs).
      spatial: size of the padded input.
    """

    kernel: Taps
    strides: Taps
    dilations: Taps
    pads: tuple[tuple[int, int, int], ...]
    group: int
    channels: tuple[int, int]
    spatial: Taps

    @property
    def out(self) -> Taps:
        """Size of the output."""
        return tuple(
            (n - (k - 1) * d - 1) // s + 1
            for n, k, s, d in zip(self.spatial, self.kernel, self.strides, self.dilations, strict=True)
        )

    @property
    def depthwise(self) -> bool:
        """One input channel per group."""
        return self.group > 1 and self.group == self.channels[0]

    @property
    def pointwise(self) -> bool:
        """A dot for every pixel."""
        return self.group == 1 and all(k == 1 for k in self.kernel)

    @property
    def apart(self) -> bool:
        """A transposed convolution whose windows lie side by side: every output has one pixel of the input."""
        alone = self.group == 1 and any(k > 1 for k in self.kernel) and all(d == 1 for d in self.dilations)
        return alone and all(p == (k - 1,) * 3 for p, k in zip(self.pads, self.kernel, strict=True))

    @property
    def blocks(self) -> int:
        """Parts of the channels that are multiplied apart: whole groups, neighbours merged while they are small."""
        size = self.channels[0] // self.group
        return min(
            self.group // merged
            for merged in range(1, self.group + 1)
            if self.group % merged == 0 and (merged == 1 or merged * size <= _BLOCK_CHANNELS)
        )

    @property
    def missing(self) -> int:
        """Zero channels to add: the integer kernels read four channels at a time, and few odd ones are slow."""
        return -self.channels[0] % 4 if self.channels[0] < 16 and self.group == 1 and not self.pointwise else 0


@lru_cache(maxsize=4096)
def geometry(i: Mac, x_shape: Taps, outputs: int) -> Geometry:
    """Geometry of a convolution instruction on an input of this shape (ONNX layout)."""
    w = i.window
    assert w is not None, f"{i.name} has no window"
    strides, pads = w.strides, tuple((b, e, 0) for b, e in w.pads)
    if i.kind == "conv_transpose":
        extra = i.output_padding or (0,) * len(w.kernel)
        reach = [(k - 1) * d for k, d in zip(w.kernel, w.dilations, strict=True)]
        pads = tuple((r - b, r - e + o, s - 1) for r, (b, e), o, s in zip(reach, w.pads, extra, w.strides, strict=True))
        strides = (1,) * len(w.kernel)
    kernel, dilations, size = w.kernel, w.dilations, x_shape[2:]
    if len(kernel) == 1:
        kernel, strides, dilations, size, pads = (
            (1, *kernel),
            (1, *strides),
            (1, *dilations),
            (1, *size),
            ((0,) * 3, *pads),
        )
    spatial = tuple(b + n + (n - 1) * z + e for n, (b, e, z) in zip(size, pads, strict=True))
    return Geometry(kernel, strides, dilations, pads, i.group, (x_shape[1], outputs), spatial)


def arrange_weight(weight: np.ndarray, i: Mac, x_shape: Taps) -> np.ndarray:
    """The weights of a mac in the layout that `emulator.products` reads.

    Args:
      weight: as in the instruction's docstring.
      i: the instruction.
      x_shape: shape of its operand.

    Returns:
      conv: [blocks, *kernel, inputs / blocks, O / blocks], few inputs padded with zeros to a multiple of 4;
      depthwise: int32 [taps, C, O / C]; dense: [I, O]; diagonal: as it is.
    """
    if i.kind == "diagonal":
        return weight.astype(np.int32)
    if i.kind == "dense":
        return np.ascontiguousarray(weight.T)
    if i.kind == "conv_transpose":
        inputs, outputs = weight.shape[:2]
        weight = weight.reshape(i.group, inputs // i.group, outputs, *weight.shape[2:]).swapaxes(1, 2)
        weight = np.flip(
            weight.reshape(i.group * outputs, inputs // i.group, *weight.shape[3:]), tuple(range(2, weight.ndim - 1))
        )
    outputs, taken = weight.shape[:2]
    g = geometry(i, x_shape, outputs)
    taps = weight.reshape(outputs, taken, -1)
    if g.depthwise:
        return taps.reshape(i.group, outputs // i.group, -1).transpose(2, 0, 1).astype(np.int32)
    # A block holds the weights of its groups on the diagonal.
    merged, per_group = i.group // g.blocks, outputs // i.group
    blocks = np.zeros((g.blocks, taps.shape[2], merged, taken, merged, per_group), weight.dtype)
    source = taps.reshape(g.blocks, merged, per_group, taken, -1).transpose(0, 4, 1, 3, 2)
    for k in range(merged):
        blocks[:, :, k, :, k] = source[:, :, k]
    blocks = blocks.reshape(g.blocks, *g.kernel, merged * taken, merged * per_group)
    return np.pad(blocks, [(0, 0)] * (blocks.ndim - 2) + [(0, g.missing), (0, 0)])
