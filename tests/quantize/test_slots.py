"""Rescale slots: found where a scale fits nowhere or costs more than a bit, kept when a model is planned again."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from helpers import Net, relative_error, samples
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges, fixed_model, float_values, plan
from real_models import oracle_mismatches

from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.targets import TARGETS


def uneven(net: Net, x: str, ratio: float, channels: int = 8) -> str:
    """A convolution whose channels alternate between two magnitudes."""
    y = net.conv(x, channels, 1)
    for t in net.nodes[-1].inputs[1:]:
        net.constants[t][::2] /= ratio
    return y


def gated(ratio: float = 8.0, *, read_again: bool = False) -> Model:
    """A gate per channel; the product is an output, so it has one scale in all."""
    net = Net({"x": (1, 3, 6, 6)}, seed=6)
    a = uneven(net, "x", ratio)
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", "x"), 8, 1))
    y = net.add("Mul", a, gate, name="product")
    return net.model(y, net.conv(y, 4)) if read_again else net.model(y)


def two_products() -> Model:
    """A sum of two products, which share one scale where Add has no multipliers."""
    net = Net({"x": (1, 3, 6, 6)}, seed=7)
    gates = [net.add("Sigmoid", net.conv("x", 4, 1)) for _ in range(2)]
    products = [net.add("Mul", uneven(net, "x", ratio, 4), gate) for ratio, gate in zip((1.0, 6.0), gates, strict=True)]
    return net.model(net.conv(net.add("Add", *products), 3, 1))


def swish(ratio: float, *, flat: bool = False) -> Model:
    """x * Sigmoid(x): the table wants one scale, the product none."""
    net = Net({"x": (1, 3, 8, 8)}, seed=8)
    x = uneven(net, "x", ratio)
    gate = net.add("Sigmoid", net.add("Reshape", x, shape=(1, 8, 64)) if flat else x, name="gate")
    gate = net.add("Reshape", gate, shape=(1, 8, 8, 8)) if flat else gate
    return net.model(net.conv(net.add("Mul", x, gate), 4, 1))


def planned_again(model: Model, planned: Planned, inputs: dict[str, np.ndarray], platform: str, width: str) -> Planned:
    """Planned for other ranges, with the slots of an earlier plan."""
    ranges = exact_ranges(model, inputs, platform)
    return plan_model(model, ranges, WIDTHS[width], TARGETS[platform], policy=EVERY_CHANNEL, slots=planned.slots)


CLASHES: list[tuple[Callable[[], Model], str, str, tuple[str, tuple[str, ...]]]] = [
    (gated, "720", "int8", ("product:0", ())),
    (gated, "730", "int16", ("product:0", ())),
    (gated, "520", "int8", ("product:0", ())),
    (lambda: gated(read_again=True), "720", "int8", ("product:0", ())),
]


@pytest.mark.parametrize(("build", "platform", "width", "slot"), CLASHES)
def test_product_whose_scale_does_not_fit_gets_a_slot_behind_it(build, platform, width, slot):
    model = build()
    inputs = samples(model, 8)
    planned = plan(model, inputs, platform, width)
    assert slot in planned.slots
    assert planned.model.graph.outputs == model.graph.outputs
    evaluation = samples(model, 4, seed=5, scale=2.0)
    assert oracle_mismatches(planned, fixed_model(planned), evaluation) == []


def test_sum_of_products_on_shared_scales():
    model = two_products()
    inputs = samples(model, 8)
    planned = plan(model, inputs, "520")
    ((_, readers),) = planned.slots
    assert [model.graph.node[n].op_type for n in readers] == ["Add"]
    assert oracle_mismatches(planned, fixed_model(planned), inputs) == []
    assert plan(model, inputs, "720").slots == (), "free operands need none"


def test_slots_change_nothing_in_float():
    model = gated(read_again=True)
    inputs = samples(model, 4)
    planned = plan(model, inputs, "720")
    before, after = (float_values(m, inputs, model.graph.outputs) for m in (model, planned.model))
    for t in model.graph.outputs:
        assert relative_error(before[t], after[t]) <= 1e-6


def test_tensor_that_a_table_makes_per_layer_keeps_its_channels_elsewhere():
    model = swish(8.0)
    inputs = samples(model, 8)
    planned = plan(model, inputs, "720")
    ((tensor, readers),) = planned.slots
    assert model.graph.producer[tensor].op_type == "Conv" and readers == ("gate",)
    fixed = fixed_model(planned)
    assert oracle_mismatches(planned, fixed, samples(model, 4, seed=5, scale=2.0)) == []
    without = planned_again(model, replace(planned, slots=()), inputs, "720", "int8")
    assert separate_radices(planned, tensor) and not separate_radices(without, tensor)
    (y,) = model.graph.outputs
    reference = float_values(model, inputs, (y,))[y]
    with_slot, plain = (snr_db(reference, m.run(inputs)[y]) for m in (fixed, fixed_model(without)))
    assert with_slot > plain


def separate_radices(planned: Planned, tensor: str) -> bool:
    return len(set(planned.plan.formats[tensor].radix.tolist())) > 1


def test_reshape_before_the_table_needs_no_slot():
    """Codes are shifted where they are moved, so the channels keep their radices."""
    model = swish(8.0, flat=True)
    planned = plan(model, samples(model, 8), "720")
    (conv, *_) = model.graph.nodes
    assert planned.slots == () and separate_radices(planned, conv.outputs[0])
    assert oracle_mismatches(planned, fixed_model(planned), samples(model, 4, seed=5)) == []


def test_no_slot_where_the_channels_are_alike():
    model = swish(1.0)
    assert plan(model, samples(model, 8), "720").slots == ()


def test_no_slot_for_the_ratio_of_channels_where_radices_are_per_layer():
    model = swish(8.0)
    assert plan(model, samples(model, 8), "520").slots == ()


@pytest.mark.parametrize(("build", "platform"), [(gated, "720"), (lambda: swish(8.0), "720"), (two_products, "520")])
def test_planned_again_it_is_the_same_program(build, platform):
    """Other ranges alone would need other slots, or none."""
    model = build()
    planned = plan(model, samples(model, 8), platform)
    wider = {t: 3.7 * v for t, v in samples(model, 8, seed=3).items()}
    again = planned_again(model, planned, wider, platform, "int8")
    assert again.program == planned.program and again.slots == planned.slots
    assert any(
        not np.array_equal(held, planned.constants[name][key])
        for name, integers in again.constants.items()
        for key, held in integers.items()
    )


def softmax(net: Net, x: str) -> str:
    """Softmax over the last axis, spelled out."""
    axes = (len(net.types[x].shape) - 1,)
    e = net.add("Exp", net.add("Sub", x, net.add("ReduceMax", x, axes=axes)))
    return net.add("Mul", e, net.add("Reciprocal", net.add("ReduceSum", e, axes=axes)))


def test_softmax_takes_the_peak_off_the_codes_it_was_found_in():
    """On 520 both share a scale, and the peak's own range would ask for a slot between them."""
    net = Net({"x": (1, 3, 6, 6), "m": (1, 1, 1, 6)}, seed=9)
    scores = net.add("Add", uneven(net, "x", 8.0, 4), "m")
    model = net.model(softmax(net, scores))
    inputs = samples(model, 8)
    inputs["m"] = np.where(inputs["m"] > 1, -1e9, 0).astype(np.float32)
    planned = plan(model, inputs, "520")
    assert planned.slots == ()
    assert oracle_mismatches(planned, fixed_model(planned), inputs) == []


def test_two_clashes_whose_names_begin_alike():
    net = Net({"x": (1, 3, 6, 6)}, seed=10)
    gates = [net.add("Sigmoid", net.conv("x", 8, 1)) for _ in range(2)]
    first = net.add("Mul", uneven(net, "x", 8.0), gates[0], name="product")
    second = net.add("Mul", uneven(net, "x", 8.0), gates[1], name=first)
    assert second.startswith(first)
    model = net.model(first, second)
    planned = plan(model, samples(model, 8), "720")
    assert set(planned.slots) == {(first, ()), (second, ())}


@pytest.mark.parametrize("platform", ["520", "720"])
def test_an_input_of_the_model_may_need_a_slot(platform):
    """The product's scale is that of the input times the gate's; on 520 the sum asks both for one."""
    net = Net({"x": (1, 4, 6, 6)}, seed=3)
    gate = net.add("Sigmoid", net.add("GlobalAveragePool", "x"))
    model = net.model(net.add("Add", net.add("Mul", "x", gate), "x"))
    inputs = samples(model, 8)
    planned = plan(model, inputs, platform, policy=EVERY_CHANNEL)
    assert bool(planned.slots) == (platform == "520")
    assert oracle_mismatches(planned, fixed_model(planned), inputs) == []
    (y,) = model.graph.outputs
    assert snr_db(float_values(model, inputs, (y,))[y], fixed_model(planned).run(inputs)[y]) > 25


@pytest.mark.parametrize(("platform", "width"), [("520", "int8"), ("720", "int8"), ("720", "int16")])
def test_a_product_beside_its_own_operand(platform, width):
    """One scale for all of a Concat, and for the square of it: the scale of a product is not that of its operand."""
    net = Net({"x": (1, 4, 6, 6)}, seed=5)
    square = net.add("Mul", "x", "x")
    model = net.model(net.add("Concat", square, "x", axis=1))
    inputs = samples(model, 8)
    planned = plan(model, inputs, platform, width)
    formats = planned.plan.formats
    np.testing.assert_array_equal(formats[square].scale, np.float32(formats["x"].scale.astype(np.float64) ** 2))
    assert oracle_mismatches(planned, fixed_model(planned), inputs) == []
    (y,) = model.graph.outputs
    snr = snr_db(float_values(model, inputs, (y,))[y], fixed_model(planned).run(inputs)[y])
    assert snr > (24 if width == "int8" else 55)
