"""mac: every kind of it, every fused activation, weights and accumulators that saturate."""

import numpy as np
from helpers import Net
from hypothesis import given
from hypothesis import strategies as st
from property.corners import Corner, assert_exact, corners, few

from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.structure import analyse

ACTIVATIONS = ("none", "Relu", "Clip", "LeakyRelu", "PRelu")


def random_weight(net: Net, *shape: int) -> str:
    """Weights of very different size by output channel (axis 0); some channels hold one magnitude, some zeros."""
    rng = net.rng
    size = np.exp2(rng.uniform(-20, 3, (shape[0], *[1] * (len(shape) - 1))))
    normal, equal = rng.normal(size=shape), rng.choice([-1.0, 1.0], shape)
    kind = rng.choice(3, size.shape, p=[0.5, 0.4, 0.1])
    return net.constant(size * np.choose(kind, [normal, equal, 0 * equal]))


def random_bias(net: Net, size: int) -> str:
    return net.constant(net.rng.normal(size=size) * np.exp2(net.rng.uniform(-20, 20, size)))


def behind(net: Net, y: str, activation: str) -> str:
    """The activation that the mac takes in."""
    rng, rank = net.rng, len(net.types[y].shape)
    if activation == "Clip":
        low, high = np.sort(rng.normal(size=2) * np.exp2(rng.uniform(-8, 8)))
        return net.add("Clip", y, min=float(np.float32(low)), max=float(np.float32(high)))
    if activation == "LeakyRelu":
        return net.add("LeakyRelu", y, alpha=float(np.float32(rng.normal() * np.exp2(rng.uniform(-10, 3)))))
    if activation == "PRelu":
        slopes = rng.normal(size=net.types[y].shape[1]) * np.exp2(rng.uniform(-10, 3))
        return net.add("PRelu", y, net.constant(slopes.reshape(-1, *[1] * (rank - 2))))
    return y if activation == "none" else net.add(activation, y)


@few(10)
@given(st.data(), corners(), st.sampled_from(ACTIVATIONS))
def test_conv(data: st.DataObject, corner: Corner, activation: str):
    group = data.draw(st.sampled_from((1, 2, 4)))
    kernel = data.draw(st.sampled_from(((1, 1), (3, 3), (2, 3))))
    strides, dilations = data.draw(st.sampled_from((((1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (1, 2)))))
    pads = data.draw(st.sampled_from(((0, 0, 0, 0), (1, 0, 2, 1))))
    net = Net({"x": (1, 4, 6, 7)}, seed=corner.seed)
    z = net.batch_norm("x")
    weight = random_weight(net, 8, 4 // group, *kernel)
    y = net.add(
        "Conv", z, weight, random_bias(net, 8), kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads,
        group=group,
    )  # fmt: skip
    assert_exact(net.model(net.batch_norm(behind(net, y, activation))), corner)


@few(5)
@given(corners(), st.sampled_from(ACTIVATIONS), st.booleans())
def test_dense(corner: Corner, activation: str, batched: bool):
    """Gemm, and MatMul of rows; transposed, so that the summed axis has channels."""
    net = Net({"x": (1, 5, 3)}, seed=corner.seed)
    z = net.batch_norm("x")
    if batched:
        rows = net.add("Transpose", z, perm=(0, 2, 1))
        weight = net.constant(net.constants[random_weight(net, 6, 5)].T.copy())
        y = net.add("MatMul", rows, weight)
        activation = "none" if activation == "PRelu" else activation
        assert_exact(net.model(behind(net, y, activation)), corner)
    else:
        column = net.add("Reshape", net.add("ReduceMax", z, axes=(2,)), shape=(1, 5))
        y = net.add("Gemm", column, random_weight(net, 6, 5), random_bias(net, 6), transB=1)
        assert_exact(net.model(net.batch_norm(behind(net, y, activation))), corner)


@few(4)
@given(corners(), st.sampled_from(ACTIVATIONS))
def test_diagonal(corner: Corner, activation: str):
    net = Net({"x": (1, 6, 3, 2)}, seed=corner.seed)
    neutral = net.constant(np.zeros(6)), net.constant(np.ones(6))
    z = net.batch_norm("x")
    y = net.add("BatchNormalization", z, random_weight(net, 6), random_bias(net, 6), *neutral, epsilon=0.0)
    assert_exact(net.model(net.batch_norm(behind(net, y, activation))), corner)


@few(4)
@given(corners(), st.sampled_from(ACTIVATIONS), st.sampled_from((1, 2)))
def test_conv_transpose(corner: Corner, activation: str, group: int):
    net = Net({"x": (1, 4, 3, 4)}, seed=corner.seed)
    z = net.batch_norm("x")
    # The input channels of the constant come first; every column is one output channel.
    weight = net.constant(np.swapaxes(net.constants[random_weight(net, 6 // group, 4, 3, 2)], 0, 1))
    y = net.add(
        "ConvTranspose", z, weight, random_bias(net, 6), kernel_shape=(3, 2), strides=(2, 3), dilations=(1, 2),
        pads=(1, 0, 1, 1), output_padding=(1, 0), group=group,
    )  # fmt: skip
    model = net.model(net.batch_norm(behind(net, y, activation)))
    assert_exact(model, corner, "mac")
    assert not analyse(model, corner.target, REGISTRY).islands


@few(4)
@given(corners(), st.booleans())
def test_fused_hard_swish(corner: Corner, depthwise: bool):
    net = Net({"x": (1, 4, 5, 5)}, seed=corner.seed)
    y = net.conv(net.batch_norm("x"), 4, group=4 if depthwise else 1)
    model = net.model(net.batch_norm(net.add("HardSwish", y)))
    assert_exact(model, corner, "mac")
