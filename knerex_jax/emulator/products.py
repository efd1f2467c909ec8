"""Exact sums of products of codes and weights: convolutions and dots on 8-bit operands.

Operands of 15 bits are split into two 8-bit planes, so that every product below is one of 8 bits by 8 bits and every
sum an int32; a result is a list of (left shift, int32 array) whose shifted sum is the accumulator. Codes have the
layout of ONNX; convolutions compute, and give their sums, channels last (`emulator.order`).

Under `vmap`, samples join the batch axis and plans are looped over: a convolution whose weights are batched would
otherwise become a grouped one, which is many times slower.
"""

import functools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.emulator.geometry import Geometry, Taps, geometry
from knerex_jax.emulator.methods import Engine, Method
from knerex_jax.fixedpoint.arith import to_int64
from knerex_jax.fixedpoint.lanes import add, both, cast, multiply, shift_left, shift_right
from knerex_jax.ops.joining import joining
from knerex_jax.ops.layout import channels_last, stored
from knerex_jax.ops.window import side_by_side, under_taps
from knerex_jax.program.primitives import Mac

Sums = list[tuple[int, Array]]

# Convolutions with no more than this many channels on either side have no fast integer kernel (10 times slower); they
# get outputs of zeros.
_SLOW_CHANNELS = 16


def combine(sums: Sums, *, wide: bool) -> Array:
    """The accumulator: int64 inside `exact64()`, or int32 where a bound says that the total fits."""
    parts = [to_int64(a) if wide else a for _, a in sums]
    return functools.reduce(lax.add, [shift_left(p, s) if s else p for p, (s, _) in zip(parts, sums, strict=True)])


def dense_sums(x: Array, weight: Array, i: Mac, method: Method) -> Sums:
    """Sums over the last axis: x [..., I] with weight [I, O] -> [..., O]."""
    rows = x.reshape(-1, x.shape[-1])
    rows = lax.optimization_barrier(rows) if i.x_bits > 8 else rows
    product = _dot(method.engine)
    sums = [
        (a + b, _in_parts(product, xp, wp, method.terms).reshape(*x.shape[:-1], -1))
        for a, xp in split(rows, i.x_bits)
        for b, wp in split(weight, i.weight_bits)
    ]
    return _merged(sums)


def conv_sums(x: Array, weight: Array, i: Mac, method: Method) -> Sums:
    """Sums over a window: x [N, C, *spatial] with an arranged weight -> [N, *spatial, O]; zeros around the input."""
    taps = method.form == "taps"
    outputs = math.prod(weight.shape[1:]) if taps else weight.shape[0] * weight.shape[-1]
    g = geometry(i, x.shape, outputs)
    rank = x.ndim
    x = x if rank > 3 else x[:, :, None]
    few = 0 < g.missing == 4 - x.shape[1]
    # What makes 15-bit codes would be computed once for each plane; int32 multiply-adds need no planes.
    planes = split(x if few or i.x_bits == 8 else stored(x), 8 if taps and not method.wide else i.x_bits)
    weights = [(0, weight)] if taps else split(weight, i.weight_bits)
    sums = []
    for shift, plane in planes:
        if method.form == "spread":
            plane = channels_last(plane)
        else:
            plane = _quads(plane, g) if few else _padded(plane, g)
        made = _FORMS[method.form](plane, [w for _, w in weights], method, g)
        sums += [(shift + s, a) for (s, _), a in zip(weights, made, strict=True)]
    return [(shift, a if rank > 3 else a[:, 0]) for shift, a in _merged(sums)]


def _padded(x: Array, g: Geometry) -> Array:
    """Channels last, with the geometry's zeros around and between, and its missing channels."""
    config = [(0, 0, 0), *g.pads, (0, g.missing, 0)]
    x = channels_last(x)
    return lax.pad(x, np.zeros((), x.dtype), config) if any(any(c) for c in config) else x


def _quads(x: Array, g: Geometry) -> Array:
    """The same for up to four int8 channels: packed into one word per pixel, so that pixels, not bytes, are moved."""
    word = None
    for c in range(x.shape[1]):
        channel = lax.index_in_dim(x, c, 1, keepdims=False)
        byte = shift_left(both(cast(channel, jnp.int32), 0xFF), 8 * c)
        word = byte if word is None else lax.bitwise_or(word, byte)
    assert word is not None
    return lax.bitcast_convert_type(lax.pad(word, np.int32(0), [(0, 0, 0), *g.pads]), jnp.int8)


# Forms: (padded channels-last codes, planes of the weight, method, geometry) -> sums [N, *out, O], one per plane


def _by_taps(x: Array, weights: list[Array], method: Method, g: Geometry) -> list[Array]:
    """Depthwise: one multiply-add per tap on shifted views, in int32."""
    # Without the barrier the padding and what precedes it would be computed again for every tap.
    x, (weight,) = lax.optimization_barrier(x), weights
    total = None
    for k, tap in enumerate(under_taps(x, g)):
        factors = lax.index_in_dim(weight, k, 0, keepdims=False)
        tap = lax.reshape(cast(tap, jnp.int32), (*tap.shape, 1))
        part = multiply(tap, factors)
        total = part if total is None else lax.add(total, part)
    assert total is not None
    return [total.reshape(*total.shape[: 1 + len(g.kernel)], -1)]


def _by_dot(x: Array, weights: list[Array], method: Method, g: Geometry) -> list[Array]:
    """1x1: a dot over the channels of every pixel the stride visits."""
    if any(s > 1 for s in g.strides):
        stop = [(o - 1) * s + 1 for o, s in zip(g.out, g.strides, strict=True)]
        x = lax.slice(x, (0,) * x.ndim, (x.shape[0], *stop, x.shape[-1]), (1, *g.strides, 1))
    rows, product = x.reshape(-1, x.shape[-1]), _dot(method.engine)
    return [_in_parts(product, rows, w.reshape(w.shape[-2:]), method.terms).reshape(*x.shape[:-1], -1) for w in weights]


def _spread(x: Array, weights: list[Array], method: Method, g: Geometry) -> list[Array]:
    """Transposed, windows side by side: a dot over the channels of every pixel, whose sums take their places.

    x is not padded; the weights are those of a convolution over an input with zeros between, whose taps lie reversed.
    """
    rows, product, inputs = x.reshape(-1, x.shape[-1]), _dot(method.engine), x.shape[-1]
    made = []
    for w in weights:
        taps = lax.rev(lax.slice_in_dim(w[0], 0, inputs, axis=-2), range(len(g.kernel)))
        sums = _in_parts(product, rows, jnp.moveaxis(taps, -2, 0).reshape(inputs, -1), method.terms)
        made.append(side_by_side(sums.reshape(*x.shape[:-1], *g.kernel, -1)))
    return made


def _by_conv(x: Array, weights: list[Array], method: Method, g: Geometry) -> list[Array]:
    """The library's convolution without padding, over at most as many channels as it sums exactly."""
    terms = method.terms // math.prod(g.kernel)
    assert terms, f"a window of {g.kernel} is too large for {method.engine}"
    product, (size, outputs) = _conv(g.strides, g.dilations, method.engine), weights[0].shape[-2:]
    blocks = [lax.slice_in_dim(x, b * size, (b + 1) * size, axis=-1) for b in range(g.blocks)] if g.blocks > 1 else [x]
    if max(size, outputs) <= _SLOW_CHANNELS:
        extra = [(0, 0, 0)] * (weights[0].ndim - 1) + [(0, _SLOW_CHANNELS + 4 - outputs, 0)]
        weights = [lax.pad(w, np.zeros((), w.dtype), extra) for w in weights]
    return [
        jnp.concatenate(
            [_in_parts(product, block, w[b], terms)[..., :outputs] for b, block in enumerate(blocks)], axis=-1
        )
        for w in weights
    ]


def _by_patches(x: Array, weights: list[Array], method: Method, g: Geometry) -> list[Array]:
    """A dot over gathered patches, batched over blocks of channels."""
    taps = list(under_taps(lax.optimization_barrier(x), g))
    patches = jnp.stack(taps, axis=-2).reshape(-1, len(taps), g.blocks, weights[0].shape[-2])
    patches = jnp.moveaxis(patches, 2, 1).reshape(patches.shape[0], g.blocks, -1)
    product = _grouped_dot(method.engine)
    return [
        _in_parts(product, patches, w.reshape(g.blocks, -1, w.shape[-1]), method.terms).reshape(x.shape[0], *g.out, -1)
        for w in weights
    ]


_FORMS: dict[str, Callable[[Array, list[Array], Method, Geometry], list[Array]]] = {
    "taps": _by_taps,
    "dot": _by_dot,
    "spread": _spread,
    "conv": _by_conv,
    "im2col": _by_patches,
}


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
    return functools.reduce(lax.add, parts)


def split(x: Array, bits: int) -> Sums:
    """(shift, int8 plane) of codes: x = low + 256 * high, both signed; 15-bit codes leave |high| <= 64."""
    if bits <= 8:
        return [(0, x)]
    x = cast(x, jnp.int32)
    high = shift_right(add(x, 128), 8)
    return [(0, cast(lax.sub(x, shift_left(high, 8)), jnp.int8)), (8, cast(high, jnp.int8))]


def _merged(sums: Sums) -> Sums:
    """Sums of equal shift added: planes of both operands make two of shift 8, each below 2**30."""
    found: dict[int, Array] = {}
    for shift, a in sums:
        found[shift] = lax.add(found[shift], a) if shift in found else a
    return list(found.items())


# Products of int8 operands, exact as long as the method's number of terms is kept.


_TYPES: dict[Engine, tuple[Any, Any]] = {
    "int8": (jnp.int8, jnp.int32), "int32": (jnp.int32, jnp.int32), "float32": (jnp.float32, jnp.float32),
    "bfloat16": (jnp.bfloat16, jnp.float32),
}  # fmt: skip
"""Types of the operands and of the sum."""


def _dot_general(engine: Engine, x: Array, weight: Array, dims: tuple) -> Array:
    kind, total = _TYPES[engine]
    x, weight = cast(x, kind), cast(weight, kind)
    product = lax.dot_general(x, weight, dims, precision=lax.Precision.HIGHEST, preferred_element_type=total)
    return cast(product, jnp.int32)


@lru_cache(maxsize=8)
def _dot(engine: Engine) -> Callable[[Array, Array], Array]:
    """[M, K] x [K, O] -> [M, O]."""
    return joining(lambda x, w: _dot_general(engine, x, w, (((1,), (0,)), ((), ()))))


@lru_cache(maxsize=8)
def _grouped_dot(engine: Engine) -> Callable[[Array, Array], Array]:
    """[M, G, K] x [G, K, O] -> [M, G * O]."""

    def product(x: Array, w: Array) -> Array:
        y = _dot_general(engine, x, w, (((2,), (1,)), ((1,), (0,))))
        return jnp.moveaxis(y, 0, 1).reshape(x.shape[0], -1)

    return joining(product)


@lru_cache(maxsize=1024)
def _conv(strides: Taps, dilations: Taps, engine: Engine) -> Callable[[Array, Array], Array]:
    """[N, H, W, I] x [h, w, I, O] -> [N, H', W', O], no padding."""

    def product(x: Array, w: Array) -> Array:
        # Behind the barrier the compiler cannot fold padding or transposes into the convolution: only the plain
        # channels-last form has a fast integer kernel.
        kind, total = _TYPES[engine]
        x, w = cast(lax.optimization_barrier(x), kind), cast(w, kind)
        y = lax.conv_general_dilated(
            x, w, strides, "VALID", rhs_dilation=dilations, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=total,
        )  # fmt: skip
        return cast(y, jnp.int32)

    return joining(product)


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
