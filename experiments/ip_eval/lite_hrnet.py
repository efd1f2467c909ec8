"""Lite-HRNet-18 (Yu et al. 2021): shuffle blocks whose 1 x 1 convolutions are replaced by computed weights."""

import onnx
from graph import Net

WIDTHS = (40, 80, 160, 320)


def lite_hrnet() -> onnx.ModelProto:
    """Stem, three stages of 2, 4 and 2 modules with 2, 3 and 4 resolutions, head; 256 x 192, 17 joints."""
    net = Net("lite_hrnet", 256, 192)
    size = (64, 48)
    x = _stem(net)
    branches = [net.conv(net.depthwise(x, 3, act=None), WIDTHS[0])]
    for stage, modules in enumerate((2, 4, 2)):
        last = branches[-1]
        branches.append(net.conv(net.depthwise(last, 3, 2, act=None), WIDTHS[stage + 1]))
        for _ in range(modules):
            for _ in range(2):
                branches = _weighted_block(net, branches, size)
            branches = _fused(net, branches)
    return net.model(net.conv(_head(net, branches), 17, act=None))


def _shuffled(net: Net, x: str, height: int, width: int) -> str:
    """Channels of two groups, one by one."""
    channels = net.channels[x]
    y = net.reshape(x, 1, 2, channels // 2, height, width, channels=channels)
    y = net.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    return net.reshape(y, 1, channels, height, width, channels=channels)


def _stem(net: Net) -> str:
    """From 256 x 192 to 64 x 48, 32 channels."""
    x = net.conv("image", 32, 3, 2)
    kept, moved = net.split(x, 16, 16)
    left = net.conv(net.depthwise(kept, 3, 2, act=None), 16)
    right = net.conv(net.depthwise(net.conv(moved, 32), 3, 2, act=None), 16)
    return _shuffled(net, net.concat(left, right), 64, 48)


def _weighted_block(net: Net, branches: list[str], size: tuple[int, int]) -> list[str]:
    """Conditional channel weighting: half of every branch is weighted by all branches, filtered, and weighted again."""
    halves = [net.split(x, net.channels[x] // 2, net.channels[x] // 2) for x in branches]
    last = len(branches) - 1
    pooled = [
        b if k == last else net.pool(b, 1 << (last - k), 1 << (last - k), kind="AveragePool")
        for k, (_, b) in enumerate(halves)
    ]
    joined = net.concat(*pooled)
    total = net.channels[joined]
    scores = net.conv(net.conv(joined, total // 8), total, act="Sigmoid")
    weights = net.split(scores, *(net.channels[p] for p in pooled))
    made = []
    for k, ((left, right), weight) in enumerate(zip(halves, weights, strict=True)):
        spread = weight if k == last else net.nearest(weight, 1 << (last - k))
        y = net.depthwise(net.node("Mul", right, spread), 3, act=None)
        gate = net.conv(net.conv(net.global_pool(y), max(net.channels[y] // 4, 1)), net.channels[y], act="Sigmoid")
        y = net.concat(left, net.node("Mul", y, gate))
        made.append(_shuffled(net, y, size[0] >> k, size[1] >> k))
    return made


def _fused(net: Net, branches: list[str]) -> list[str]:
    """Every branch becomes the sum of all, brought to its size and width."""
    made = []
    for i, target in enumerate(branches):
        parts = []
        for j, x in enumerate(branches):
            y = x
            if j > i:
                y = net.nearest(net.conv(x, net.channels[target], act=None), 1 << (j - i))
            for step in range(i - j):
                out = net.channels[target] if step == i - j - 1 else net.channels[x]
                y = net.conv(net.depthwise(y, 3, 2, act=None), out, act=None if step == i - j - 1 else "Relu")
            parts.append(y)
        made.append(net.act(net.add(*parts), "Relu"))
    return made


def _head(net: Net, branches: list[str]) -> str:
    """From the smallest to the largest: filtered, doubled, added."""
    x = None
    for k in range(len(branches) - 1, -1, -1):
        y = branches[k] if x is None else net.add(branches[k], net.nearest(x, 2))
        width = net.channels[branches[max(k - 1, 0)]]
        x = net.conv(net.depthwise(y, 3, act=None), width)
    assert x is not None
    return x
