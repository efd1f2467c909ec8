"""Widths of data and weights: what every platform permits, and the rules of "mix light" and "mix balance"."""

from itertools import product

import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, exact_ranges, fixed_model
from real_models import oracle_mismatches

from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.mac import mac_count
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.mixing import mac_groups, mac_nodes, mixed_request
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.request import BITS, WidthRequest
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

LEGAL = {
    "520": {("int8", "int4"), ("int8", "int8")},
    "720": set(product(("int8", "int16"), ("int8", "int16"))),
    **{p: set(product(("int8", "int16"), ("int4", "int8", "int16"))) for p in ("530", "630", "730")},
}
"""(data, weights) by platform, from the maker's manual; 4-bit weights of 520 are our assumption."""

ALL = sorted(product(LEGAL, ("int4", "int8", "int16"), ("int4", "int8", "int16")))


def tiny() -> Model:
    net = Net({"x": (1, 3, 6, 6)})
    a = net.add("Relu", net.conv("x", 4))
    pooled = net.add("Reshape", net.add("GlobalAveragePool", net.conv(a, 4, group=4)), shape=(1, 4))
    return net.model(net.add("Gemm", pooled, net.random(4, 3), net.random(3)))


def planned(model: Model, platform: str, data: str, weights: str) -> Planned:
    config = PTQConfig(
        platform=platform, datapath_bitwidth_mode=data, weight_bitwidth_mode=weights, model_in_bitwidth_mode=data,
        model_out_bitwidth_mode=data,
    )  # fmt: skip
    ranges = exact_ranges(model, samples(model, 8), platform)
    return plan_model(model, ranges, config.widths, config.target, policy=EVERY_CHANNEL)


@pytest.mark.parametrize(("platform", "data", "weights"), [c for c in ALL if c[1:] not in LEGAL[c[0]]])
def test_what_a_platform_does_not_have_is_refused(platform, data, weights):
    with pytest.raises(ConfigError, match="4 bits|has no int"):
        PTQConfig(platform=platform, datapath_bitwidth_mode=data, weight_bitwidth_mode=weights)


@pytest.mark.parametrize(
    ("platform", "data", "weights"), [c for c in ALL if c[1:] in LEGAL[c[0]] and c[0] in ("520", "720", "730")]
)
def test_what_a_platform_has_is_planned_and_equals_the_oracle(platform, data, weights):
    model = tiny()
    made = planned(model, platform, data, weights)
    assert {f.bits for f in made.plan.formats.values()} == {BITS[data]}
    assert set(made.plan.weight_bits.values()) == {BITS[weights]}
    assert oracle_mismatches(made, fixed_model(made), samples(model, 4, seed=5, scale=2.0)) == []


@pytest.mark.parametrize("platform", ["530", "630"])
def test_platforms_of_one_arithmetic_have_one_program(platform):
    model = tiny()
    for data, weights in LEGAL[platform]:
        here, there = (planned(model, p, data, weights) for p in (platform, "730"))
        assert here.program.instructions == there.program.instructions
        for name, made in here.constants.items():
            for key, value in made.items():
                np.testing.assert_array_equal(value, there.constants[name][key])


def block() -> Model:
    """A first convolution, an inverted bottleneck with a pool, a BatchNormalization behind it, a dense layer."""
    net = Net({"x": (1, 3, 8, 8)})
    a = net.add("Relu", net.conv("x", 8), name="stem_act")
    p = net.add(
        "MaxPool", a, name="pool", kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0)
    )  # fmt: skip
    d = net.add("Relu", net.conv(p, 8, group=8), name="depth_act")
    e = net.conv(d, 16, 1)
    f = net.conv(d, 16, 3)
    s = net.add("Add", e, f, name="sum")
    b = net.batch_norm(s)
    flat = net.add("Reshape", net.add("GlobalAveragePool", b, name="mean"), shape=(1, 16), name="flat")
    return net.model(net.add("Gemm", flat, net.random(16, 4), net.random(4)))


def asked(platform: str = "720", **modes: str) -> tuple[WidthRequest, dict[str, str]]:
    """What the rule asks for, and the nodes by kind."""
    model, config = block(), PTQConfig(platform=platform, **modes)
    structure = analyse(model, TARGETS[platform], REGISTRY)
    names = [n.name for n in model.graph.nodes if n.op_type in ("Conv", "BatchNormalization", "Gemm")]
    kinds = dict(zip(("stem", "depth", "point", "full", "norm", "dense"), names, strict=True))
    return mixed_request(model, structure, config.widths, REGISTRY, config.mixes), kinds


def test_multiplications_are_counted():
    model = block()
    structure = analyse(model, TARGETS["720"], REGISTRY)
    assert list(mac_nodes(model, structure).values()) == [
        8 * 64 * 27, 8 * 16 * 9, 16 * 16 * 8, 16 * 16 * 72, 16 * 16, 16 * 4
    ]  # fmt: skip
    net = Net({"x": (1, 4, 5, 5), "y": (1, 3, 7), "z": (1, 7, 2)})
    up = net.add(
        "ConvTranspose", "x", net.random(4, 6, 2, 2), kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1),
        pads=(0, 0, 0, 0), group=1, output_padding=(0, 0),
    )  # fmt: skip
    both = net.model(up, net.add("MatMul", "y", "z"))
    assert [mac_count(n, both) for n in both.graph.nodes] == [4 * 25 * 6 * 4, 3 * 2 * 7]


def test_nodes_that_read_one_tensor_are_one_group():
    model = block()
    groups = mac_groups(model, analyse(model, TARGETS["720"], REGISTRY))
    assert [len(g.nodes) for g in groups] == [1, 1, 2, 1, 1]
    assert groups[2].operands == ("depth_act:0",) and groups[2].makers == ("depth_act",)
    assert groups[0].makers == ()


def test_mix_light_gives_16_bits_to_delicate_nodes():
    request, kinds = asked(datapath_bitwidth_mode="mix light", weight_bitwidth_mode="mix light")
    assert (request.data, request.weights) == (8, 8)
    assert request.weight_nodes == {kinds[k]: 15 for k in ("stem", "depth", "norm")}
    # What the depthwise convolution reads comes out of a pool, so what is pooled is wide, too.
    tensors_of = {"pool", "stem_act", kinds["stem"], "sum"}
    assert request.nodes == dict.fromkeys(tensors_of, 15)


def test_mix_balance_gives_8_bits_to_the_largest_nodes():
    request, kinds = asked(datapath_bitwidth_mode="mix balance", weight_bitwidth_mode="mix balance")
    assert (request.data, request.weights, request.cpu) == (15, 15, 15)
    assert request.weight_nodes == {kinds["full"]: 8}
    assert request.nodes == {}, "another node reads the same tensor and is not large"
    only = asked(datapath_bitwidth_mode="mix balance")[0]
    assert only.weight_nodes == {} and only.weights == 8


def test_mixed_plans_equal_the_oracle():
    model = block()
    request, _ = asked(datapath_bitwidth_mode="mix light", weight_bitwidth_mode="mix balance")
    made = plan_model(model, exact_ranges(model, samples(model, 8), "720"), request, TARGETS["720"])
    assert {f.bits for f in made.plan.formats.values()} == {8, 15} == set(made.plan.weight_bits.values())
    assert oracle_mismatches(made, fixed_model(made), samples(model, 4, seed=5, scale=2.0)) == []


@pytest.mark.parametrize("data", ["int8", "int4", "mix light", "mix balance"])
def test_mixbw_ranks_one_side_against_16_bits_or_both(data):
    for modes in ((data, "mixbw"), ("mixbw", data)):
        with pytest.raises(ConfigError, match="mixbw goes with|4 bits"):
            PTQConfig(platform="730", datapath_bitwidth_mode=modes[0], weight_bitwidth_mode=modes[1])


@pytest.mark.parametrize("mode", ["mix light", "mix balance", "mixbw"])
def test_520_has_nothing_to_mix(mode):
    with pytest.raises(ConfigError, match="520 has no 16 bits"):
        PTQConfig(platform="520", datapath_bitwidth_mode=mode, weight_bitwidth_mode=mode)


def test_mixbw_keeps_boundary_and_cpu_at_16_bits_and_says_so():
    config = PTQConfig(
        mode=1, datapath_bitwidth_mode="mixbw", weight_bitwidth_mode="int16", cpu_node_bitwidth_mode="int8",
        model_out_bitwidth_mode="int16",
    )  # fmt: skip
    assert config.widths == WidthRequest(15, 15, 15, 15, cpu=15)
    assert config.ranked == ("data",)
    changed = {n.where: (n.requested, n.applied) for n in config.notes()}
    expected = ("int8", "int16")
    assert changed == {"model_in_bitwidth_mode": expected, "cpu_node_bitwidth_mode": expected}
    assert config.applied()["model_in_bitwidth_mode"] == "int16"
    assert PTQConfig(datapath_bitwidth_mode="mix balance").widths.cpu == 15
    assert PTQConfig(datapath_bitwidth_mode="mix light").widths.cpu == 8


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "half"])
def test_flops_ratio_is_a_share(ratio):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PTQConfig(flops_ratio=ratio)


@pytest.mark.parametrize(
    ("data", "weights", "guard"),
    [
        ("int8", "int8", 2),
        ("int16", "int8", 0),
        ("int16", "int16", 4),
        ("int16", "mixbw", 0),
        ("int16", "mix balance", 0),
        ("mixbw", "int16", 2),
        ("mix light", "mix light", 2),
    ],
)
def test_channels_share_a_range_where_only_weights_are_narrow(data, weights, guard):
    assert PTQConfig(datapath_bitwidth_mode=data, weight_bitwidth_mode=weights).guard == guard
    assert PTQConfig(datapath_bitwidth_mode=data, weight_bitwidth_mode=weights, guard_bits=3).guard == 3
