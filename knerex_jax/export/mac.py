"""The weighted instructions and activations as ONNX operators."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from knerex_jax.export.shift import Limits, along, clip, in_type, number, register, shr, with_room
from knerex_jax.export.site import Site
from knerex_jax.export.sums import conv_sums, is_narrow, product_sums
from knerex_jax.export.tape import Tape, Value
from knerex_jax.fixedpoint.arith import exact_shr
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.primitives import Activate, Mac

_Integers = Mapping[str, np.ndarray]


def mac(site: Site, i: Mac, c: _Integers, x: Value) -> Value:
    """Rule 1: the sums, shr and bias within the register, the activation, the multiplier."""
    tape, rank = site.tape, len(site.shape(i.output))
    axis = {"dense": rank - 1, "diagonal": i.axis}.get(i.kind, 1)
    n1, bias, n2, m = (along(c[k], axis, rank) if k in c else np.int64(1) for k in ("n1", "bias", "n2", "m"))
    limits = register(16 if i.act == "hard_swish" else i.psum_bits)
    p = _SUMS[i.kind](site, i, np.asarray(c["weight"]), x)
    p = clip(tape, _plus(tape, shr(tape, p, n1, limits), bias), limits)
    p, limits = _act(tape, i, c, (axis, rank), p, n2, m)
    return shr(tape, p, n2, limits, m)


def activate(site: Site, i: Activate, c: _Integers, x: Value) -> Value:
    """Rule 2, alone on codes."""
    tape, rank = site.tape, len(site.shape(i.output))
    n = along(c["n"], i.axis, rank)
    p, limits = _act(tape, i, c, (i.axis, rank), x, n, np.int64(1))
    return shr(tape, p, n, limits)


def window_sums(
    tape: Tape, x: Value, span: tuple[int, int], channels: int, kernel: tuple[int, ...], peak: int, **attrs: Any
) -> Value:
    """Sums over windows, channel by channel: a convolution by ones.

    Args:
      tape: what the operators are appended to.
      x: codes [N, C, *spatial], float32.
      span: their least and largest value.
      channels: C.
      kernel: size of the window.
      peak: bound of the sums.
      attrs: of the Conv beside its kernel and group.
    """
    ones = np.ones((channels, 1, *kernel), np.int64)

    def emit(codes: str, weight: str) -> str:
        return tape.emit("Conv", codes, weight, group=channels, kernel_shape=kernel, **attrs)

    return conv_sums(tape, x, span, ones, peak, _conv_reach, emit)


def pad_codes(tape: Tape, name: str, pads: tuple[tuple[int, int], ...], fill: float = 0.0) -> str:
    """Pads (or crops, where negative) the spatial axes of codes [N, C, *spatial]."""
    ends = tape.shape((0, 0, *(b for b, _ in pads), 0, 0, *(e for _, e in pads)))
    value = () if fill == 0 else (number(tape, fill, "float32"),)
    return tape.emit("Pad", name, ends, *value) if any(b or e for b, e in pads) else name


def _plus(tape: Tape, p: Value, bias: np.ndarray) -> Value:
    """The bias; the bound is that of all partial sums, as a runtime may add it first."""
    if not bias.any():
        return p
    peak = p.peak + int(np.abs(bias).max())
    p = with_room(tape, p, peak)
    return Value(tape.emit("Add", p.name, number(tape, bias, p.dtype)), peak, p.dtype)


def _conv(site: Site, i: Mac, weight: np.ndarray, x: Value) -> Value:
    tape, w, span = site.tape, i.window, site.bounds.code[i.inputs[0]]
    assert w is not None, f"{i.name} has no window"
    peak = site.bounds.step[i.name].sum
    if _is_pointwise(i) and not is_narrow(span, weight, _conv_reach):
        return _pointwise(site, i, weight, x, peak)
    pads, cropped = w.pads, any(p < 0 for ends in w.pads for p in ends)
    if cropped:  # the attribute cannot say so
        x, pads = Value(pad_codes(tape, x.name, pads), x.peak), ((0, 0),) * len(pads)

    def emit(codes: str, part: str) -> str:
        return tape.emit(
            "Conv", codes, part, kernel_shape=w.kernel, strides=w.strides, dilations=w.dilations, group=i.group,
            pads=[*(b for b, _ in pads), *(e for _, e in pads)],
        )  # fmt: skip

    return conv_sums(tape, x, span, weight, peak, _conv_reach, emit)


def _is_pointwise(i: Mac) -> bool:
    w = i.window
    assert w is not None
    return i.group == 1 and all(
        k == s == 1 and p == (0, 0) for k, s, p in zip(w.kernel, w.strides, w.pads, strict=True)
    )


def _pointwise(site: Site, i: Mac, weight: np.ndarray, x: Value, peak: int) -> Value:
    """One float64 product instead of several float32 convolutions."""
    tape, outputs = site.tape, len(weight)
    flat = tape.emit("Reshape", x.name, tape.shape((0, weight.shape[1], -1)))
    rows = Value(tape.integers(weight.reshape(outputs, -1)), int(np.abs(weight).max()))
    p = product_sums(tape, rows, Value(flat, x.peak), peak)
    return Value(tape.emit("Reshape", p.name, tape.shape((0, *site.shape(i.output)[1:]))), p.peak, p.dtype)


def _conv_transpose(site: Site, i: Mac, weight: np.ndarray, x: Value) -> Value:
    """The whole result, then its borders cut off or zeros added."""
    tape, w = site.tape, i.window
    assert w is not None, f"{i.name} has no window"

    def emit(codes: str, part: str) -> str:
        return tape.emit(
            "ConvTranspose", codes, part, kernel_shape=w.kernel, strides=w.strides, dilations=w.dilations, group=i.group
        )

    def reach(part: np.ndarray) -> np.ndarray:
        inputs, outputs = part.shape[:2]
        return part.reshape(i.group, inputs // i.group, outputs, -1).sum(axis=(1, 3))

    extra = i.output_padding or (0,) * len(w.kernel)
    borders = tuple((-b, o - e) for (b, e), o in zip(w.pads, extra, strict=True))
    p = conv_sums(tape, x, site.bounds.code[i.inputs[0]], weight, site.bounds.step[i.name].sum, reach, emit)
    return Value(pad_codes(tape, p.name, borders), p.peak, p.dtype)


def _dense(site: Site, i: Mac, weight: np.ndarray, x: Value) -> Value:
    columns = Value(site.tape.integers(weight.T), int(np.abs(weight.astype(np.int64)).max()))
    return product_sums(site.tape, x, columns, site.bounds.step[i.name].sum)


def _diagonal(site: Site, i: Mac, weight: np.ndarray, x: Value) -> Value:
    peak = site.bounds.step[i.name].sum
    x, w = with_room(site.tape, x, peak), along(weight, i.axis, len(site.shape(i.output)))
    return Value(site.tape.emit("Mul", x.name, number(site.tape, w, x.dtype)), peak, x.dtype)


_SUMS: dict[str, Callable[[Site, Mac, np.ndarray, Value], Value]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": _dense,
    "diagonal": _diagonal,
}


def _conv_reach(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(len(weight), -1).sum(axis=1)


def _act(
    tape: Tape, i: Mac | Activate, c: _Integers, place: tuple[int | None, int], p: Value, n: np.ndarray, m: np.ndarray
) -> tuple[Value, Limits]:
    """The value behind an activation, and the limits of the output codes.

    What follows is monotonic and leaves 0 where it is, so Relu and Clip are limits of the codes.
    """
    low, high = data_limits(i.bits)
    if i.act == "relu":
        return p, (0, high)
    if i.act == "clip":
        least, most = (np.clip(exact_shr(along(c[k], *place) * m, n), low, high) for k in ("lo", "hi"))
        return p, (least, most)
    if i.act == "leaky":
        slope, shift = (along(c[k], *place) for k in ("slope", "slope_shift"))
        width = i.psum_bits if isinstance(i, Mac) else 48 if i.x_bits == 15 else 32
        return _leaky(tape, p, slope, shift, width), (low, high)
    if i.act == "hard_swish":
        three, six = (along(c[k], *place) for k in ("three", "six"))
        t = clip(tape, _plus(tape, p, three), (0, six))
        p = with_room(tape, p, p.peak * t.peak)
        return Value(tape.emit("Mul", p.name, in_type(tape, t, p.dtype).name), p.peak * t.peak, p.dtype), (low, high)
    if i.act in ("neg", "abs"):
        return Value(tape.emit(i.act.capitalize(), p.name), p.peak, p.dtype), (low, high)
    return p, (low, high)


def _leaky(tape: Tape, p: Value, slope: np.ndarray, shift: np.ndarray, width: int) -> Value:
    """P where it is not negative, else sat(shr(p * slope, shift))."""
    steep = shr(tape, p, shift, register(width), slope)
    dtype = "float64" if "float64" in (p.dtype, steep.dtype) else "float32"
    p, steep = in_type(tape, p, dtype), in_type(tape, steep, dtype)
    below = tape.emit("Less", p.name, number(tape, 0, dtype))
    return Value(tape.emit("Where", below, steep.name, p.name), max(p.peak, steep.peak), dtype)
