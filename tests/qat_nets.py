"""A small model with every kind of node that training has a rule for, and its plans."""

import numpy as np
from helpers import Net, samples
from planning import EVERY_CHANNEL, exact_ranges

from knerex_jax.graph.ir import Model
from knerex_jax.quantize.bitwidth import WidthRequest
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.targets import TARGETS

CASES = {
    "720 int8": ("720", WidthRequest()),
    "730 w4a8": ("730", WidthRequest(weights=4)),
    "720 int16": ("720", WidthRequest(15, 15, 15, 15)),
    "520 int8": ("520", WidthRequest()),
}
COUNT = 24


def mixed_net() -> Model:
    """Every kind of weighted node, fused and shared activations, a product, a table and a pool."""
    net = Net({"x": (1, 3, 8, 8)})
    a = net.add("Relu", net.conv("x", 6))
    b = net.add("HardSwish", net.batch_norm(net.conv(a, 6, group=6)))
    joined = net.add("Add", a, b)
    up = net.add(
        "ConvTranspose", joined, net.random(6, 2, 2, 2, scale=0.3), net.random(4), kernel_shape=(2, 2), strides=(2, 2),
        dilations=(1, 1), pads=(0,) * 4, group=2, output_padding=(0, 0),
    )  # fmt: skip
    gate = net.add("Sigmoid", up)
    pooled = net.add("GlobalAveragePool", net.add("Mul", up, gate))
    flat = net.add("Flatten", pooled)
    return net.model(net.add("Gemm", flat, net.random(4, 5), net.random(5)))


def planned_case(name: str) -> tuple[Planned, dict[str, np.ndarray]]:
    """A plan of `mixed_net`, and samples."""
    model = mixed_net()
    inputs = samples(model, COUNT)
    platform, request = CASES[name]
    ranges = exact_ranges(model, inputs, platform)
    return plan_model(model, ranges, request, TARGETS[platform], policy=EVERY_CHANNEL), inputs
