"""Sums, products, pooling, interpolation, tables and data movement as ONNX operators."""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from knerex_jax.export.mac import pad_codes, window_sums
from knerex_jax.export.shift import along, clip, in_type, number, register, shr, with_room
from knerex_jax.export.site import Site
from knerex_jax.export.sums import checked, product_sums
from knerex_jax.export.tape import Tape, Value
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.primitives import Align, Interp, MatMul, MaxPool, Move, Mul, PoolSum, Table

_Integers = Mapping[str, np.ndarray]
_NEVER = -(1 << 20)
"""Less than any code."""


def table(site: Site, i: Table, c: _Integers, x: Value) -> Value:
    """Rule 9: an entry for every code."""
    tape = site.tape
    place = tape.emit("Add", x.name, number(tape, 1 << (i.x_bits - 1), x.dtype))
    entries = np.asarray(c["table"])
    name = tape.emit("Gather", tape.integers(entries), tape.cast(place, "int64"), axis=0)
    return Value(name, int(np.abs(entries.astype(np.int64)).max()))


def align(site: Site, i: Align, c: _Integers, *operands: Value) -> Value:
    """Rule 3."""
    tape, rank, limits = site.tape, len(site.shape(i.output)), register(i.psum_bits)
    entered = []
    for k, x in enumerate(operands):
        m = along(c["m"][k], i.axis, rank) if i.free else 1
        entered.append(shr(tape, x, along(c["n"][k], i.axis, rank), limits, m))
    total = entered[0] if i.signs[0] > 0 else Value(tape.emit("Neg", entered[0].name), *_kind(entered[0]))
    for sign, x in zip(i.signs[1:], entered[1:], strict=True):
        op = {"add": "Add" if sign > 0 else "Sub", "max": "Max", "min": "Min"}[i.op]
        peak = total.peak + x.peak if i.op == "add" else max(total.peak, x.peak)
        a, b = _alike(tape, total, x, peak)
        total = clip(tape, Value(tape.emit(op, a.name, b.name), peak, a.dtype), limits)
    return shr(tape, total, along(c["n_out"], i.axis, rank), data_limits(i.bits))


def mul(site: Site, i: Mul, c: _Integers, a: Value, b: Value) -> Value:
    """Rule 4."""
    tape, peak = site.tape, a.peak * b.peak
    a, b = _alike(tape, a, b, peak)
    made = Value(tape.emit("Mul", a.name, b.name), peak, a.dtype)
    return shr(tape, made, along(c["n"], i.axis, len(site.shape(i.output))), data_limits(i.bits))


def matmul(site: Site, i: MatMul, c: _Integers, a: Value, b: Value) -> Value:
    """Rule 4, the exact sum."""
    made = product_sums(site.tape, a, b, site.bounds.step[i.name].sum)
    return shr(site.tape, made, along(c["n"], i.axis, len(site.shape(i.output))), data_limits(i.bits))


def pool_sum(site: Site, i: PoolSum, c: _Integers, x: Value) -> Value:
    """Rule 5."""
    tape, rank, peak = site.tape, len(site.shape(i.output)), site.bounds.step[i.name].sum
    peak = max(peak, x.peak)
    if i.window is None:
        x = with_room(tape, x, checked(peak, i.name))
        total = Value(tape.emit("ReduceSum", x.name, tape.shape(i.axes), keepdims=1), peak, x.dtype)
    else:
        w = i.window
        x = Value(pad_codes(tape, x.name, w.pads), x.peak)
        low, high = site.bounds.code[i.inputs[0]]
        total = window_sums(
            tape, x, (min(low, 0), max(high, 0)), site.shape(i.inputs[0])[1], w.kernel, peak, strides=w.strides,
            dilations=w.dilations,
        )  # fmt: skip
    n, m = along(c["n"], i.axis, rank), np.int64(1)
    if i.mean:
        n, m = n + np.asarray(c["e"], np.int64), np.asarray(c["m"], np.int64)
    return shr(tape, total, n, data_limits(i.bits), m)


def max_pool(site: Site, i: MaxPool, c: _Integers, x: Value) -> Value:
    """Rule 6."""
    tape, rank = site.tape, len(site.shape(i.output))
    if i.window is None:
        op = "ReduceMin" if i.least else "ReduceMax"
        if site.opset < 18:
            name = tape.emit(op, x.name, axes=i.axes, keepdims=1)
        else:
            name = tape.emit(op, x.name, tape.shape(i.axes), keepdims=1)
    else:
        w = i.window
        padded = pad_codes(tape, x.name, w.pads, _NEVER)
        name = tape.emit("MaxPool", padded, kernel_shape=w.kernel, strides=w.strides, dilations=w.dilations)
    best = Value(name, x.peak, x.dtype)
    return shr(tape, best, along(c["n"], i.axis, rank), data_limits(i.bits))


def interp(site: Site, i: Interp, c: _Integers, x: Value) -> Value:
    """Rule 8: one exact sum over the taps of all axes, one shift."""
    tape, rank = site.tape, len(site.shape(i.output))
    for k, axis in enumerate(i.axes):
        index, weight = np.asarray(c[f"index{k}"]), np.asarray(c[f"weight{k}"], np.int64)
        peak = x.peak * int(np.abs(weight).sum(axis=1).max())
        x = with_room(tape, x, checked(peak, i.name))
        taps = []
        for t in range(index.shape[1]):
            part = tape.emit("Gather", x.name, tape.shape(index[:, t]), axis=axis)
            shape = [-1 if a == axis else 1 for a in range(rank)]
            taps.append(tape.emit("Mul", part, number(tape, weight[:, t].reshape(shape), x.dtype)))
        x = Value(taps[0] if len(taps) == 1 else tape.emit("Sum", *taps), peak, x.dtype)
    return shr(tape, x, along(c["n"], i.axis, rank), data_limits(i.bits))


def move(site: Site, i: Move, c: _Integers, *operands: Value) -> Value:
    """Rule 7: the radix changes before the move where channels mix, else behind it."""
    tape, limits = site.tape, data_limits(i.bits)
    if "n_in" in c:
        axes = i.in_axes or (None,) * len(operands)
        operands = tuple(
            shr(tape, x, _own(n, axis, site.shape(t)), limits)
            for x, axis, n, t in zip(operands, axes, c["n_in"], i.inputs, strict=True)
        )
        return _moved(site, i, operands)
    made = _moved(site, i, operands)
    return shr(tape, made, along(c["n"], i.axis, len(site.shape(i.output))), limits)


def _own(n: np.ndarray, axis: int | None, shape: Sequence[int]) -> np.ndarray:
    return along(n[:1] if axis is None else n[: shape[axis]], axis, len(shape))


def _moved(site: Site, i: Move, operands: Sequence[Value]) -> Value:
    tape, args, x = site.tape, i.args, operands[0].name
    match i.kind:
        case "reshape":
            name = tape.emit("Reshape", x, tape.shape(args[0]), allowzero=1)
        case "transpose":
            name = tape.emit("Transpose", x, perm=args[0])
        case "expand":
            name = tape.emit("Expand", x, tape.shape(args[0]))
        case "concat":
            name = tape.emit("Concat", *(o.name for o in operands), axis=args[0][0])
        case "pad":
            name = tape.emit("Pad", x, tape.shape((*args[0], *args[1])))
        case "slice":
            starts, stops, steps = args
            ends = [np.iinfo(np.int64).min if s < 0 and e < 0 else e for e, s in zip(stops, steps, strict=True)]
            name = tape.emit("Slice", x, *(tape.shape(v) for v in (starts, ends, range(len(starts)), steps)))
        case "gather":
            pairs = zip(args[0], args[1:], strict=True)
            name = reduce(lambda held, p: tape.emit("Gather", held, tape.shape(p[1]), axis=p[0]), pairs, x)
    return Value(name, max(o.peak for o in operands), operands[0].dtype)


def _kind(v: Value) -> tuple[int, str]:
    return v.peak, v.dtype


def _alike(tape: Tape, a: Value, b: Value, peak: int) -> tuple[Value, Value]:
    """Both in the type that holds integers up to `peak`."""
    a, b = with_room(tape, a, peak), with_room(tape, b, peak)
    dtype = "float64" if "float64" in (a.dtype, b.dtype) else "float32"
    return in_type(tape, a, dtype), in_type(tape, b, dtype)
