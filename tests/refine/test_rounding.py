"""Weights on their grid, and rounding that is learned."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, exact_ranges, fixed_model, float_values, plan
from real_models import oracle_mismatches

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.emulator.walk import walk
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.planner import Planned, plan_model, refine_plan
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.refine.grid import mac_instructions, on_grid, weight_grid, with_codes
from knerex_jax.refine.lattice import round_lattice
from knerex_jax.refine.rounding import learn_rounding
from knerex_jax.refine.rows import sample_places, weight_rows
from knerex_jax.targets import TARGETS


def every_kind() -> Model:
    """A conv, a depthwise and a grouped one, a diagonal, a transposed conv, a dense node and one with a HardSwish."""
    net = Net({"x": (1, 3, 8, 8)})
    a = net.add("Relu", net.conv("x", 8))
    b = net.add("HardSwish", net.conv(a, 8, group=8))
    c = net.add("Relu", net.batch_norm(net.conv(b, 8, group=2)))
    up = net.add(
        "ConvTranspose", c, net.random(8, 3, 3, 3, scale=0.2), net.random(6, scale=0.1), kernel_shape=(3, 3),
        strides=(2, 2), dilations=(1, 1), pads=(1, 1, 1, 1), group=2, output_padding=(1, 1),
    )  # fmt: skip
    pooled = net.add("Flatten", net.add("GlobalAveragePool", up), axis=1)
    return net.model(net.add("Gemm", pooled, net.random(6, 5), net.random(5), name="dense"))


@cache
def ranges_of_every_kind(platform: str) -> Ranges:
    return exact_ranges(every_kind(), samples(every_kind(), 16), platform)


def planned_kinds(platform: str, weights: int, data: int = 8) -> Planned:
    request = WidthRequest(data, weights, data, data)
    return plan_model(every_kind(), ranges_of_every_kind(platform), request, TARGETS[platform], policy=EVERY_CHANNEL)


CASES = [("720", 8, 8), ("720", 15, 15), ("720", 15, 8), ("520", 8, 8), ("730", 4, 8), ("730", 4, 15)]


@pytest.mark.parametrize(("platform", "weights", "data"), CASES)
def test_weights_on_their_grid_give_the_same_integers(platform, weights, data):
    planned = planned_kinds(platform, weights, data)
    again = refine_plan(planned, on_grid(planned), TARGETS[platform])
    assert again.program == planned.program
    for name, integers in planned.constants.items():
        for key, value in integers.items():
            assert np.array_equal(value, again.constants[name][key]), (name, key)


@pytest.mark.parametrize(("platform", "weights", "data"), CASES)
def test_any_codes_within_the_limits_are_made_exactly_and_nothing_else_moves(platform, weights, data):
    planned = planned_kinds(platform, weights, data)
    rng = np.random.default_rng(0)
    wanted = {}
    for mac in mac_instructions(planned):
        grid = weight_grid(planned, mac)
        anything = rng.integers(-grid.limit, grid.limit + 1, grid.codes.shape)
        wanted[mac.name] = np.where(grid.held, grid.codes, anything)
    again = refine_plan(planned, with_codes(planned, wanted), TARGETS[platform])
    assert {m.kind for m in mac_instructions(planned)} == {"conv", "conv_transpose", "diagonal", "dense"}
    for mac in mac_instructions(planned):
        made, form = again.constants[mac.name], weight_grid(planned, mac).form
        codes = made["weight"].reshape(form.restore(form.weight).shape)
        layout = codes if mac.kind == "conv_transpose" else None
        expected = form.restore(wanted[mac.name]) if layout is not None else wanted[mac.name]
        assert np.array_equal(made["weight"].reshape(expected.shape), expected), mac.name
        for key, value in planned.constants[mac.name].items():
            assert key == "weight" or np.array_equal(value, made[key]), (mac.name, key)


def test_a_constant_that_two_nodes_share_gets_values_for_each():
    net = Net({"x": (1, 4, 6, 6)})
    first = net.conv("x", 4)
    shared = net.nodes[-1]
    second = net.add(
        "Conv", first, *shared.inputs[1:], kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1,) * 4
    )
    model = net.model(second)
    planned = plan(model, samples(model, 16), "730")
    again = refine_plan(planned, on_grid(planned), TARGETS["730"])
    names = [again.refined.graph.node[m.name].inputs[1] for m in mac_instructions(again)]
    assert len(set(names)) == 2
    for mac in mac_instructions(planned):
        assert np.array_equal(planned.constants[mac.name]["weight"], again.constants[mac.name]["weight"])


def test_a_walk_gives_the_codes_of_the_emulator():
    for platform, weights, data in (("720", 8, 15), ("520", 8, 8)):
        planned = planned_kinds(platform, weights, data)
        inputs = samples(planned.model, 5, seed=3)
        seen: dict[str, np.ndarray] = {}

        def choice(i, operands, seen=seen, planned=planned):
            seen.update(operands)
            return planned.constants[i.name]

        ran = [i.name for i, _ in walk(planned.program, planned.constants, inputs, choice)]
        assert ran == [i.name for i in planned.program.instructions]
        expected = fixed_model(planned).run(inputs, "fixed", taps=tuple(seen))
        for t, codes in seen.items():
            assert np.array_equal(codes.reshape(expected[t].shape), expected[t]), t


def test_constants_as_operands_are_the_same_for_all_samples():
    net = Net({"x": (1, 3, 6, 5)})
    made = net.add("Relu", net.add("Add", net.conv("x", 4), net.add("Identity", net.random(1, 4, 6, 5))))
    model = net.model(net.conv(made, 5))
    planned, seen = plan(model, inputs := samples(model, 5)), {}

    def choice(i, operands):
        seen.update(operands)
        return planned.constants[i.name]

    assert len(list(walk(planned.program, planned.constants, inputs, choice))) == len(planned.program.instructions)
    expected = fixed_model(planned).run(inputs, "fixed", taps=tuple(seen))
    for t, codes in seen.items():
        assert len(codes) == 5 and np.array_equal(codes.reshape(expected[t].shape), expected[t]), t
    assert learn_rounding(planned, inputs, target=TARGETS["720"]).planned.program == planned.program


def several_images() -> Model:
    """Convolutions over two images of one sample."""
    net = Net({"x": (1, 4, 8, 8)})
    views = net.add("Reshape", "x", shape=(2, 4, 4, 8))
    y = net.conv(net.add("Relu", net.conv(views, 6, stride=2)), 6, group=3)
    attrs = {"kernel_shape": (3, 3), "strides": (2, 1), "dilations": (1, 1), "pads": (1,) * 4, "group": 2}
    return net.model(net.add("ConvTranspose", y, net.random(6, 2, 3, 3), net.random(4), **attrs, output_padding=(1, 0)))


@pytest.mark.parametrize("make", [every_kind, several_images])
def test_rows_times_weights_are_the_sums_of_the_node(make):
    planned = plan(make(), samples(make(), 4), "720")
    fixed, inputs = fixed_model(planned), samples(planned.model, 3, seed=3)
    rng = np.random.default_rng(0)
    macs = [m for m in mac_instructions(planned) if m.kind != "diagonal"]
    codes = fixed.run(inputs, "fixed", taps=tuple(dict.fromkeys(m.inputs[0] for m in macs)))
    for mac in macs:
        form, shapes = weight_grid(planned, mac).form, planned.program.shapes
        x = codes[mac.inputs[0]].reshape(3, *shapes[mac.inputs[0]])
        places = sample_places(mac, planned.program, 9, 3, rng)
        rows = weight_rows(mac, form, x, (shapes[mac.inputs[0]], shapes[mac.output]), places)
        weight = form.weight.reshape(len(rows), -1, rows.shape[2])
        made = np.moveaxis(rows @ weight.swapaxes(1, 2), 0, 1).reshape(rows.shape[1], -1)
        node = planned.model.graph.node[mac.name]
        rule, held = REGISTRY[node.op_type].to_float, planned.model.constants[node.inputs[1]]
        whole = np.stack([np.asarray(rule(node.attrs, s.astype(np.float32), held)) for s in x])
        whole = np.moveaxis(whole, mac.axis + 1, -1).reshape(3, -1, len(form.weight))
        expected = np.take_along_axis(whole, places[..., None], axis=1).reshape(made.shape)
        assert np.allclose(made, expected, atol=1e-3 * np.abs(expected).max()), mac.name


def test_several_images_of_a_sample_are_learned_from():
    model = several_images()
    data = samples(model, 12)
    planned = plan(model, data, "720")
    assert any(r.kept for r in learn_rounding(planned, data, target=TARGETS["720"]).records)


def test_lattice_rounding_finds_the_best_codes_of_small_problems():
    rng = np.random.default_rng(5)
    better = 0
    for _ in range(20):
        rows = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
        gram, exact = rows.T @ rows + 0.1 * np.eye(4), rng.normal(size=4) * 3
        held = np.zeros(4, bool)
        held[rng.integers(4)] = True
        nearest = np.rint(exact)
        limit = np.full((1, 1, 1), 5)
        made = round_lattice(exact[None, None], gram[None], limit, held[None, None], nearest[None, None])[0, 0]
        assert (
            (made[held] == nearest[held]).all() and (np.abs(made[~held]) <= 5).all() and (made == np.rint(made)).all()
        )

        def error(q, exact=exact, gram=gram):
            return (q - exact) @ gram @ (q - exact)

        for k in np.flatnonzero(~held):  # no single step improves it
            for step in (-1, 1):
                other = made.copy()
                other[k] += step
                assert abs(other[k]) > 5 or error(other) >= error(made) - 1e-9
        better += error(made) < error(np.where(held, nearest, np.clip(nearest, -5, 5)))
    assert better >= 10


@pytest.fixture(scope="module")
def learned():
    planned = planned_kinds("730", 4)
    return planned, learn_rounding(planned, samples(planned.model, 48), target=TARGETS["730"])


def test_learned_rounding_beats_nearest_on_data_it_never_saw(learned):
    planned, rounded = learned
    inputs = samples(planned.model, 32, seed=9)
    (expected,) = float_values(planned.model, inputs, ()).values()
    before, after = (
        snr_db(expected, fixed_model(p).run(inputs)[planned.model.graph.outputs[0]]) for p in (planned, rounded.planned)
    )
    assert after > before + 2


def test_records_say_what_was_kept(learned):
    planned, rounded = learned
    assert [r.node for r in rounded.records] == [m.name for m in mac_instructions(planned) if m.kind != "diagonal"]
    assert any(r.kept for r in rounded.records)
    for record in rounded.records:
        same = np.array_equal(
            planned.constants[record.node]["weight"], rounded.planned.constants[record.node]["weight"]
        )
        assert record.kept == (record.after < record.before)
        assert same or record.kept


def test_nodes_that_are_not_clipped_change_their_weights_alone(learned):
    planned, rounded = learned
    clipped = {r.node for r in rounded.records if r.clipped and r.kept}
    assert 0 < len(clipped) < len(rounded.records)
    for name, integers in planned.constants.items():
        for key, value in integers.items():
            if key != "weight" and name not in clipped:
                assert np.array_equal(value, rounded.planned.constants[name][key]), (name, key)


def test_the_oracle_agrees_with_learned_codes(learned):
    planned, rounded = learned
    refined = replace(rounded.planned, model=rounded.planned.refined)
    assert oracle_mismatches(refined, fixed_model(refined), samples(planned.model, 2, seed=4)) == []


def test_the_same_seed_gives_the_same_codes():
    net = Net({"x": (1, 12)})
    model = net.model(net.add("Gemm", "x", net.random(12, 4), net.random(4)))
    inputs = samples(model, 64)
    planned = plan(model, inputs, "720")
    one, same = (learn_rounding(planned, inputs, target=TARGETS["720"], seed=7) for _ in range(2))
    assert one.records == same.records
    (mac,) = mac_instructions(planned)
    assert np.array_equal(one.planned.constants[mac.name]["weight"], same.planned.constants[mac.name]["weight"])


def test_too_few_samples_are_an_error():
    model = every_kind()
    with pytest.raises(ConfigError, match="3 samples cannot be split"):
        learn_rounding(planned_kinds("720", 8), samples(model, 3), target=TARGETS["720"])
