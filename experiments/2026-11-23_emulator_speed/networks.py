"""Topologies with random weights, twice: as a float ONNX model and as a fixed program of the same geometry."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from knerex_jax.program.primitives import Align, Mac, MaxPool, PoolSum, Window
from knerex_jax.program.program import CodeTensor, Program

MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass
class Network:
    """Grows both models layer by layer; tensors are (name, shape) pairs."""

    bits: int = 8
    weight_bits: int = 8
    nodes: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    instructions: list = field(default_factory=list)
    tensors: list = field(default_factory=list)
    constants: dict = field(default_factory=dict)

    def __post_init__(self):
        self.rng = np.random.default_rng(0)
        self.factor = np.float32(2.0 ** (self.bits - 3))

    def input(self, *shape):
        self.tensors.append(("x", CodeTensor(shape, self.bits)))
        self.constants["tensor:x"] = {"factor": np.asarray([self.factor])}
        return "x", shape

    def _emit(self, cls, inputs, shape, constants, **fields):
        name = f"i{len(self.instructions)}"
        self.instructions.append(
            cls(name=name, inputs=inputs, output=name, nodes=(name,), bits=self.bits, axis=1, **fields)
        )
        self.tensors.append((name, CodeTensor(shape, self.bits, 1)))
        self.constants[name] = constants
        return name, shape

    def _initializer(self, value):
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, x, outputs, kernel, stride=1, group=1, act=None):
        x, shape = x
        channels, pad = shape[1], kernel // 2
        size = [(n + 2 * pad - kernel) // stride + 1 for n in shape[2:]]
        w_shape = (outputs, channels // group, kernel, kernel)
        terms = int(np.prod(w_shape[1:]))
        top = (1 << (self.weight_bits - 1)) - 1
        w = self.rng.integers(-top, top + 1, w_shape)
        name = f"c{len(self.nodes)}"
        b = self.rng.normal(size=outputs) * 0.1
        self.nodes.append(
            helper.make_node(
                "Conv",
                [x, self._initializer(w / top * (4 / terms) ** 0.5), self._initializer(b)],
                [name],
                kernel_shape=[kernel] * 2,
                strides=[stride] * 2,
                group=group,
                pads=[pad] * 4,
            )  # fmt: skip
        )
        if act == "clip":
            self.nodes.append(
                helper.make_node("Clip", [name, self._initializer(0), self._initializer(6)], [f"{name}r"])
            )
        elif act == "relu":
            self.nodes.append(helper.make_node("Relu", [name], [f"{name}r"]))
        # Codes of the output spread over about half the range.
        spread = np.log2(np.sqrt(terms) * top / 2 * 2.0 ** (self.bits - 2))
        n2 = np.full(outputs, int(round(spread)) + 15 - (self.bits - 2), np.int32)
        psum = 48 if 15 in (self.bits, self.weight_bits) else 32
        constants = {
            "weight": w.astype(np.int8 if self.weight_bits <= 8 else np.int16),
            "bias": np.rint(self.rng.normal(size=outputs) * 2.0**spread * 0.1).astype(np.int64),
            "n1": np.zeros(outputs, np.int32),
            "m": self.rng.integers(1 << 14, 1 << 15, outputs).astype(np.int32),
            "n2": n2,
            "lo": np.zeros(outputs, np.int64),
            "hi": np.full(outputs, int(2.0 ** (spread + 2)), np.int64),
        }
        y = self._emit(
            Mac, (x,), (1, outputs, *size), constants, kind="conv", group=group, x_bits=self.bits,
            window=Window((kernel,) * 2, (stride,) * 2, (1, 1), ((pad, pad),) * 2), weight_bits=self.weight_bits,
            psum_bits=psum, post_multiplier=True, act=act or "none",
        )  # fmt: skip
        if act:
            self._same(y, f"{name}r")
        else:
            self._same(y, name)
        return y

    def _same(self, y, float_name):
        """The float node behind an instruction takes its name."""
        self.nodes[-1].output[0] = y[0]

    def add(self, a, b):
        c = self.rng.integers(1 << 14, 1 << 15, (2, a[1][1])).astype(np.int32)
        constants = {"m": c, "n": np.full(c.shape, 7, np.int32), "n_out": np.full(c.shape[1], 8, np.int32)}
        y = self._emit(
            Align, (a[0], b[0]), a[1], constants, op="add", signs=(1, 1), free=True, x_bits=(self.bits,) * 2,
            psum_bits=48 if self.bits == 15 else 32,
        )  # fmt: skip
        self.nodes.append(helper.make_node("Add", [a[0], b[0]], [y[0]]))
        return y

    def mean(self, x):
        shape = (*x[1][:2], 1, 1)
        count = int(np.prod(x[1][2:]))
        e = int(np.floor(np.log2(count)))
        constants = {
            "n": np.full(shape[1], 15, np.int32),
            "m": np.full((1, 1), round(2 ** (15 + e) / count), np.int32),
            "e": np.full((1, 1), e, np.int32),
        }
        y = self._emit(PoolSum, (x[0],), shape, constants, axes=(2, 3), x_bits=self.bits)
        self.nodes.append(helper.make_node("GlobalAveragePool", [x[0]], [y[0]]))
        return y

    def max_pool(self, x):
        shape = (*x[1][:2], *((n + 1) // 2 for n in x[1][2:]))
        y = self._emit(
            MaxPool, (x[0],), shape, {"n": np.zeros(1, np.int32)}, x_bits=self.bits,
            window=Window((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))),
        )  # fmt: skip
        self.nodes.append(
            helper.make_node("MaxPool", [x[0]], [y[0]], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        )
        return y

    def finish(self, name, y):
        """(program, constants, serialized float model with a symbolic batch)."""
        shape = self.tensors[0][1].shape
        graph = helper.make_graph(
            self.nodes, name, [helper.make_tensor_value_info("x", 1, ["N", *shape[1:]])],
            [helper.make_tensor_value_info(y[0], 1, ["N", *y[1][1:]])], self.weights,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 10
        onnx.checker.check_model(model)
        program = Program(
            name=name, platform="720", inputs=("x",), outputs=(y[0],), instructions=tuple(self.instructions),
            tensors=tuple(self.tensors),
        )  # fmt: skip
        return program, self.constants, model.SerializeToString()


def mobilenet_v2(**widths):
    net = Network(**widths)
    y = net.conv(net.input(1, 3, 224, 224), 32, 3, 2, act="clip")
    for expand, outputs, repeats, stride in MOBILENET_V2:
        for k in range(repeats):
            x, channels = y, y[1][1]
            if expand > 1:
                y = net.conv(y, channels * expand, 1, act="clip")
            y = net.conv(y, y[1][1], 3, stride if k == 0 else 1, y[1][1], act="clip")
            y = net.conv(y, outputs, 1)
            if x[1] == y[1]:
                y = net.add(y, x)
    y = net.mean(net.conv(y, 1280, 1, act="clip"))
    return net.finish("mobilenet_v2", net.conv(y, 1000, 1))


def resnet18(**widths):
    net = Network(**widths)
    y = net.max_pool(net.conv(net.input(1, 3, 224, 224), 64, 7, 2, act="relu"))
    for outputs, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        x = y if y[1][1] == outputs else net.conv(y, outputs, 1, stride)
        y = net.add(net.conv(net.conv(y, outputs, 3, stride, act="relu"), outputs, 3), x)
    return net.finish("resnet18", net.conv(net.mean(y), 1000, 1))


def resnet50(**widths):
    net = Network(**widths)
    y = net.max_pool(net.conv(net.input(1, 3, 224, 224), 64, 7, 2, act="relu"))
    for inner, repeats, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(repeats):
            stride = first if k == 0 else 1
            x = net.conv(y, inner * 4, 1, stride) if k == 0 else y
            y = net.conv(net.conv(y, inner, 1, act="relu"), inner, 3, stride, act="relu")
            y = net.add(net.conv(y, inner * 4, 1), x)
    return net.finish("resnet50", net.conv(net.mean(y), 1000, 1))


NETWORKS = {"mobilenet_v2": mobilenet_v2, "resnet18": resnet18, "resnet50": resnet50}
