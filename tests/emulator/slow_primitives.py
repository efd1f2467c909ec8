"""The primitives of the fixed program, written from section 3 of the contract as plain loops over Python integers.

Shares nothing with the package but the instruction records. Arrays hold Python integers (dtype object), so nothing
can overflow. One sample at a time.
"""

import itertools

import numpy as np


def shr(a, n):
    a, n = int(a), int(n)
    return (a + (1 << (n - 1))) >> n if n > 0 else a << -n


def sat(a, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, int(a)))


def channel(values, index, axis):
    """The constant of the channel at this place of the output."""
    return int(values[0] if len(values) == 1 or axis is None else values[index[axis]])


def act(i, c, p, index, bits):
    if i.act == "relu":
        return max(0, p)
    if i.act == "clip":
        return min(max(p, channel(c["lo"], index, i.axis)), channel(c["hi"], index, i.axis))
    if i.act == "leaky" and p < 0:
        return sat(shr(p * channel(c["slope"], index, i.axis), channel(c["slope_shift"], index, i.axis)), bits)
    return p


def places(shape):
    return itertools.product(*(range(n) for n in shape))


def conv_sum(i, w, x):
    """{output index: exact sum}; conv gathers, conv_transpose scatters."""
    win, rank = i.window, len(i.window.kernel)
    kernel = w.shape[2:]
    if i.kind == "conv":
        outputs, taken = w.shape[:2]
        size = [
            (n + b + e - (k - 1) * d - 1) // s + 1
            for n, (b, e), k, d, s in zip(x.shape[2:], win.pads, kernel, win.dilations, win.strides, strict=True)
        ]
        out = np.zeros((1, outputs, *size), object)
        for index in places(out.shape):
            o, first = index[1], index[1] // (outputs // i.group) * taken
            total = 0
            for tap in places(kernel):
                at = [index[2 + a] * win.strides[a] + tap[a] * win.dilations[a] - win.pads[a][0] for a in range(rank)]
                if all(0 <= v < n for v, n in zip(at, x.shape[2:], strict=True)):
                    total += sum(int(w[(o, j, *tap)]) * int(x[(0, first + j, *at)]) for j in range(taken))
            out[index] = total
        return out
    inputs, per_group = w.shape[:2]
    extra = i.output_padding or (0,) * rank
    size = [
        (n - 1) * s + (k - 1) * d + 1 + o - b - e
        for n, s, k, d, o, (b, e) in zip(x.shape[2:], win.strides, kernel, win.dilations, extra, win.pads, strict=True)
    ]
    out = np.zeros((1, per_group * i.group, *size), object)
    for index in places(x.shape):
        group = index[1] // (inputs // i.group)
        for tap in places(kernel):
            at = [index[2 + a] * win.strides[a] + tap[a] * win.dilations[a] - win.pads[a][0] for a in range(rank)]
            if all(0 <= v < n for v, n in zip(at, size, strict=True)):
                for j in range(per_group):
                    out[(0, group * per_group + j, *at)] += int(w[(index[1], j, *tap)]) * int(x[index])
    return out


def mac(i, c, types, x):
    w = c["weight"]
    if i.kind in ("conv", "conv_transpose"):
        acc = conv_sum(i, w, x)
    elif i.kind == "dense":
        acc = np.zeros((*x.shape[:-1], len(w)), object)
        for index in places(acc.shape):
            acc[index] = sum(int(a) * int(b) for a, b in zip(w[index[-1]], x[index[:-1]], strict=True))
    else:
        acc = np.zeros(x.shape, object)
        for index in places(acc.shape):
            acc[index] = int(x[index]) * channel(w, index, i.axis)
    y = np.zeros(acc.shape, object)
    for index in places(acc.shape):
        p = sat(shr(acc[index], channel(c["n1"], index, i.axis)), i.psum_bits)
        p = sat(p + channel(c["bias"], index, i.axis), i.psum_bits)
        p = act(i, c, p, index, i.psum_bits)
        m = channel(c["m"], index, i.axis) if i.post_multiplier else 1
        y[index] = sat(shr(p * m, channel(c["n2"], index, i.axis)), i.bits)
    return y


def activate(i, c, types, x):
    return each(i, x.shape, lambda at: shr(act(i, c, int(x[at]), at, i.x_bits), channel(c["n"], at, i.axis)))


def each(i, shape, value):
    y = np.zeros(shape, object)
    for index in places(shape):
        y[index] = sat(value(index), i.bits)
    return y


def align(i, c, types, *xs):
    xs = np.broadcast_arrays(*xs)

    def value(at):
        terms = []
        for k, x in enumerate(xs):
            v = int(x[at]) * (channel(c["m"][k], at, i.axis) if i.free else 1)
            terms.append(i.signs[k] * sat(shr(v, channel(c["n"][k], at, i.axis)), i.psum_bits))
        total = {"add": sum, "max": max, "min": min}[i.op](terms)
        return shr(sat(total, i.psum_bits), channel(c["n_out"], at, i.axis))

    return each(i, xs[0].shape, value)


def mul(i, c, types, a, b):
    a, b = np.broadcast_arrays(a, b)
    return each(i, a.shape, lambda at: shr(int(a[at]) * int(b[at]), channel(c["n"], at, i.axis)))


def matmul(i, c, types, a, b):
    total = np.asarray(np.matmul(a, b), object)
    return each(i, total.shape, lambda at: shr(total[at], channel(c["n"], at, i.axis)))


def under_window(i, x):
    """{output index: the codes under the window}."""
    if i.window is None:
        shape = tuple(1 if a in i.axes else n for a, n in enumerate(x.shape))
        moved = np.moveaxis(x, i.axes, range(x.ndim - len(i.axes), x.ndim))
        return shape, lambda at: moved[tuple(v for a, v in enumerate(at) if a not in i.axes)].reshape(-1)
    w = i.window
    size = [
        (n + b + e - (k - 1) * d - 1) // s + 1
        for n, (b, e), k, d, s in zip(x.shape[2:], w.pads, w.kernel, w.dilations, w.strides, strict=True)
    ]

    def codes(at):
        found = []
        for tap in places(w.kernel):
            p = [at[2 + a] * w.strides[a] + tap[a] * w.dilations[a] - w.pads[a][0] for a in range(len(w.kernel))]
            if all(0 <= v < n for v, n in zip(p, x.shape[2:], strict=True)):
                found.append(int(x[(*at[:2], *p)]))
        return found

    return (*x.shape[:2], *size), codes


def poolsum(i, c, types, x):
    shape, codes = under_window(i, x)

    def value(at):
        total, n = sum(int(v) for v in codes(at)), channel(c["n"], at, i.axis)
        if not i.mean:
            return shr(total, n)
        here = tuple(min(a, n - 1) for a, n in zip(at[len(at) - c["m"].ndim :], c["m"].shape, strict=True))
        return shr(total * int(c["m"][here]), n + int(c["e"][here]))

    return each(i, shape, value)


def maxpool(i, c, types, x):
    shape, codes = under_window(i, x)
    return each(i, shape, lambda at: shr(max(int(v) for v in codes(at)), channel(c["n"], at, i.axis)))


def moved(i, xs):
    x, a = xs[0], i.args
    if i.kind == "pad":
        y = np.zeros([n + b + e for n, b, e in zip(x.shape, *a, strict=True)], object)
        for index in places(y.shape):
            at = [v - b for v, b in zip(index, a[0], strict=True)]
            if all(0 <= v < n for v, n in zip(at, x.shape, strict=True)):
                y[index] = x[tuple(at)]
        return y
    if i.kind == "slice":
        return x[np.ix_(*(list(range(b, e, s)) for b, e, s in zip(*a, strict=True)))]
    return {
        "reshape": lambda: x.reshape(a[0]),
        "transpose": lambda: x.transpose(a[0]),
        "expand": lambda: np.broadcast_to(x, a[0]),
        "concat": lambda: np.concatenate(xs, a[0][0]),
        "gather": lambda: x.take(a[1], a[0][0]),
    }[i.kind]()


def move(i, c, types, *xs):
    if "n_in" in c:
        before = []
        for x, axis, row in zip(xs, i.in_axes, c["n_in"], strict=True):
            y = np.zeros(x.shape, object)
            for at in places(x.shape):
                y[at] = sat(shr(x[at], row[0 if axis is None or len(row) == 1 else at[axis]]), i.bits)
            before.append(y)
        return moved(i, before)
    y = moved(i, xs)
    return each(i, y.shape, lambda at: shr(y[at], channel(c["n"], at, i.axis)))


def table(i, c, types, x):
    return each(i, x.shape, lambda at: int(c["table"][int(x[at]) + (1 << (i.x_bits - 1))]))


RULES = {
    "mac": mac,
    "act": activate,
    "align": align,
    "mul": mul,
    "matmul": matmul,
    "poolsum": poolsum,
    "maxpool": maxpool,
    "move": move,
    "table": table,
}


def quantize(x, factor, bits):
    """One float32 product, ties to even."""
    product = np.asarray(x, np.float32) * np.float32(factor)
    return np.clip(np.rint(product), -(1 << (bits - 1)), (1 << (bits - 1)) - 1).astype(np.int64)


def run(program, constants, inputs):
    """All code tensors of one sample, as int64 arrays."""
    codes = {
        t: quantize(inputs[t], constants[f"tensor:{t}"]["factor"][0], program.tensor[t].bits).astype(object)
        for t in program.inputs
    }
    for i in program.instructions:
        codes[i.output] = RULES[i.rule](i, constants[i.name], program.tensor, *(codes[t] for t in i.inputs))
    return {t: np.asarray(v, np.int64) for t, v in codes.items()}
