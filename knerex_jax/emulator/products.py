"""Exact sums of products of codes and weights: convolutions and dots on 8-bit operands.

Operands of 15 bits are split into two 8-bit planes, so that every product below is one of 8 bits by 8 bits and every
sum an int32; a result is a list of (left shift, int32 array) whose shifted sum is the accumulator. Arrays have the
layout of ONNX outside and channels last inside; the compiler cancels the transposes between neighbours.

Under `vmap`, samples join the batch axis and plans are looped over: a convolution whose weights are batched would
otherwise become a grouped one, which is many times slower.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from knerex_jax.emulator.methods import Engine, Method
from knerex_jax.fixedpoint.arith import to_int64
from knerex_jax.program.primitives import Mac

Sums = list[tuple[int, Array]]
Taps = tuple[int, ...]


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
    """The weights of a mac in the layout that the functions below read.

    Args:
      weight: as in the instruction's docstring.
      i: the instruction.
      x_shape: shape of its operand.

    Returns:
      conv: [*kernel, inputs, O], few inputs padded with zeros to a multiple of 4; depthwise: int32 [taps, C, O / C];
      grouped: [group, taps * inputs / group, O / group]; dense: [I, O]; diagonal: as it is.
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
    if i.group > 1:
        grouped = taps.reshape(i.group, outputs // i.group, taken, -1)
        return np.ascontiguousarray(grouped.transpose(0, 3, 2, 1).reshape(i.group, -1, outputs // i.group))
    weight = np.pad(taps.transpose(2, 1, 0), ((0, 0), (0, _missing(g)), (0, 0)))
    return np.ascontiguousarray(weight.reshape(*g.kernel, -1, outputs))


def _missing(g: Geometry) -> int:
    """Zero channels to add: the integer kernels read four channels at a time, and few odd ones are slow."""
    return -g.channels[0] % 4 if g.channels[0] < 16 and g.group == 1 and not g.pointwise else 0


def combine(sums: Sums, *, wide: bool) -> Array:
    """The accumulator: int64 inside `exact64()`, or int32 where a bound says that the total fits."""
    parts = [(to_int64(a) if wide else a) << shift if shift else (to_int64(a) if wide else a) for shift, a in sums]
    return sum(parts[1:], start=parts[0])


def dense_sums(x: Array, weight: Array, i: Mac, method: Method) -> Sums:
    """Sums over the last axis: x [..., I] with weight [I, O] -> [..., O]."""
    sums = _plane_sums(x.reshape(-1, x.shape[-1]), weight, i, method, _dot(method.engine), method.terms)
    return [(shift, a.reshape(*x.shape[:-1], -1)) for shift, a in sums]


def conv_sums(x: Array, weight: Array, i: Mac, method: Method) -> Sums:
    """Sums over a window: x [N, C, *spatial] with an arranged weight -> [N, O, *spatial]; zeros around the input."""
    outputs = (
        int(np.prod(weight.shape[1:])) if method.form == "taps" else weight.shape[-1] * (i.group if i.group > 1 else 1)
    )
    g = geometry(i, x.shape, outputs)
    rank = x.ndim
    x = x if rank > 3 else x[:, :, None]
    y = _quads(x, g) if x.dtype == jnp.int8 and 0 < _missing(g) == 4 - x.shape[1] else _padded(x, g)
    sums = _FORMS[method.form](y, weight, i, method, g)
    sums = [(shift, channels_first(a.reshape(x.shape[0], *g.out, -1))) for shift, a in sums]
    return sums if rank > 3 else [(shift, a[:, :, 0]) for shift, a in sums]


def _padded(x: Array, g: Geometry) -> Array:
    """Channels last, with the geometry's zeros around and between, and its missing channels."""
    config = [(0, 0, 0), *g.pads, (0, _missing(g), 0)]
    x = channels_last(x)
    return lax.pad(x, np.zeros((), x.dtype), config) if any(any(c) for c in config) else x


def _quads(x: Array, g: Geometry) -> Array:
    """The same for up to four int8 channels: packed into one word per pixel, so that pixels, not bytes, are moved."""
    word = None
    for c in range(x.shape[1]):
        byte = (x[:, c].astype(jnp.int32) & 0xFF) << (8 * c)
        word = byte if word is None else word | byte
    assert word is not None
    return lax.bitcast_convert_type(lax.pad(word, np.int32(0), [(0, 0, 0), *g.pads]), jnp.int8)


def channels_last(x: Array) -> Array:
    """[N, C, *spatial] -> [N, *spatial, C]."""
    return jnp.moveaxis(x, 1, -1)


def channels_first(x: Array) -> Array:
    """[N, *spatial, C] -> [N, C, *spatial]."""
    return jnp.moveaxis(x, -1, 1)


def window_taps(x: Array, kernel: Taps, strides: Taps, dilations: Taps, out: Taps) -> list[Array]:
    """For every tap of a window the elements under it, [N, *out, C] each; x channels last, already padded."""
    found = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        start = [t * d for t, d in zip(tap, dilations, strict=True)]
        stop = [b + (o - 1) * s + 1 for b, o, s in zip(start, out, strides, strict=True)]
        found.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)))
    return found


# Forms: (padded channels-last input, weight, instruction, method, geometry) -> sums [N, *out, O]


def _by_taps(x: Array, weight: Array, i: Mac, method: Method, g: Geometry) -> Sums:
    """Depthwise: one multiply-add per tap on shifted views, in int32."""
    # Without the barrier the padding and what precedes it would be computed again for every tap.
    x = lax.optimization_barrier(x)
    sums = []
    for shift, plane in split(x, i.x_bits if method.wide else 8):
        total = None
        for k, tap in enumerate(window_taps(plane, g.kernel, g.strides, g.dilations, g.out)):
            tap = tap.astype(jnp.int32)
            part = tap * weight[k, :, 0] if weight.shape[2] == 1 else tap[..., None] * weight[k]
            total = part if total is None else total + part
        sums.append((shift, total))
    return sums


def _by_dot(x: Array, weight: Array, i: Mac, method: Method, g: Geometry) -> Sums:
    """1x1: a dot over the channels of every pixel the stride visits."""
    if any(s > 1 for s in g.strides):
        stop = [(o - 1) * s + 1 for o, s in zip(g.out, g.strides, strict=True)]
        x = lax.slice(x, (0,) * x.ndim, (x.shape[0], *stop, x.shape[-1]), (1, *g.strides, 1))
    weight = weight.reshape(weight.shape[-2:])
    return _plane_sums(x.reshape(-1, x.shape[-1]), weight, i, method, _dot(method.engine), method.terms)


def _by_conv(x: Array, weight: Array, i: Mac, method: Method, g: Geometry) -> Sums:
    """The library's convolution without padding, over at most as many channels as it sums exactly."""
    per_sum = method.terms // math.prod(g.kernel)
    assert per_sum, f"{i.name}: a window of {g.kernel} is too large for this engine"
    return _plane_sums(x, weight, i, method, _conv(g.strides, g.dilations, method.engine), per_sum)


def _by_patches(x: Array, weight: Array, i: Mac, method: Method, g: Geometry) -> Sums:
    """A dot over gathered patches, batched over groups."""
    sums: Sums = []
    size = math.prod(g.kernel)
    for shift, plane in split(x, i.x_bits):
        plane = lax.optimization_barrier(plane)
        patches = jnp.stack(window_taps(plane, g.kernel, g.strides, g.dilations, g.out), axis=-2)
        patches = patches.reshape(-1, size, g.group, plane.shape[-1] // g.group)
        patches = jnp.moveaxis(patches, 2, 1).reshape(patches.shape[0], g.group, -1)
        for w_shift, w in split(weight.reshape(g.group, -1, weight.shape[-1]), i.weight_bits):
            sums.append((shift + w_shift, _in_parts(_grouped_dot(method.engine), patches, w, method.terms)))
    return _merged(sums)


_FORMS: dict[str, Callable[..., Sums]] = {
    "taps": _by_taps,
    "dot": _by_dot,
    "conv": _by_conv,
    "im2col": _by_patches,
}


def _plane_sums(
    x: Array, weight: Array, i: Mac, method: Method, product: Callable[[Array, Array], Array], terms: int
) -> Sums:
    """Sums of products of all planes of x [..., K] and weight [..., K, O]."""
    sums = [
        (a + b, _in_parts(product, xp, wp, terms))
        for a, xp in split(x, i.x_bits)
        for b, wp in split(weight, i.weight_bits)
    ]
    return _merged(sums)


def _in_parts(product: Callable[[Array, Array], Array], x: Array, weight: Array, terms: int) -> Array:
    """product(x, weight) summed over slices of at most `terms` inputs: last axis of x, last but one of weight."""
    size = x.shape[-1]
    if size <= terms:
        return product(x, weight)
    parts = [
        product(
            lax.slice_in_dim(x, k, min(k + terms, size), axis=-1),
            lax.slice_in_dim(weight, k, min(k + terms, size), axis=-2),
        )
        for k in range(0, size, terms)
    ]
    return sum(parts[1:], start=parts[0])


def split(x: Array, bits: int) -> Sums:
    """(shift, int8 plane) of codes: x = low + 256 * high, both signed; 15-bit codes leave |high| <= 64."""
    if bits <= 8:
        return [(0, x)]
    x = x.astype(jnp.int32)
    high = (x + 128) >> 8
    return [(0, (x - (high << 8)).astype(jnp.int8)), (8, high.astype(jnp.int8))]


def _merged(sums: Sums) -> Sums:
    """Sums of equal shift added: planes of both operands make two of shift 8, each below 2**30."""
    found: dict[int, Array] = {}
    for shift, a in sums:
        found[shift] = found[shift] + a if shift in found else a
    return list(found.items())


# Products of int8 operands, exact as long as the method's number of terms is kept.


def _joining(product: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Gives product(x [N, ...], weight) its rule under vmap: samples join N, plans are looped over."""
    mapped = custom_vmap(product)

    @mapped.def_vmap
    def _rule(size: int, batched: Sequence[bool], x: Array, weight: Array) -> tuple[Array, bool]:
        if not batched[1]:
            y = mapped(x.reshape(-1, *x.shape[2:]), weight)
            return y.reshape(size, -1, *y.shape[1:]), True
        if not batched[0]:
            return lax.map(lambda w: mapped(x, w), weight), True
        return lax.map(lambda both: mapped(*both), (x, weight)), True

    return mapped


def _operands(engine: Engine, *arrays: Array) -> list[Array]:
    return [a.astype(jnp.float32) for a in arrays] if engine == "float32" else list(arrays)


def _dot_general(engine: Engine, x: Array, weight: Array, dims: tuple) -> Array:
    x, weight = _operands(engine, x, weight)
    kind = jnp.int32 if engine == "int8" else jnp.float32
    return lax.dot_general(x, weight, dims, precision=lax.Precision.HIGHEST, preferred_element_type=kind).astype(
        jnp.int32
    )


@lru_cache(maxsize=8)
def _dot(engine: Engine) -> Callable[[Array, Array], Array]:
    """[M, K] x [K, O] -> [M, O]."""
    return _joining(lambda x, w: _dot_general(engine, x, w, (((1,), (0,)), ((), ()))))


@lru_cache(maxsize=8)
def _grouped_dot(engine: Engine) -> Callable[[Array, Array], Array]:
    """[M, G, K] x [G, K, O] -> [M, G * O]."""

    def product(x: Array, w: Array) -> Array:
        y = _dot_general(engine, x, w, (((2,), (1,)), ((1,), (0,))))
        return jnp.moveaxis(y, 0, 1).reshape(x.shape[0], -1)

    return _joining(product)


@lru_cache(maxsize=1024)
def _conv(strides: Taps, dilations: Taps, engine: Engine) -> Callable[[Array, Array], Array]:
    """[N, H, W, I] x [h, w, I, O] -> [N, H', W', O], no padding."""

    def product(x: Array, w: Array) -> Array:
        # Behind the barrier the compiler cannot fold padding or transposes into the convolution: only the plain
        # channels-last form has a fast integer kernel.
        x, w = _operands(engine, lax.optimization_barrier(x), w)
        y = lax.conv_general_dilated(
            x, w, strides, "VALID", rhs_dilation=dilations, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.int32 if engine == "int8" else jnp.float32,
        )  # fmt: skip
        return y.astype(jnp.int32)

    return _joining(product)


def batched_dot(a: Array, b: Array, bits: Taps, method: Method) -> Sums:
    """Product of two computed operands as in ONNX MatMul: one of rank 1 is a row or a column, batch axes broadcast."""
    x, y = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    batch = jnp.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = jnp.broadcast_to(x, (*batch, *x.shape[-2:])), jnp.broadcast_to(y, (*batch, *y.shape[-2:]))
    axes = tuple(range(len(batch)))
    dims = (((x.ndim - 1,), (y.ndim - 2,)), (axes, axes))

    def product(x: Array, y: Array) -> Array:
        return _dot_general(method.engine, x, y, dims)

    sums = [
        (p + q, _in_parts(product, xp, yp, method.terms)) for p, xp in split(x, bits[0]) for q, yp in split(y, bits[1])
    ]
    shape = (*batch, *(a.shape[-2:-1] if a.ndim > 1 else ()), *(b.shape[-1:] if b.ndim > 1 else ()))
    return [(shift, s.reshape(shape)) for shift, s in _merged(sums)]
