"""The search for ranges that cost little at the outputs of the model."""

import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, exact_ranges, fixed_model, float_values

from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.quantize.planner import plan_model
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.refine.scales import FACTORS, GUARDS, Setting, free_groups, search_scales, setting_overrides
from knerex_jax.refine.split import held_out
from knerex_jax.targets import TARGETS

TARGET = TARGETS["720"]


def loud_and_quiet() -> Model:
    """The quiet channels of the first node carry the answer: guarded as usual, they keep 6 of their 8 bits."""
    net = Net({"x": (1, 3, 6, 6)})
    stem = net.conv("x", 8)
    weight = net.constants[net.nodes[0].inputs[1]]
    weight[4:] *= 0.02
    net.constants[net.nodes[0].inputs[2]][4:] *= 0.02
    head = net.conv(
        net.add("MaxPool", net.add("Relu", stem), kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4),
        5,
        kernel=1,
    )
    net.constants[net.nodes[-1].inputs[1]][:, 4:] *= 50
    net.constants[net.nodes[-1].inputs[1]][:, :4] *= 0.02
    return net.model(head)


@pytest.fixture(scope="module")
def searched():
    model = loud_and_quiet()
    inputs = samples(model, 32)
    ranges = exact_ranges(model, inputs, "720")
    found = search_scales(model, ranges, WidthRequest(), inputs, target=TARGET, policy=EVERY_CHANNEL)
    return model, ranges, inputs, found


def test_the_search_finds_that_quiet_channels_need_their_own_step(searched):
    model, _, _, found = searched
    assert found.chosen != "given"
    assert found.single.guard_bits > EVERY_CHANNEL.guard_bits
    assert found.noise[found.chosen] == min(found.noise.values())


def test_it_holds_on_data_the_search_never_saw(searched):
    model, ranges, _, found = searched
    base = plan_model(model, ranges, WidthRequest(), TARGET, policy=EVERY_CHANNEL)
    inputs, (y,) = samples(model, 16, seed=8), model.graph.outputs
    expected = float_values(model, inputs, ())[y]
    before, after = (snr_db(expected, fixed_model(p).run(inputs)[y]) for p in (base, found.planned))
    assert after > before + 1


def test_noise_is_that_of_the_held_out_samples(searched):
    model, _, inputs, found = searched
    judges, (y,) = {t: v[held_out(np.arange(len(v)))] for t, v in inputs.items()}, model.graph.outputs
    expected = float_values(model, judges, ())[y]
    measured = snr_db(expected, fixed_model(found.planned).run(judges)[y])
    assert -10 * np.log10(found.noise[found.chosen]) == pytest.approx(measured, abs=1e-3)


def test_the_overrides_alone_give_the_plan(searched):
    model, ranges, _, found = searched
    again = plan_model(
        model,
        ranges,
        WidthRequest(),
        TARGET,
        policy=EVERY_CHANNEL,
        slots=found.planned.slots,
        overrides=found.overrides,
    )
    assert again.plan.to_json()["tensors"] == found.planned.plan.to_json()["tensors"]


def test_groups_share_scales_and_leave_out_what_leaves_the_model(searched):
    model, ranges, _, _ = searched
    base = plan_model(model, ranges, WidthRequest(), TARGET, policy=EVERY_CHANNEL)
    groups = free_groups(base.structure, ranges)
    members = [t for group in groups.values() for t in group]
    assert len(members) == len(set(members)) and not set(members) & set(model.graph.outputs)
    pool = next(n for n in model.graph.nodes if n.op_type == "MaxPool")
    assert any({pool.inputs[0], pool.outputs[0]} <= set(group) for group in groups.values())
    assert all(name == group[0] for name, group in groups.items())


def test_what_is_only_moved_before_it_leaves_keeps_its_range_too():
    net = Net({"x": (1, 3, 4, 4)})
    inner = net.conv("x", 4)
    moved = net.conv(inner, 6)
    model = net.model(net.add("Transpose", moved, perm=(0, 2, 3, 1)))
    ranges = exact_ranges(model, samples(model, 8), "720")
    base = plan_model(model, ranges, WidthRequest(), TARGET)
    members = [t for group in free_groups(base.structure, ranges).values() for t in group]
    assert inner in members and moved not in members


def test_the_usual_setting_overrides_nothing(searched):
    model, ranges, _, _ = searched
    base = plan_model(model, ranges, WidthRequest(), TARGET, policy=EVERY_CHANNEL)
    groups = free_groups(base.structure, ranges)
    usual = Setting(EVERY_CHANNEL.guard_bits, 1.0)
    assert usual.guard_bits in GUARDS and usual.factor in FACTORS
    assert not setting_overrides(dict.fromkeys(groups, usual), groups, base, ranges, EVERY_CHANNEL).numbers
    wider = setting_overrides({next(iter(groups)): Setting(2, 1.1)}, groups, base, ranges, EVERY_CHANNEL)
    assert wider.numbers == set(groups[next(iter(groups))])
