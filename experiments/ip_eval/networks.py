"""The networks of the published table, from their public definitions, with random weights.

Fixed before anything was fitted. Where the table leaves something open, the choice and its reason stand at the network.
"""

from collections.abc import Callable

import onnx
from graph import Net


def inception_v4() -> onnx.ModelProto:
    """Szegedy et al. 2016, figures 3 to 9; 299 x 299."""
    net = Net("inception_v4", 299, 299)
    conv = net.conv

    def valid(x: str, out: int, kernel: int, stride: int = 1) -> str:
        return conv(x, out, kernel, stride, pad=False)

    x = conv(valid(valid("image", 32, 3, 2), 32, 3), 64, 3)
    x = net.concat(net.pool(x, 3, 2), valid(x, 96, 3, 2))
    left = valid(conv(x, 64), 96, 3)
    right = valid(conv(conv(conv(x, 64), 64, (7, 1)), 64, (1, 7)), 96, 3)
    x = net.concat(left, right)
    x = net.concat(valid(x, 192, 3, 2), net.pool(x, 3, 2))

    def mean(x: str) -> str:
        return net.pool(x, 3, 1, kind="AveragePool", pads=(1,) * 4)

    for _ in range(4):
        x = net.concat(conv(mean(x), 96), conv(x, 96), conv(conv(x, 64), 96, 3), conv(conv(conv(x, 64), 96, 3), 96, 3))
    x = net.concat(net.pool(x, 3, 2), valid(x, 384, 3, 2), valid(conv(conv(x, 192), 224, 3), 256, 3, 2))
    for _ in range(7):
        long = conv(conv(conv(conv(conv(x, 192), 192, (1, 7)), 224, (7, 1)), 224, (1, 7)), 256, (7, 1))
        x = net.concat(conv(mean(x), 128), conv(x, 384), conv(conv(conv(x, 192), 224, (1, 7)), 256, (7, 1)), long)
    long = valid(conv(conv(conv(x, 256), 256, (1, 7)), 320, (7, 1)), 320, 3, 2)
    x = net.concat(net.pool(x, 3, 2), valid(conv(x, 192), 192, 3, 2), long)
    for _ in range(3):
        a, b = conv(x, 384), conv(conv(conv(x, 384), 448, (1, 3)), 512, (3, 1))
        x = net.concat(
            conv(mean(x), 256), conv(x, 256), conv(a, 256, (1, 3)), conv(a, 256, (3, 1)), conv(b, 256, (3, 1)),
            conv(b, 256, (1, 3)),
        )  # fmt: skip
    return net.model(net.dense(net.global_pool(x), 1000))


def mobilenet_v1() -> onnx.ModelProto:
    """Howard et al. 2017, table 1; width 1.0, 224 x 224."""
    net = Net("mobilenet_v1", 224, 224)
    x = net.conv("image", 32, 3, 2)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for out, stride in plan:
        x = net.conv(net.depthwise(x, 3, stride), out)
    return net.model(net.dense(net.global_pool(x), 1000))


V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _inverted(net: Net, x: str, expansion: int, out: int, stride: int) -> tuple[str, str]:
    """An inverted residual, and its widened tensor."""
    wide = x if expansion == 1 else net.conv(x, net.channels[x] * expansion, act="Relu6")
    y = net.conv(net.depthwise(wide, 3, stride, act="Relu6"), out, act=None)
    return (net.add(x, y) if stride == 1 and net.channels[x] == out else y), wide


def mobilenet_v2() -> onnx.ModelProto:
    """Sandler et al. 2018, table 2; width 1.0, 224 x 224."""
    net = Net("mobilenet_v2", 224, 224)
    x = net.conv("image", 32, 3, 2, act="Relu6")
    for expansion, out, count, stride in V2_STAGES:
        for k in range(count):
            x, _ = _inverted(net, x, expansion, out, stride if k == 0 else 1)
    return net.model(net.dense(net.global_pool(net.conv(x, 1280, act="Relu6")), 1000))


def mobilenet_v2_ssdlite() -> onnx.ModelProto:
    """Sandler et al. 2018, section 6.2, with the six scales of the TensorFlow model zoo; 300 x 300, 91 classes.

    The scales' outputs stay apart; decoding the boxes is post-processing.
    """
    net = Net("mobilenet_v2_ssdlite", 300, 300)
    x, scales = net.conv("image", 32, 3, 2, act="Relu6"), []
    for stage, (expansion, out, count, stride) in enumerate(V2_STAGES):
        for k in range(count):
            x, wide = _inverted(net, x, expansion, out, stride if k == 0 else 1)
            if stage == 5 and k == 0:
                scales.append(wide)
    scales.append(net.conv(x, 1280, act="Relu6"))
    for out in (512, 256, 256, 128):
        y = net.depthwise(net.conv(scales[-1], out // 2, act="Relu6"), 3, 2, act="Relu6")
        scales.append(net.conv(y, out, act="Relu6"))
    heads = []
    for k, x in enumerate(scales):
        anchors = 3 if k == 0 else 6
        heads += [net.conv(net.depthwise(x, 3, act="Relu6"), anchors * n, act=None) for n in (4, 91)]
    return net.model(*heads)


def openpose() -> onnx.ModelProto:
    """Cao et al. 2017 with the COCO body model: VGG-19 to conv4_2, six stages of two branches; 256 x 256."""
    net = Net("openpose", 256, 256)
    x = "image"
    for width, count, pooled in ((64, 2, True), (128, 2, True), (256, 4, True), (512, 2, False)):
        for _ in range(count):
            x = net.conv(x, width, 3)
        x = net.pool(x, 2, 2) if pooled else x
    features = net.conv(net.conv(x, 256, 3), 128, 3)
    x = features
    for stage in range(6):
        made = []
        for out in (38, 19):
            y = x
            for kernel, width in [(3, 128)] * 3 + [(1, 512)] if stage == 0 else [(7, 128)] * 5 + [(1, 128)]:
                y = net.conv(y, width, kernel)
            made.append(net.conv(y, out, act=None))
        x = net.concat(*made, features)
    return net.model(*made)


def srcnn() -> onnx.ModelProto:
    """Dong et al. 2014, the 9-1-5 network on luminance; 384 x 384.

    Its variant 9-5-5 has more products than the 530 can do in the published time, so it is not that one.
    """
    net = Net("srcnn", 384, 384, channels=1)
    return net.model(net.conv(net.conv(net.conv("image", 64, 9), 32), 1, 5, act=None))


def _leaky(net: Net, x: str, out: int, kernel: int = 1, stride: int = 1) -> str:
    return net.conv(x, out, kernel, stride, act="LeakyRelu", alpha=0.1)


def tiny_yolo_v3() -> onnx.ModelProto:
    """Redmon and Farhadi 2018, yolov3-tiny.cfg; 416 x 416, 80 classes, two scales."""
    net = Net("tiny_yolo_v3", 416, 416)
    x = "image"
    for out in (16, 32, 64, 128):
        x = net.pool(_leaky(net, x, out, 3), 2, 2)
    route = _leaky(net, x, 256, 3)
    x = _leaky(net, net.pool(route, 2, 2), 512, 3)
    x = net.pool(x, 2, 1, pads=(0, 0, 1, 1))
    x = _leaky(net, _leaky(net, x, 1024, 3), 256)
    large = net.conv(_leaky(net, x, 512, 3), 255, act=None)
    up = net.nearest(_leaky(net, x, 128), 2)
    return net.model(large, net.conv(_leaky(net, net.concat(up, route), 256, 3), 255, act=None))


def yolo_v3() -> onnx.ModelProto:
    """Redmon and Farhadi 2018, yolov3.cfg; 416 x 416, 80 classes, three scales."""
    net = Net("yolo_v3", 416, 416)
    x, kept = _leaky(net, "image", 32, 3), []
    for out, count in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        x = _leaky(net, x, out, 3, 2)
        for _ in range(count):
            x = net.add(x, _leaky(net, _leaky(net, x, out // 2), out, 3))
        kept.append(x)
    outputs, before = [], None
    for out, x in zip((512, 256, 128), kept[:1:-1], strict=True):
        if before is not None:
            x = net.concat(net.nearest(_leaky(net, before, out), 2), x)
        for _ in range(2):
            x = _leaky(net, _leaky(net, x, out), out * 2, 3)
        before = _leaky(net, x, out)
        outputs.append(net.conv(_leaky(net, before, out * 2, 3), 255, act=None))
    return net.model(*outputs)


def _bottlenecks(net: Net, x: str, counts: tuple[int, ...]) -> str:
    """The residual stages of a ResNet with bottlenecks (He et al. 2015), the stride at the 3 x 3."""
    for stage, count in enumerate(counts):
        width = 64 << stage
        for k in range(count):
            stride = 2 if stage and k == 0 else 1
            y = net.conv(net.conv(net.conv(x, width), width, 3, stride), width * 4, act=None)
            short = net.conv(x, width * 4, 1, stride, act=None) if k == 0 else x
            x = net.act(net.add(y, short), "Relu")
    return x


def _resnet_stem(net: Net) -> str:
    return net.pool(net.conv("image", 64, 7, 2), 3, 2, pads=(1,) * 4)


def centernet_res101() -> onnx.ModelProto:
    """Zhou et al. 2019 with ResNet-101, three transposed convolutions 4 x 4 and three heads of 64; 512 x 512.

    The table's rows "CenterNet" and "Centernet res101" have the same figures on 530, so they are one network.
    """
    net = Net("centernet_res101", 512, 512)
    x = _bottlenecks(net, _resnet_stem(net), (3, 4, 23, 3))
    for _ in range(3):
        x = net.up(x, 256, 4, 2)
    return net.model(*(net.conv(net.conv(x, 64, 3), out, act=None) for out in (80, 2, 2)))


def unet() -> onnx.ModelProto:
    """Ronneberger et al. 2015 with padding: 64 to 1024 channels, transposed convolutions 2 x 2; 384 x 384, one class.

    The original's convolutions shrink the picture, which ends at none of the published sizes.
    """
    net = Net("unet", 384, 384)
    x, kept = "image", []
    for width in (64, 128, 256, 512):
        kept.append(net.conv(net.conv(x, width, 3), width, 3))
        x = net.pool(kept[-1], 2, 2)
    x = net.conv(net.conv(x, 1024, 3), 1024, 3)
    for width, skip in zip((512, 256, 128, 64), kept[::-1], strict=True):
        x = net.concat(skip, net.up(x, width, 2, 2, act=None))
        x = net.conv(net.conv(x, width, 3), width, 3)
    return net.model(net.conv(x, 1, act=None))


def lite_hrnet() -> onnx.ModelProto:
    """Yu et al. 2021, Lite-HRNet-18 (the smaller of the two); 256 x 192, 17 joints."""
    from lite_hrnet import lite_hrnet as built

    return built()


def resnet18() -> onnx.ModelProto:
    """He et al. 2015; 224 x 224."""
    net = Net("resnet18", 224, 224)
    x = _resnet_stem(net)
    for stage in range(4):
        width = 64 << stage
        for k in range(2):
            stride = 2 if stage and k == 0 else 1
            y = net.conv(net.conv(x, width, 3, stride), width, 3, act=None)
            x = net.act(net.add(y, net.conv(x, width, 1, stride, act=None) if stride == 2 else x), "Relu")
    return net.model(net.dense(net.global_pool(x), 1000))


def resnet50() -> onnx.ModelProto:
    """He et al. 2015; 224 x 224."""
    net = Net("resnet50", 224, 224)
    x = _bottlenecks(net, _resnet_stem(net), (3, 4, 6, 3))
    return net.model(net.dense(net.global_pool(x), 1000))


def efficientnet_b0() -> onnx.ModelProto:
    """Tan and Le 2019, table 1, with squeeze and excitation; 224 x 224."""
    net = Net("efficientnet_b0", 224, 224)
    x = net.conv("image", 32, 3, 2, act="Swish")
    plan = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
    for expansion, out, count, first, kernel in plan:
        for k in range(count):
            stride, narrow = first if k == 0 else 1, net.channels[x]
            y = x if expansion == 1 else net.conv(x, narrow * expansion, act="Swish")
            y = net.depthwise(y, kernel, stride, act="Swish")
            gate = net.conv(net.global_pool(y), max(narrow // 4, 1), act="Swish")
            y = net.node("Mul", y, net.conv(gate, net.channels[y], act="Sigmoid"))
            y = net.conv(y, out, act=None)
            x = net.add(x, y) if stride == 1 and narrow == out else y
    return net.model(net.dense(net.global_pool(net.conv(x, 1280, act="Swish")), 1000))


TABLE: dict[str, Callable[[], onnx.ModelProto]] = {
    "Inception v4": inception_v4,
    "Mobilenet v1": mobilenet_v1,
    "Mobilenet v2": mobilenet_v2,
    "Mobilenet v2 ssdlite": mobilenet_v2_ssdlite,
    "OpenPose": openpose,
    "SRCNN": srcnn,
    "Tiny YOLOv3": tiny_yolo_v3,
    "YOLOv3": yolo_v3,
    "Centernet res101": centernet_res101,
    "Unet": unet,
    "Lite-HRNet": lite_hrnet,
}
"""Name in the published table -> network."""

OTHERS = {"ResNet-18": resnet18, "ResNet-50": resnet50, "EfficientNet-B0": efficientnet_b0}
"""Published elsewhere, and never fitted: what the fit is worth on networks that it has not seen."""
