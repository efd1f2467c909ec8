"""Small networks with every kind of instruction, to compile and simulate."""

from helpers import Net

ROOMY = 1 << 20
TABLE = 65_536
"""Bytes of a table of 15-bit codes, which is never divided."""


def backbone(table: bool) -> tuple[Net, tuple[str, ...]]:
    """Convolutions of every kind, pooling, a sum, a gate."""
    net = Net({"x": (1, 3, 18, 22)})
    x = net.add("LeakyRelu", net.conv("x", 20, kernel=3, stride=2), alpha=0.1)
    pool = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1), "ceil_mode": 0}
    x = net.add("MaxPool", x, **pool)
    y = net.add("HardSwish", net.conv(x, 20, kernel=3, group=20))
    y = net.conv(y, 40, kernel=1, group=4)
    z = net.add("Add", y, net.conv(x, 40, kernel=1))
    gate = net.conv(net.add("GlobalAveragePool", z), 40, kernel=1)
    return net, (net.add("Mul", z, net.add("Sigmoid", gate) if table else gate), net.batch_norm(x))


def tail() -> tuple[Net, tuple[str, ...]]:
    """Transposed convolution, resizing, joining, and a softmax over a matrix product."""
    net = Net({"a": (1, 6, 8, 10), "b": (1, 18, 8, 10)}, seed=1)
    up = net.add(
        "ConvTranspose", "a", net.random(6, 18, 3, 3, scale=0.3), kernel_shape=(3, 3), strides=(2, 2), dilations=(1, 1),
        pads=(1, 1, 0, 0), output_padding=(0, 0), group=1,
    )  # fmt: skip
    big = net.add("Resize", "b", sizes=(1, 18, 16, 20), mode="linear")
    joined = net.add("Concat", up, net.add("Relu", big), axis=1)
    rows = net.add("Transpose", net.add("Reshape", joined, shape=(1, 36, 320)), perm=(0, 2, 1))
    seen = net.add("Softmax", net.add("MatMul", rows, net.add("Transpose", rows, perm=(0, 2, 1))), axis=-1)
    return net, (net.add("MatMul", seen, rows),)
