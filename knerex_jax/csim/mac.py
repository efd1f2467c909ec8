"""Weighted sums: convolution, transposed convolution, matrix product with constants, channel by channel."""

from collections.abc import Mapping
from itertools import product

import numpy as np

from knerex_jax.csim.arithmetic import along, contract, multiply, saturate, shift_right
from knerex_jax.errors import SimulationError
from knerex_jax.program.primitives import Mac, MatMul, Window

Arrays = Mapping[str, np.ndarray]


def mac(i: Mac, x: np.ndarray, constants: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    """Rule 1 of section 5 of ARITHMETIC.md.

    Args:
      i: with the geometry of the box.
      x: codes of the operand's box.
      constants: of the box.
      shape: of the result's box.
    """
    acc = _SUMS[i.kind](i, x, np.asarray(constants["weight"], np.int64), shape)
    axis = {"dense": len(shape) - 1, "diagonal": i.axis}.get(i.kind, 1)

    def channels(name: str) -> np.ndarray:
        return along(constants[name], axis, len(shape))

    bits = 16 if i.act == "hard_swish" else i.psum_bits
    p = saturate(shift_right(acc, channels("n1"), bits), bits)
    p = saturate(p + channels("bias"), bits)
    match i.act:
        case "relu":
            p = np.maximum(p, 0)
        case "clip":
            p = np.minimum(np.maximum(p, channels("lo")), channels("hi"))
        case "leaky":
            steep = saturate(shift_right(multiply(p, channels("slope")), channels("slope_shift"), bits), bits)
            p = np.where(p < 0, steep, p)
        case "hard_swish":
            p = multiply(p, np.clip(p + channels("three"), 0, channels("six")))
    scaled = multiply(p, channels("m")) if i.post_multiplier or i.act == "hard_swish" else p
    return saturate(shift_right(scaled, channels("n2"), i.bits), i.bits)


def _conv(i: Mac, x: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    assert i.window is not None, "a convolution has a window"
    window, terms = i.window, int(np.prod(weight.shape[1:]))
    _same(f"{x.shape[1]} channels in, {shape[1]} out", (weight.shape[1] * i.group, len(weight)), (x.shape[1], shape[1]))
    x = pad_box(x, window.pads, 0)
    check_room(x, window, shape)
    acc = np.zeros(shape, np.int64)
    for tap in product(*(range(k) for k in window.kernel)):
        part = x[(slice(None), slice(None), *_strided(tap, window, shape[2:]))]
        w = weight[(slice(None), slice(None), *tap)]
        acc += _grouped(w, part, i.group, terms)
    return acc


def _grouped(w: np.ndarray, x: np.ndarray, group: int, terms: int) -> np.ndarray:
    """Sums over channels: w [O, I/group], x [N, I, ...]."""
    n, places = x.shape[0], x.shape[2:]
    if group == x.shape[1] and w.shape[1] == 1:  # channel by channel
        each = x if len(w) == group else np.repeat(x, len(w) // group, axis=1)
        return multiply(each, w.reshape(1, -1, *(1,) * len(places)))
    flat = x.reshape(n, group, -1, int(np.prod(places)))
    made = contract("gok,ngkp->ngop", w.reshape(group, -1, w.shape[1]), flat, terms)
    return made.reshape(n, len(w), *places)


def _conv_transpose(i: Mac, x: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    assert i.window is not None, "a convolution has a window"
    window = i.window
    sizes = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(x.shape[2:], window.strides, window.kernel, window.dilations, strict=True)
    ]
    group, terms = i.group, weight.shape[0] // i.group * int(np.prod(window.kernel))
    outputs = weight.shape[1] * group
    _same(f"{x.shape[1]} channels in, {shape[1]} out", (len(weight), outputs), (x.shape[1], shape[1]))
    full = np.zeros((x.shape[0], outputs, *sizes), np.int64)
    flat = x.reshape(x.shape[0], group, -1, int(np.prod(x.shape[2:])))
    for tap in product(*(range(k) for k in window.kernel)):
        w = weight[(slice(None), slice(None), *tap)].reshape(group, -1, weight.shape[1])
        made = contract("gko,ngkp->ngop", w, flat, terms).reshape(x.shape[0], outputs, *x.shape[2:])
        full[(slice(None), slice(None), *_strided(tap, window, x.shape[2:]))] += made
    ends = [p0 + n - size for (p0, _), n, size in zip(window.pads, shape[2:], sizes, strict=True)]
    return pad_box(full, tuple((-p0, e) for (p0, _), e in zip(window.pads, ends, strict=True)), 0)


def _dense(i: Mac, x: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    _same(f"rows of {x.shape[-1]}", (weight.shape[1],), (x.shape[-1],))
    rows = contract("ok,pk->po", weight, x.reshape(-1, x.shape[-1]), weight.shape[1])
    return rows.reshape(shape)


def _diagonal(i: Mac, x: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return multiply(x, along(weight, i.axis, x.ndim))


_SUMS = {"conv": _conv, "conv_transpose": _conv_transpose, "dense": _dense, "diagonal": _diagonal}


def matmul(i: MatMul, a: np.ndarray, b: np.ndarray, constants: Arrays) -> np.ndarray:
    """Product of two activations, one shift."""
    terms = a.shape[-1]
    contract("i,i->", np.abs(a).max(initial=0).reshape(1), np.abs(b).max(initial=0).reshape(1), terms)
    acc = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    return saturate(shift_right(acc, along(constants["n"], i.axis, acc.ndim), i.bits), i.bits)


def _strided(tap, window, sizes):
    """The places that one tap of the window meets, along every spatial axis."""
    return [
        slice(t * d, t * d + (n - 1) * s + 1, s)
        for t, d, s, n in zip(tap, window.dilations, window.strides, sizes, strict=True)
    ]


def _same(what: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> None:
    """NumPy would repeat an axis of 1; the machine does not."""
    if wanted != found:
        raise SimulationError(f"{what}: the weights are for {wanted}", where="mac", fix="compile again")


def check_room(x: np.ndarray, window: Window, shape: tuple[int, ...]) -> None:
    """Every window of the result lies within the padded box.

    Raises:
      SimulationError: one reaches beyond it.
    """
    for n, k, s, d, size in zip(shape[2:], window.kernel, window.strides, window.dilations, x.shape[2:], strict=True):
        if (n - 1) * s + (k - 1) * d + 1 > size:
            raise SimulationError(f"a window beyond {size} places", where="geometry", fix="compile again")


def pad_box(x: np.ndarray, pads: tuple[tuple[int, int], ...], value: int) -> np.ndarray:
    """Adds at the ends of the spatial axes; negative: takes away."""
    ends = ((0, 0), (0, 0), *pads)
    x = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, ends, strict=True))]
    return np.pad(x, [(max(a, 0), max(b, 0)) for a, b in ends], constant_values=value)
