"""Random instructions with random, mostly saturating integers, side by side in one program."""

from dataclasses import dataclass, field

import numpy as np

from knerex_jax.program.primitives import (
    Activate,
    Align,
    Mac,
    MatMul,
    MaxPool,
    Move,
    Mul,
    PoolSum,
    Table,
    Window,
)
from knerex_jax.program.program import CodeTensor, Program


@dataclass
class Build:
    """Instructions that read the inputs; every result is an output."""

    seed: int = 0
    inputs: dict[str, CodeTensor] = field(default_factory=dict)
    instructions: list = field(default_factory=list)
    tensors: dict[str, CodeTensor] = field(default_factory=dict)
    constants: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def input(self, bits, *shape):
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.tensors[name] = CodeTensor(shape, bits)
        self.constants[f"tensor:{name}"] = {"factor": np.asarray([8.0 if bits == 8 else 512.0], np.float32)}
        return name

    def add(self, cls, inputs, shape, bits, axis, constants, **fields):
        name = f"{cls.rule}{len(self.instructions)}"
        i = cls(name=name, inputs=tuple(inputs), output=f"{name}:0", nodes=(name,), bits=bits, axis=axis, **fields)
        self.instructions.append(i)
        self.tensors[i.output] = CodeTensor(tuple(int(n) for n in shape), bits, axis)
        self.constants[name] = {k: np.asarray(v) for k, v in constants.items()}
        return i.output

    def program(self):
        outputs = tuple(i.output for i in self.instructions)
        return Program(
            name="cases", platform="720", inputs=tuple(self.inputs), outputs=outputs,
            instructions=tuple(self.instructions), tensors=tuple(self.tensors.items()),
        )  # fmt: skip

    def samples(self, count):
        """Float data whose codes spread over the range, one in five at or beyond its ends."""
        data = {}
        for name, t in self.inputs.items():
            top = 2.0 ** (t.bits - 1) / float(self.constants[f"tensor:{name}"]["factor"][0])
            x = self.rng.uniform(-top, top, (count, *t.shape))
            x = np.where(self.rng.random(x.shape) < 0.2, np.sign(x) * 2 * top, x)
            data[name] = x.astype(np.float32)
        return data

    # Random constants

    def count(self, c):
        """A constant is per channel or, one time in three, one value for all."""
        return c if self.rng.random() < 0.67 else 1

    def weight(self, bits, *shape):
        top = (1 << (bits - 1)) - 1
        w = self.rng.integers(-top, top + 1, shape)
        w = np.where(self.rng.random(shape) < 0.3, np.sign(w) * top, w)
        return w.astype(np.int8 if bits <= 8 else np.int16)

    def shifts(self, typical, c, extreme):
        low, high = (-16, 63) if extreme else (typical - 3, typical + 3)
        return self.rng.integers(low, high, c).astype(np.int32)

    def mac(self, x, kind, *, outputs=0, kernel=(), strides=(), dilations=(), pads=(), group=1, extra=(),
            weight_bits=8, bits=None, post=True, act="none", psum=None, extreme=False, n1=False, axis=1):  # fmt: skip
        """Any mac. Output shapes follow from the geometry; the shift suits the size of the sums unless extreme."""
        rng, t = self.rng, self.tensors[x]
        rank, bits = len(kernel), bits or t.bits
        strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
        pads = pads or ((0, 0),) * rank
        channels = t.shape[1] if kind != "dense" else t.shape[-1]
        psum = psum or (48 if 15 in (t.bits, weight_bits) else 32)
        window = Window(kernel, strides, dilations, pads) if kernel else None
        if kind == "conv":
            w = self.weight(weight_bits, outputs, channels // group, *kernel)
            size = [
                (n + sum(p) - (k - 1) * d - 1) // s + 1
                for n, p, k, d, s in zip(t.shape[2:], pads, kernel, dilations, strides, strict=True)
            ]
            shape, terms = (1, outputs, *size), w[0].size
        elif kind == "conv_transpose":
            w = self.weight(weight_bits, channels, outputs // group, *kernel)
            size = [
                (n - 1) * s + (k - 1) * d + 1 + o - sum(p)
                for n, s, k, d, o, p in zip(
                    t.shape[2:], strides, kernel, dilations, extra or (0,) * rank, pads, strict=True
                )
            ]
            shape, terms = (1, outputs, *size), w[:, 0].size // group
        elif kind == "dense":
            w = self.weight(weight_bits, outputs, channels)
            shape, terms, axis = (*t.shape[:-1], outputs), channels, len(t.shape) - 1
        else:
            w = self.weight(weight_bits, t.shape[axis])
            shape, terms, outputs = t.shape, 1, t.shape[axis]
        size = np.log2(terms) / 2 + t.bits + weight_bits - 3
        top = 1 << (psum - 1)
        c = {"weight": w, "n1": np.zeros(outputs, np.int32)}
        if psum == 16:
            c["n1"] = self.shifts(int(size) - 14, outputs, extreme)
            size = 15
        elif n1:
            c["n1"] = self.shifts(int(size) // 2, outputs, extreme)
            size /= 2
        scale = min(2.0 ** (size + 1), top - 1)
        c["bias"] = np.rint(rng.uniform(-scale, scale, outputs)).astype(np.int64)
        if extreme:
            c["bias"] = np.where(rng.random(outputs) < 0.5, c["bias"], np.sign(c["bias"]) * (top - 1))
        if post:
            c["m"] = rng.integers(1 << 14, 1 << 15, outputs).astype(np.int32)
        c["n2"] = self.shifts(int(size) - bits + 1 + 14 * post, outputs, extreme)
        if act == "clip":
            ends = np.sort(np.rint(rng.uniform(-scale, scale, (2, outputs))), axis=0).astype(np.int64)
            c |= {"lo": ends[0], "hi": np.maximum(ends[1], 0)}
        if act == "leaky":
            k = self.count(outputs)
            c["slope"] = rng.integers(-128, 128, k).astype(np.int32)
            c["slope_shift"] = rng.integers(-2, 31, k).astype(np.int32)
        return self.add(
            Mac, [x], shape, bits, axis, c, kind=kind, window=window, group=group, output_padding=extra,
            x_bits=t.bits, weight_bits=weight_bits, psum_bits=psum, post_multiplier=post, act=act,
        )  # fmt: skip

    def activate(self, x, act, bits=None, extreme=False):
        t = self.tensors[x]
        bits, channels, top = bits or t.bits, t.shape[1], 1 << (t.bits - 1)
        c = {"n": self.shifts(t.bits - bits, self.count(channels), extreme)}
        if act == "clip":
            ends = np.sort(self.rng.integers(-top, top, (2, channels)), axis=0).astype(np.int32)
            c |= {"lo": ends[0], "hi": ends[1]}
        if act == "leaky":
            k = self.count(channels)
            limit = 127 if t.bits == 8 else 16383
            c |= {"slope": self.rng.integers(-limit, limit + 1, k), "slope_shift": self.rng.integers(-1, 31, k)}
        return self.add(Activate, [x], t.shape, bits, 1, c, x_bits=t.bits, act=act)

    def align(self, *xs, op="add", free=False, bits=8, signs=None, extreme=False, axis=1):
        types = [self.tensors[x] for x in xs]
        shape = np.broadcast_shapes(*(t.shape for t in types))
        k, channels = len(xs), self.count(shape[axis])
        c = {}
        if free:
            c["m"] = self.rng.integers(1 << 14, 1 << 15, (k, channels))
            c["n"] = np.stack([self.shifts(t.bits + 15 - bits - 8, channels, extreme) for t in types])
            c["n_out"] = np.full(channels, 8)
        else:
            c["n"] = -self.rng.integers(0, 17 if extreme else 4, (k, channels))
            c["n_out"] = self.shifts(3, channels, extreme)
        return self.add(
            Align, xs, shape, bits, axis, c, op=op, free=free, signs=signs or (1,) * k,
            x_bits=tuple(t.bits for t in types), psum_bits=48 if 15 in [t.bits for t in types] else 32,
        )  # fmt: skip

    def mul(self, a, b, bits=8, extreme=False):
        types = [self.tensors[a], self.tensors[b]]
        shape = np.broadcast_shapes(*(t.shape for t in types))
        n = self.shifts(sum(t.bits for t in types) - bits - 2, self.count(shape[1]), extreme)
        return self.add(Mul, [a, b], shape, bits, 1, {"n": n}, x_bits=tuple(t.bits for t in types))

    def matmul(self, a, b, bits=8, extreme=False):
        types = [self.tensors[a], self.tensors[b]]
        shape = np.matmul(*(np.zeros(t.shape) for t in types)).shape
        n = self.shifts(sum(t.bits for t in types) - bits, 1, extreme)
        return self.add(MatMul, [a, b], shape, bits, None, {"n": n}, x_bits=tuple(t.bits for t in types))

    def pool(
        self, cls, x, *, kernel=(), strides=(), dilations=(), pads=(), axes=(), bits=None, mean=True, extreme=False
    ):
        t = self.tensors[x]
        bits, rank, channels = bits or t.bits, len(kernel), t.shape[1]
        fields = {"x_bits": t.bits, "axes": axes}
        if kernel:
            window = Window(kernel, strides or kernel, dilations or (1,) * rank, pads or ((0, 0),) * rank)
            fields["window"] = window
            size = [
                (n + sum(p) - (k - 1) * d - 1) // s + 1
                for n, p, k, d, s in zip(
                    t.shape[2:], window.pads, kernel, window.dilations, window.strides, strict=True
                )
            ]
            shape = (*t.shape[:2], *size)
        else:
            shape = tuple(1 if a in axes else n for a, n in enumerate(t.shape))
        axis = 1 if 1 not in axes else None
        k = 1 if axis is None else self.count(channels)
        if cls is MaxPool:
            return self.add(cls, [x], shape, bits, axis, {"n": self.shifts(t.bits - bits, k, extreme)}, **fields)
        fields["mean"] = mean
        if not mean:
            return self.add(cls, [x], shape, bits, axis, {"n": self.shifts(t.bits - bits + 2, k, extreme)}, **fields)
        spatial = shape[2:] if kernel else (1,) * len(shape[2:])
        c = {
            "n": np.clip(self.shifts(15 + t.bits - bits, k, extreme), -12, 57),
            "m": self.rng.integers(1 << 14, 1 << 15, spatial),
            "e": self.rng.integers(0, 5, spatial),
        }
        return self.add(cls, [x], shape, bits, axis, c, **fields)

    def move(self, kind, xs, shape, args, bits=8, axis=1, in_axes=None, extreme=False):
        types = [self.tensors[x] for x in xs]
        typical = max(t.bits for t in types) - bits
        if in_axes:
            widest = max(t.shape[a] for t, a in zip(types, in_axes, strict=True) if a is not None)
            c = {"n_in": np.stack([self.shifts(typical, widest, extreme) for _ in xs])}
        else:
            c = {"n": self.shifts(typical, self.count(shape[axis]), extreme)}
        return self.add(
            Move, xs, shape, bits, axis, c, kind=kind, args=args, x_bits=tuple(t.bits for t in types), in_axes=in_axes
        )

    def table(self, x, bits=8):
        t = self.tensors[x]
        top = 1 << (bits - 1)
        values = self.rng.integers(-top, top, 1 << t.bits).astype(np.int8 if bits == 8 else np.int16)
        return self.add(Table, [x], t.shape, bits, None, {"table": values}, x_bits=t.bits)


__all__ = ["Build", "MaxPool", "PoolSum"]
