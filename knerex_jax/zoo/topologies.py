"""ONNX builders for the two public networks whose weights come without a graph."""

from collections.abc import Mapping

import numpy as np
import onnx

from knerex_jax.zoo.onnxnet import NetBuilder

# expansion, output channels, repeats, stride of the first repeat; source: Sandler et al., MobileNetV2, table 2
_MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Builds MobileNetV2 1.0 for 224x224 images: `input` [N,3,224,224] -> `logits` [N,1000].

    Batch normalization stays a node of its own and ReLU6 is a Clip, as exporters write them in training-near form.

    Args:
      weights: state dict in the naming of torchvision's `mobilenet_v2`.
    """
    net = NetBuilder(weights)
    x = _conv_norm_relu6(net, "input", "features.0", stride=2)
    channels, index = 32, 1
    for expansion, width, repeats, first_stride in _MOBILENET_V2_STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            x = _inverted_residual(net, x, f"features.{index}", channels, width, expansion, stride)
            channels, index = width, index + 1
    x = _conv_norm_relu6(net, x, f"features.{index}")
    x = net.node("GlobalAveragePool", "pool", x)
    x = net.node("Flatten", "flatten", x, axis=1)
    return net.model("mobilenet_v2", (3, 224, 224), net.gemm(x, "classifier.1"), (1000,))


def _conv_norm_relu6(net: NetBuilder, x: str, prefix: str, *, stride: int = 1, group: int = 1) -> str:
    x = net.batch_norm(net.conv(x, prefix + ".0", stride=stride, group=group), prefix + ".1")
    return net.relu6(x, prefix + ".2")


def _inverted_residual(
    net: NetBuilder, x: str, prefix: str, channels: int, width: int, expansion: int, stride: int
) -> str:
    """Widen by 1x1, filter depthwise, narrow by 1x1 without activation; add the input where the shapes agree."""
    y, layer, hidden = x, 0, channels * expansion
    if expansion != 1:
        y = _conv_norm_relu6(net, y, f"{prefix}.conv.0")
        layer = 1
    y = _conv_norm_relu6(net, y, f"{prefix}.conv.{layer}", stride=stride, group=hidden)
    y = net.batch_norm(net.conv(y, f"{prefix}.conv.{layer + 1}"), f"{prefix}.conv.{layer + 2}")
    if stride == 1 and channels == width:
        y = net.node("Add", f"{prefix}.add", x, y)
    return y


def digit_cnn(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Builds the digit classifier of digit-recognizer-py: `input` [N,1,28,28] -> `logits` [N,10].

    Three 3x3 convolutions with ReLU and 2x2 pooling, then two dense layers.

    Args:
      weights: its state dict (`conv_layers.*`, `fc_layers.*`).
    """
    net = NetBuilder(weights)
    x = "input"
    for index in (0, 3, 6):
        x = net.conv(x, f"conv_layers.{index}")
        x = net.node("Relu", f"conv_layers.{index + 1}", x)
        x = net.max_pool(x, f"conv_layers.{index + 2}")
    x = net.node("Flatten", "flatten", x, axis=1)
    x = net.node("Relu", "fc_layers.1", net.gemm(x, "fc_layers.0"))
    return net.model("digit_cnn", (1, 28, 28), net.gemm(x, "fc_layers.2"), (10,))
