"""The fixed program in NumPy, written from section 3 of the contract on float64 BLAS: how fast a plain emulator can be.

Every value is an integer held exactly in float64: products and sums stay below 2**53, which is checked, and multiplying
by a power of two is exact, so shr(v, n) is floor(v * 2**-n + 1/2). Arrays have the program's axes and lie channels last
in memory; a convolution is one product per few rows of patches, which stay in the cache. What needs more is an error.
"""

import itertools
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.program import Constants, Program

Arrays = Mapping[str, np.ndarray]

_BLOCK = 1 << 16
"""Elements of patches that are gathered at a time: half a MB."""


def run(program: Program, constants: Constants, inputs: Arrays) -> dict[str, np.ndarray]:
    """Output codes of N samples, [N, *shape]; inputs like those of the emulator, [N, *shape]."""
    count = len(next(iter(inputs.values())))
    codes = {}
    for t in program.inputs:
        low, high = data_limits(program.tensor[t].bits)
        x = inputs[t].reshape(-1, *inputs[t].shape[2:])  # the model's batch axis of 1 becomes the samples'
        scaled = np.rint(x * constants[f"tensor:{t}"]["factor"].astype(np.float32)[0])
        codes[t] = np.clip(scaled, low, high).astype(np.float64)
    last = {t: k for k, i in enumerate(program.instructions) for t in i.inputs}
    for k, i in enumerate(program.instructions):
        codes[i.output] = _RULES[i.rule](i, constants[i.name], *(codes[t] for t in i.inputs))
        for t in i.inputs:
            if last[t] == k and t not in program.outputs and t in codes:
                del codes[t]
    return {t: codes[t].reshape(count, *program.tensor[t].shape).astype(np.int64) for t in program.outputs}


def _shr(v: np.ndarray, n: np.ndarray) -> np.ndarray:
    if not np.any(n):
        return v
    v = v * np.ldexp(1.0, -n)
    if np.all(n < 0):
        return v
    v += np.where(n > 0, 0.5, 0.0)
    return np.floor(v, out=v)


def _saturate(v: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(v, -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1, out=v if v.flags.owndata else None)


def _along(values: Any, axis: int | None, rank: int) -> np.ndarray:
    """Constants along the channel axis, as integers that broadcast."""
    values = np.asarray(values).astype(np.int64)
    if axis is None or values.size == 1:
        return values.reshape((1,) * rank)
    return values.reshape([-1 if a == axis else 1 for a in range(rank)])


# Sums of products


def conv_sums(x: np.ndarray, weight: np.ndarray, i: Any) -> np.ndarray:
    """[N, C, H, W] with [O, C/group, kh, kw] -> [N, O, H', W'], zeros around."""
    w, group = i.window, i.group
    if i.kind == "conv_transpose":
        x, weight, pads, strides = _transposed(x, weight, i)
    else:
        pads, strides = w.pads, w.strides
    kernel, outputs = weight.shape[2:], len(weight)
    x = np.moveaxis(np.pad(x, [(0, 0), (0, 0), *pads]), 1, -1)
    x = np.ascontiguousarray(x)
    height, width = x.shape[1:3]
    out = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[1:3], kernel, w.dilations, strides, strict=True)
    ]
    if group == x.shape[-1] and group > 1:
        return _depthwise(x, weight, w.dilations, strides, out)
    matrix = np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float64)  # [kh, kw, C/group, O]
    size, made = x.shape[-1] // group, outputs // group
    y = np.empty((len(x), *out, outputs))
    rows = min(out[0], max(1, _BLOCK // (out[1] * kernel[0] * kernel[1] * size)))
    buffer = np.empty((rows, out[1], *kernel, size))
    for n, top, g in itertools.product(range(len(x)), range(0, out[0], rows), range(group)):
        here = min(rows, out[0] - top)
        patches = buffer[:here]
        for a, b in itertools.product(range(kernel[0]), range(kernel[1])):
            first, left = top * strides[0] + a * w.dilations[0], b * w.dilations[1]
            patches[:, :, a, b] = x[
                n, first : first + (here - 1) * strides[0] + 1 : strides[0],
                left : left + (out[1] - 1) * strides[1] + 1 : strides[1], g * size : (g + 1) * size,
            ]  # fmt: skip
        mine = np.ascontiguousarray(matrix[..., g * made : (g + 1) * made]).reshape(-1, made)
        target = y[n, top : top + here]
        if group == 1:
            np.matmul(patches.reshape(here * out[1], -1), mine, out=target.reshape(here * out[1], made))
        else:
            product = patches.reshape(here * out[1], -1) @ mine
            target[..., g * made : (g + 1) * made] = product.reshape(here, out[1], made)
    return np.moveaxis(y, -1, 1)


def _depthwise(x: np.ndarray, weight: np.ndarray, dilations: Any, strides: Any, out: list[int]) -> np.ndarray:
    """Channels last, one input channel per group; sample by sample, so that its arrays stay in the cache."""
    per = len(weight) // x.shape[-1]
    y = np.zeros((len(x), *out, x.shape[-1], per))
    for n in range(len(x)):
        for a, b in itertools.product(range(weight.shape[2]), range(weight.shape[3])):
            top, left = a * dilations[0], b * dilations[1]
            part = x[
                n, top : top + (out[0] - 1) * strides[0] + 1 : strides[0],
                left : left + (out[1] - 1) * strides[1] + 1 : strides[1],
            ]  # fmt: skip
            y[n] += part[..., None] * weight[:, 0, a, b].reshape(-1, per)
    return np.moveaxis(y.reshape(*y.shape[:3], -1), -1, 1)


def _transposed(x: np.ndarray, weight: np.ndarray, i: Any) -> tuple[np.ndarray, np.ndarray, Any, tuple[int, int]]:
    """A transposed convolution as a plain one over an input with zeros between."""
    w, group = i.window, i.group
    inputs, per = weight.shape[:2]
    spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], w.strides, strict=True))))
    spread[:, :, :: w.strides[0], :: w.strides[1]] = x
    turned = weight.reshape(group, inputs // group, per, *weight.shape[2:]).swapaxes(1, 2)
    turned = turned.reshape(group * per, inputs // group, *weight.shape[2:])[:, :, ::-1, ::-1]
    reach = [(k - 1) * d for k, d in zip(w.kernel, w.dilations, strict=True)]
    pads = [(r - b, r - e + o) for r, (b, e), o in zip(reach, w.pads, i.output_padding, strict=True)]
    for axis, (b, e) in enumerate(pads):  # a negative pad crops
        keep = [slice(None)] * 4
        keep[2 + axis] = slice(max(-b, 0), spread.shape[2 + axis] - max(-e, 0))
        spread = spread[tuple(keep)]
    return spread, turned, [(max(b, 0), max(e, 0)) for b, e in pads], (1, 1)


def _sums(i: Any, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    top = 2.0 ** (i.x_bits - 1)
    if i.kind == "diagonal":
        return x * _along(weight, i.axis, x.ndim)
    axes = tuple(range(1, weight.ndim)) if i.kind != "conv_transpose" else (0, *range(2, weight.ndim))
    assert np.abs(weight.astype(np.float64)).sum(axis=axes).max() * top < 2**53, f"{i.name}: sums beyond float64"
    if i.kind == "dense":
        return x @ weight.T.astype(np.float64)
    if x.ndim == 4 and weight.ndim == 4 and weight.shape[2:] == (1, 1) and i.group == 1 and i.kind == "conv":
        if not any(any(p) for p in i.window.pads):
            x = np.moveaxis(x, 1, -1)[:, :: i.window.strides[0], :: i.window.strides[1]]
            rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
            y = rows @ weight.reshape(weight.shape[:2]).T.astype(np.float64)
            return np.moveaxis(y.reshape(*x.shape[:-1], -1), -1, 1)
    return conv_sums(x, weight, i)


def _mac(i: Any, c: Any, x: np.ndarray) -> np.ndarray:
    p = _sums(i, c["weight"], x)
    n1, bias, n2 = (_along(c[k], i.axis, p.ndim) for k in ("n1", "bias", "n2"))
    p = _saturate(_shr(p, n1), i.psum_bits)
    p = _saturate(p + bias if p.base is not None else np.add(p, bias, out=p), i.psum_bits)
    p = _act(i, c, p, i.psum_bits)
    if i.post_multiplier:
        m = _along(c["m"], i.axis, p.ndim)
        assert max(p.max(), -p.min()) * m.max() < 2**52, f"{i.name}: products beyond float64"
        p = p * m
    return _saturate(_shr(p, n2), i.bits)


def _act(i: Any, c: Any, p: np.ndarray, bits: int) -> np.ndarray:
    if i.act == "relu":
        return np.maximum(p, 0, out=p)
    if i.act == "clip":
        low, high = (_along(c[k], i.axis, p.ndim).astype(np.float64) for k in ("lo", "hi"))
        return np.clip(p, low, high)
    if i.act == "leaky":
        slope, shift = (_along(c[k], i.axis, p.ndim) for k in ("slope", "slope_shift"))
        return np.where(p < 0, _saturate(_shr(p * slope, shift), bits), p)
    if i.act == "hard_swish":
        three, six = (_along(c[k], i.axis, p.ndim).astype(np.float64) for k in ("three", "six"))
        return p * np.clip(p + three, 0, six)
    assert i.act in ("none", "neg", "abs"), f"{i.name}: no rule for {i.act}"
    return {"none": p, "neg": -p, "abs": np.abs(p)}[i.act]


def _activate(i: Any, c: Any, x: np.ndarray) -> np.ndarray:
    return _saturate(_shr(_act(i, c, x.copy(order="K"), i.x_bits), _along(c["n"], i.axis, x.ndim)), i.bits)


# Combinations, reductions, movement


def _align(i: Any, c: Any, *xs: np.ndarray) -> np.ndarray:
    rank, total = max(x.ndim for x in xs), None
    for k, x in enumerate(xs):
        x = x.reshape((*x.shape[:1], *(1,) * (rank - x.ndim), *x.shape[1:]))
        v = x * _along(c["m"][k], i.axis, rank) if i.free else x
        v = i.signs[k] * _saturate(_shr(v, _along(c["n"][k], i.axis, rank)) * 1.0, i.psum_bits)
        total = v if total is None else {"add": np.add, "max": np.maximum, "min": np.minimum}[i.op](total, v)
    total = _saturate(total, i.psum_bits)
    return _saturate(_shr(total, _along(c["n_out"], i.axis, rank)), i.bits)


def _mul(i: Any, c: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = a * b
    return _saturate(_shr(y, _along(c["n"], i.axis, y.ndim)), i.bits)


def _matmul(i: Any, c: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = a @ b
    return _saturate(_shr(y, _along(c["n"], i.axis, y.ndim)), i.bits)


def _under_window(x: np.ndarray, w: Any, fill: float) -> list[np.ndarray]:
    x = np.pad(x, [(0, 0), (0, 0), *w.pads], constant_values=fill)
    out = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], w.kernel, w.dilations, w.strides, strict=True)
    ]
    found = []
    for tap in itertools.product(*(range(k) for k in w.kernel)):
        places = [
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, w.dilations, out, w.strides, strict=True)
        ]
        found.append(x[(slice(None), slice(None), *places)])
    return found


def _poolsum(i: Any, c: Any, x: np.ndarray) -> np.ndarray:
    total = x.sum(axis=i.axes, keepdims=True) if i.window is None else reduce(np.add, _under_window(x, i.window, 0.0))
    n = _along(c["n"], i.axis, total.ndim)
    if not i.mean:
        return _saturate(_shr(total, n), i.bits)
    e, m = (np.asarray(c[k]).astype(np.int64) for k in ("e", "m"))
    return _saturate(_shr(total * m, n + e), i.bits)


def _maxpool(i: Any, c: Any, x: np.ndarray) -> np.ndarray:
    if i.window is None:
        most = (np.min if i.least else np.max)(x, axis=i.axes, keepdims=True)
    else:
        taps = _under_window(x, i.window, data_limits(i.x_bits)[0])
        most = taps[0].copy(order="K")
        for tap in taps[1:]:
            np.maximum(most, tap, out=most)
    return _saturate(_shr(most, _along(c["n"], i.axis, most.ndim)), i.bits)


def _move(i: Any, c: Any, *xs: np.ndarray) -> np.ndarray:
    if "n_in" in c:
        rows = []
        for x, axis, row in zip(xs, i.in_axes, c["n_in"], strict=True):
            row = row[:1] if axis is None or len(row) == 1 else row[: x.shape[axis]]
            rows.append(_saturate(_shr(x, _along(row, axis, x.ndim)) * 1.0, i.bits))
        return _moved(i, rows)
    y = _moved(i, xs)
    return _saturate(_shr(y, _along(c["n"], i.axis, y.ndim)) * 1.0, i.bits)


def _moved(i: Any, xs: Any) -> np.ndarray:
    x, a = xs[0], i.args
    if i.kind == "reshape":
        return x.reshape(len(x), *a[0][1:])
    if i.kind == "transpose":
        assert a[0][0] == 0, f"{i.name}: samples would move"
        return x.transpose(a[0])
    if i.kind == "expand":
        return np.broadcast_to(x, (len(x), *a[0][1:]))
    if i.kind == "concat":
        return np.concatenate(xs, a[0][0])
    if i.kind == "pad":
        return np.pad(x, list(zip(*a, strict=True)))
    if i.kind == "slice":
        starts, stops, steps = (list(v) for v in a)
        starts[0], stops[0] = 0, len(x)
        return x[
            tuple(slice(b, None if s < 0 and e < 0 else e, s) for b, e, s in zip(starts, stops, steps, strict=True))
        ]
    for axis, places in zip(a[0], a[1:], strict=True):
        x = np.take(x, places, axis=axis)
    return x


def _interp(i: Any, c: Any, x: np.ndarray) -> np.ndarray:
    for k, axis in enumerate(i.axes):
        index, weight = (np.asarray(c[f"{key}{k}"]) for key in ("index", "weight"))
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        taps = [np.take(x, index[:, t], axis=axis) * weight[:, t].reshape(shape) for t in range(index.shape[1])]
        x = reduce(np.add, taps)
    return _saturate(_shr(x, _along(c["n"], i.axis, x.ndim)), i.bits)


def _const(i: Any, c: Any) -> np.ndarray:
    return np.asarray(c["codes"]).astype(np.float64)


def _table(i: Any, c: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(c["table"]).astype(np.float64)[x.astype(np.int64) - data_limits(i.x_bits)[0]]


_RULES = {
    "mac": _mac, "act": _activate, "align": _align, "mul": _mul, "matmul": _matmul, "poolsum": _poolsum,
    "maxpool": _maxpool, "move": _move, "interp": _interp, "const": _const, "table": _table,
}  # fmt: skip
