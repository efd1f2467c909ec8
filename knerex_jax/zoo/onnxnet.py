"""A small builder of ONNX models from arrays: nodes in order, weights by their trained names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
_IR_VERSION = 8  # the IR of opset 17: readable by every ONNX Runtime since 1.12


class NetBuilder:
    """Collects the nodes of one network with a single float32 input and a single output.

    Every method that adds a node returns the name of the tensor it makes, which is then fed to the next one.

    Args:
      weights: trained arrays by name; `batch_norm`, `conv` and `gemm` look theirs up by prefix, in PyTorch's naming
        (`.weight`, `.bias`, `.running_mean`, `.running_var`).
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def node(self, op_type: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds any operator with one output."""
        self._nodes.append(helper.make_node(op_type, list(inputs), [name + ".out"], name=name, **attributes))
        return name + ".out"

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds an initializer, once per name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def conv(self, x: str, prefix: str, *, stride: int = 1, group: int = 1) -> str:
        """Adds a square convolution [N,C,H,W] -> [N,D,H/stride,W/stride], padded by half the odd kernel."""
        kernel = self._weights[prefix + ".weight"].shape[2]
        return self.node(
            "Conv",
            prefix,
            *(x, *self._trained(prefix, "weight", "bias")),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=group,
        )

    def batch_norm(self, x: str, prefix: str) -> str:
        """Adds an unfolded BatchNormalization over the channels of [N,C,H,W]; epsilon is PyTorch's 1e-5."""
        trained = self._trained(prefix, "weight", "bias", "running_mean", "running_var")
        return self.node("BatchNormalization", prefix, x, *trained, epsilon=1e-5)

    def relu6(self, x: str, name: str) -> str:
        """Adds Clip(0, 6)."""
        limits = self.constant("zero", np.array(0, np.float32)), self.constant("six", np.array(6, np.float32))
        return self.node("Clip", name, x, *limits)

    def max_pool(self, x: str, name: str) -> str:
        """Adds a 2x2 maximum with stride 2."""
        return self.node("MaxPool", name, x, kernel_shape=[2, 2], strides=[2, 2])

    def gemm(self, x: str, prefix: str) -> str:
        """Adds a dense layer [N,C] -> [N,D] whose weight is stored [D,C]."""
        return self.node("Gemm", prefix, x, *self._trained(prefix, "weight", "bias"), transB=1)

    def model(self, name: str, input_shape: Sequence[int], output: str, output_shape: Sequence[int]) -> onnx.ModelProto:
        """Closes the network: input `input` [N, *input_shape], output `logits` [N, *output_shape], checked by ONNX.

        Args:
          name: of the graph.
          input_shape: without the batch axis, which is symbolic.
          output: the tensor that becomes `logits`.
          output_shape: without the batch axis.
        """
        last = self._nodes[-1]
        assert list(last.output) == [output], "the output must come from the node added last"
        last.output[0] = "logits"
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *input_shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *output_shape])],
            list(self._constants.values()),
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="knerex_jax")
        onnx.checker.check_model(model, full_check=True)
        return model

    def _trained(self, prefix: str, *parts: str) -> list[str]:
        """Initializers of the parts that exist (a convolution may have no bias)."""
        names = [f"{prefix}.{part}" for part in parts if f"{prefix}.{part}" in self._weights]
        return [self.constant(name, self._weights[name].astype(np.float32)) for name in names]
