"""A small model with every kind of weighted node, for tests of plans, simulation and training."""

from helpers import Net

from knerex_jax.graph.ir import Model


def mixed_net(extent: int = 8, channels: int = 6, group: int = 2) -> Model:
    """Every kind of weighted node, fused and shared activations, a product, a table and a pool."""
    net = Net({"x": (1, 3, extent, extent)})
    a = net.add("Relu", net.conv("x", channels))
    b = net.add("HardSwish", net.batch_norm(net.conv(a, channels, group=channels)))
    joined = net.add("Add", a, b)
    up = net.add(
        "ConvTranspose", joined, net.random(channels, 4 // group, 2, 2, scale=0.3), net.random(4), kernel_shape=(2, 2),
        strides=(2, 2), dilations=(1, 1), pads=(0,) * 4, group=group, output_padding=(0, 0),
    )  # fmt: skip
    gate = net.add("Sigmoid", up)
    pooled = net.add("GlobalAveragePool", net.add("Mul", up, gate))
    flat = net.add("Flatten", pooled)
    return net.model(net.add("Gemm", flat, net.random(4, 5), net.random(5)))
