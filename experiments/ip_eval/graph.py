"""A builder of networks with random weights, which only their shapes matter of."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Net:
    """Collects nodes; every method returns the tensor that its node makes.

    A batch normalisation behind a convolution is the convolution's bias here, as every compiler folds it.

    Attributes:
      channels: of every tensor [1, C, H, W].
    """

    def __init__(self, name: str, height: int, width: int, channels: int = 3) -> None:
        self.name = name
        self.channels = {"image": channels}
        self._inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, height, width])]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def node(self, op: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        """Any operator with one output; it has as many channels as its first input, unless another number is given."""
        made = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [made], name=made, **attributes))
        self.channels[made] = self.channels[inputs[0]] if channels is None else channels
        return made

    def constant(self, value: np.ndarray) -> str:
        """An initializer."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int) -> str:
        """Random weights of a size that keeps the variance."""
        values = self._random.standard_normal(shape, np.float32) / np.float32(np.sqrt(max(np.prod(shape[1:]), 1)))
        return self.constant(values)

    def conv(
        self, x: str, out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, *, act: str | None = "Relu",
        group: int = 1, pad: bool = True, **attributes: Any,
    ) -> str:  # fmt: skip
        """A convolution with bias, padded to keep the size (or not at all), and what follows it."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = [kh // 2, kw // 2, (kh - 1) // 2, (kw - 1) // 2] if pad else [0] * 4
        weight = self.weight(out, self.channels[x] // group, kh, kw)
        y = self.node(
            "Conv", x, weight, self.weight(out), channels=out, kernel_shape=[kh, kw], strides=[stride] * 2, pads=pads,
            group=group,
        )  # fmt: skip
        return self.act(y, act, **attributes)

    def depthwise(self, x: str, kernel: int = 3, stride: int = 1, *, act: str | None = "Relu") -> str:
        """A convolution of every channel alone."""
        return self.conv(x, self.channels[x], kernel, stride, act=act, group=self.channels[x])

    def up(self, x: str, out: int, kernel: int, stride: int, *, act: str | None = "Relu") -> str:
        """A transposed convolution that multiplies the size by its stride."""
        pad = (kernel - stride) // 2
        y = self.node(
            "ConvTranspose", x, self.weight(self.channels[x], out, kernel, kernel), self.weight(out), channels=out,
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
        )  # fmt: skip
        return self.act(y, act)

    def act(self, x: str, kind: str | None, **attributes: Any) -> str:
        """An activation by its ONNX name; "Relu6", "Swish" or None, too."""
        if kind is None:
            return x
        if kind == "Relu6":
            return self.node("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))
        if kind == "Swish":
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node(kind, x, **attributes)

    def pool(self, x: str, kernel: int, stride: int, *, kind: str = "MaxPool", pads: tuple[int, ...] = (0,) * 4) -> str:
        """A pooling."""
        return self.node(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=list(pads))

    def global_pool(self, x: str) -> str:
        """The mean of every channel."""
        return self.node("GlobalAveragePool", x)

    def concat(self, *xs: str, axis: int = 1) -> str:
        """Side by side in the channels."""
        return self.node("Concat", *xs, channels=sum(self.channels[x] for x in xs), axis=axis)

    def add(self, *xs: str) -> str:
        """The sum."""
        total = xs[0]
        for x in xs[1:]:
            total = self.node("Add", total, x)
        return total

    def nearest(self, x: str, factor: int) -> str:
        """Every position repeated."""
        scales = self.constant(np.asarray([1, 1, factor, factor], np.float32))
        return self.node(
            "Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def dense(self, x: str, out: int) -> str:
        """Flattened, and a matrix product."""
        channels = self.channels[x]
        flat = self.node("Flatten", x)
        return self.node("Gemm", flat, self.weight(out, channels), self.weight(out), channels=out, transB=1)

    def split(self, x: str, *sizes: int) -> list[str]:
        """Channels in pieces."""
        names = [f"split_{len(self._nodes)}_{k}" for k in range(len(sizes))]
        lengths = self.constant(np.asarray(sizes, np.int64))
        self._nodes.append(helper.make_node("Split", [x, lengths], names, name=names[0], axis=1))
        self.channels |= dict(zip(names, sizes, strict=True))
        return names

    def reshape(self, x: str, *shape: int, channels: int) -> str:
        """Another shape of the same elements."""
        return self.node("Reshape", x, self.constant(np.asarray(shape, np.int64)), channels=channels)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The network as ONNX, with its shapes."""
        outs = [helper.make_empty_tensor_value_info(t) for t in outputs]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, outs, self._constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
