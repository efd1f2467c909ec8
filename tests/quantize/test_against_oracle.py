"""Whole small networks: every code of every tensor equals the independent oracle's."""

import pytest
from helpers import Net, samples
from planning import fixed_model, plan
from real_models import oracle_mismatches

from knerex_jax.graph.ir import Model

CASES = [("720", "int8"), ("720", "w8a16"), ("720", "int16"), ("520", "int8"), ("730", "int8")]


def residual() -> Model:
    net = Net({"x": (1, 3, 12, 12)})
    a = net.add("Clip", net.conv("x", 8), min=0.0, max=6.0)
    b = net.add("Relu", net.conv(a, 8, group=8))
    c = net.add("Add", a, net.conv(b, 8, 1))
    return net.model(net.add("Relu", c), c)


def concatenated() -> Model:
    net = Net({"x": (1, 4, 10, 10)}, seed=1)
    a = net.add("LeakyRelu", net.conv("x", 6), alpha=0.1)
    b = net.add("MaxPool", a, kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1))
    c = net.add("Concat", a, b, "x", axis=1)
    d = net.add("Relu", net.batch_norm(c))
    e = net.add("AveragePool", d, kernel_shape=(3, 3), strides=(2, 2), dilations=(1, 1), pads=(1, 1, 1, 1))
    return net.model(net.add("Concat", e, e, axis=2))


def classifier() -> Model:
    net = Net({"x": (1, 2, 9, 9)}, seed=2)
    a = net.add("PRelu", net.conv("x", 6, stride=2), net.constant(net.rng.uniform(-1.5, 1.5, (6, 1, 1))))
    pooled = net.add("Reshape", net.add("GlobalAveragePool", a), shape=(1, 6))
    logits = net.add("Gemm", pooled, net.random(6, 5), net.random(5))
    shifted = net.add("Sub", logits, net.add("ReduceMax", logits, axes=(1,)))
    exp = net.add("Exp", shifted)
    inverse = net.add("Reciprocal", net.add("ReduceSum", exp, axes=(1,)))
    return net.model(net.add("Mul", exp, inverse), net.add("Sigmoid", logits))


def moved() -> Model:
    net = Net({"x": (1, 6, 6, 4)}, seed=3)
    a = net.conv(net.add("Transpose", "x", perm=(0, 3, 1, 2)), 6)
    b = net.add("Pad", a, pads=(0, 2, 0, 0, 0, 0, 1, 1))
    c = net.add("Slice", b, starts=(0, 6), ends=(6, -7), axes=(1, 3), steps=(1, -1))
    d = net.add("Reshape", net.add("Transpose", c, perm=(0, 2, 3, 1)), shape=(1, -1, 3))
    return net.model(d, c)


def several_images() -> Model:
    """Windows of a feature map side by side on axis 0."""
    net = Net({"x": (1, 4, 6, 8)}, seed=6)
    windows = net.add("Reshape", "x", shape=(2, 4, 6, 4))
    a = net.add("Relu", net.conv(windows, 6, group=2))
    b = net.add(
        "MaxPool", net.conv(a, 6, group=6), kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4
    )
    attrs = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (1,) * 4, "group": 2}
    up = net.add("ConvTranspose", b, net.random(6, 3, 3, 3), net.random(6), **attrs, output_padding=(1, 1))
    return net.model(net.add("Reshape", net.add("Add", up, a), shape=(1, 12, 6, 4)), net.add("GlobalAveragePool", b))


@pytest.mark.parametrize(("platform", "width"), CASES)
@pytest.mark.parametrize("build", [residual, concatenated, classifier, moved, several_images])
def test_every_tensor_equals_the_oracle(build, platform, width):
    model = build()
    planned = plan(model, samples(model, 8), platform, width)
    # Twice the calibrated range: saturation has to agree as well.
    evaluation = samples(model, 4, seed=5, scale=2.0)
    assert oracle_mismatches(planned, fixed_model(planned), evaluation) == []


def test_rescale_slots_equal_the_oracle_and_are_kept():
    net = Net({"x": (1, 3, 8, 8)}, seed=4)
    weight, bias = net.random(4, 3, 1, 1), net.random(4, scale=0.0)
    net.constants[weight][:] *= [[[[1]]], [[[30]]], [[[1]]], [[[30]]]]
    geometry = dict(kernel_shape=(1, 1), strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), group=1)
    small = net.add("Conv", "x", weight, bias, **geometry)
    flipped = net.constant(net.constants[weight][::-1].copy() * 30)
    large = net.add("Conv", "x", flipped, bias, **geometry)
    total = net.add("Add", small, large)
    model = net.model(net.conv(small, 4), net.conv(total, 4))
    inputs = samples(model, 8)
    planned = plan(model, inputs, "520")
    assert planned.plan.rescales, "different channel profiles need a rescale on 520"
    assert oracle_mismatches(planned, fixed_model(planned), inputs) == []
    again = plan(model, {t: 1.7 * a for t, a in inputs.items()}, "520")
    assert again.slots == planned.slots
    assert plan(model, inputs, "720").plan.rescales == ()
