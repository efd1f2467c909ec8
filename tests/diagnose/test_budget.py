"""The error budget against switches thrown one by one, the emulator's codes and faults put in on purpose."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges, fixed_model, float_values, plan

from knerex_jax.calibrate.ranges import Cut, Ranges, TensorRange
from knerex_jax.diagnose import inject
from knerex_jax.diagnose.alone import cut_program, made_alone
from knerex_jax.diagnose.budget import ErrorBudget, error_budget
from knerex_jax.diagnose.layers import trace_layers
from knerex_jax.diagnose.rows import as_db
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.program.bounds import bound_program
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.simulate.lower import lower_simulated
from knerex_jax.simulate.params import Gates
from knerex_jax.targets import TARGETS

COUNT = 24


def small_net() -> Model:
    """A fused HardSwish, a pool that passes codes on, two branches, a dense end."""
    net = Net({"x": (1, 3, 8, 8)})
    a = net.add("HardSwish", net.conv("x", 6))
    pooled = net.add("MaxPool", a, kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4)
    joined = net.add("Add", pooled, net.add("Relu", net.conv(pooled, 6)))
    flat = net.add("Flatten", joined)
    return net.model(net.add("Gemm", flat, net.random(96, 5, scale=0.1), net.random(5)))


def ranges_with(model: Model, inputs, tensor: str, factor: float) -> Ranges:
    """Exact ranges, one of them wrong by a factor."""
    ranges = exact_ranges(model, inputs, "720")
    held = ranges[tensor]
    cut = held.narrow
    wrong = Cut(cut.layer_min * factor, cut.layer_max * factor, cut.channel_min * factor, cut.channel_max * factor)
    changed = TensorRange(wrong, wrong, held.axis, held.values_per_channel)
    return replace(ranges, tensors={**ranges.tensors, tensor: changed})


@pytest.fixture(scope="module")
def case() -> tuple[Planned, dict[str, np.ndarray], ErrorBudget]:
    model = small_net()
    inputs = samples(model, COUNT)
    planned = plan(model, inputs)
    return planned, inputs, error_budget(planned, inputs, samples=COUNT, batch_size=16, probes=32)


def test_losses_are_those_of_one_switch_alone(case):
    """The same noise, measured instead of derived: everything in float but one source."""
    planned, inputs, budget = case
    (y,) = planned.model.graph.outputs
    fn, params = lower_simulated(planned)
    float_run = float_values(planned.model, inputs, ())[y]
    # What only moves or adds codes rounds less in the integer run than in float: its operands lie on a grid.
    weighted = [r for r in budget.rows if r.weight_bits]
    sources = [("round", r) for r in (budget.rows[0], *weighted)] + [("weight", r) for r in weighted]
    off = Gates.filled(planned, 0)
    gates = [off.switched(s, r.tensor if s == "round" else r.node, 1) for s, r in sources]
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *gates)
    batch = {t: v[:, None] for t, v in inputs.items()}
    runs = jax.jit(jax.vmap(jax.vmap(fn, (None, None, 0)), (None, 0, None)))(params, stacked, batch)[y][:, :, 0]
    for (source, row), run in zip(sources, runs, strict=True):
        loss = getattr(row.losses[y], source)
        alone = -snr_db(float_run, run)
        assert 10 * np.log10(loss) == pytest.approx(alone, abs=1.5), f"{source} of {row.tensor}"


def test_losses_add_up_to_the_measured_noise(case):
    planned, inputs, budget = case
    (y,) = planned.model.graph.outputs
    measured = snr_db(float_values(planned.model, inputs, ())[y], fixed_model(planned).run(inputs)[y])
    assert budget.snr_db[y] == pytest.approx(measured, abs=0.01)
    assert budget.explained[y] > 0.95
    assert 0.75 < budget.total(y) * 10 ** (budget.snr_db[y] / 10) < 1.33
    assert sum(budget.share(r, y) for r in budget.rows) == pytest.approx(1)


def test_what_passes_codes_on_loses_nothing(case):
    *_, budget = case
    by_op = {r.op: r for r in budget.rows}
    for op in ("MaxPool", "Flatten"):
        assert all(loss.total < 1e-3 * budget.total(t) for t, loss in by_op[op].losses.items())


def test_rows_count_codes_at_the_limits(case):
    planned, inputs, budget = case
    fixed = fixed_model(planned)
    tensors = tuple(r.tensor for r in budget.rows)
    codes = fixed.run(inputs, "fixed", taps=tensors)
    for row in budget.rows:
        assert row.at_high == pytest.approx((codes[row.tensor] == 127).mean(), abs=1e-6)
        assert row.at_low == pytest.approx((codes[row.tensor] == -128).mean(), abs=1e-6)


def test_alone_and_accumulated(case):
    planned, inputs, budget = case
    reference = float_values(planned.model, inputs, tuple(r.tensor for r in budget.rows))
    full = fixed_model(planned).run(inputs, taps=tuple(r.tensor for r in budget.rows))
    for row in budget.rows:
        assert row.accumulated_db == pytest.approx(snr_db(reference[row.tensor], full[row.tensor]), abs=0.01)
    first = next(r for r in budget.rows if r.op == "Conv+HardSwish")
    assert first.alone_db == pytest.approx(first.accumulated_db, abs=1e-3)  # nothing was computed before it
    last = budget.rows[-1]
    assert last.alone_db > last.accumulated_db + 1


def test_instructions_of_a_cut_program_give_the_codes_of_the_whole(case):
    planned, inputs, _ = case
    tensors = tuple(planned.program.tensor)
    fixed = fixed_model(planned)
    real, codes = (fixed.run(inputs, kind, taps=tensors) for kind in ("float", "fixed"))
    cut, constants = cut_program(planned.program, planned.constants)
    methods = choose(cut, bound_program(cut, constants), jax.default_backend())
    fn = jax.jit(jax.vmap(lower_fixed(cut, methods), (None, 0)))
    shapes = planned.program.shapes
    made = fn(prepare(cut, constants), {t: real[t].reshape(-1, *shapes[t]) for t in cut.inputs})
    assert {made_alone(i.output) for i in planned.program.instructions} == made.keys()
    for i in planned.program.instructions:
        np.testing.assert_array_equal(np.asarray(made[made_alone(i.output)])[:, 0], codes[i.output])


def test_a_range_that_is_too_narrow_is_found():
    model = small_net()
    inputs = samples(model, COUNT)
    conv = next(n for n in model.graph.nodes if n.op_type == "Relu")
    ranges = ranges_with(model, inputs, conv.outputs[0], 0.05)
    planned = plan_model(model, ranges, WIDTHS["int8"], TARGETS["720"], policy=EVERY_CHANNEL)
    budget = error_budget(planned, inputs, samples=8, probes=4)
    worst = budget.ranked()[0]
    assert worst.tensor == conv.outputs[0] and worst.op == "Conv+Relu"
    assert worst.losses[budget.worst_output].clip > 0.9 * worst.losses[budget.worst_output].total
    assert worst.at_high > 0.3
    bad = budget.first_bad
    assert bad is not None and bad.tensor == conv.outputs[0] and bad.accumulated_db < 20
    assert f"first bad node: {bad.node}" in budget.table()


def test_dead_channels_are_counted_and_the_last_batch_is_not_counted_twice():
    net = Net({"x": (1, 4)})
    weight = net.rng.normal(size=(4, 6)) * np.array([1, 1, 1, 1, 1e-5, 1e-5])
    model = net.model(net.add("Gemm", net.add("Gemm", "x", net.constant(weight)), net.random(6, 3)))
    inputs = samples(model, 5)
    planned = plan(model, inputs, policy=replace(EVERY_CHANNEL, guard_bits=0))
    budget = error_budget(planned, inputs, batch_size=4, probes=2)
    hidden, (y,) = budget.rows[1], budget.snr_db
    assert (hidden.dead_channels, hidden.channels) == (2, 6)
    assert budget.samples == 5
    measured = snr_db(float_values(model, inputs, ())[y], fixed_model(planned).run(inputs)[y])
    assert budget.snr_db[y] == pytest.approx(measured, abs=1e-3)


def test_what_a_softmax_cuts_by_design_is_no_loss():
    """Hundreds of classes far below the best one: exp of the limit, for each of them, is not what the integers add."""
    net = Net({"x": (1, 6)})
    scores = net.add("Gemm", "x", net.random(6, 400, scale=4))
    below = net.add("Sub", scores, net.add("ReduceMax", scores, axes=(1,)))
    terms = net.add("Exp", below)
    y = net.add("Mul", terms, net.add("Reciprocal", net.add("ReduceSum", terms, axes=(1,))))
    model = net.model(y)
    inputs = samples(model, 8)
    budget = error_budget(plan(model, inputs, width="int16"), inputs, samples=8, probes=4)
    rows = {r.tensor: r for r in budget.rows}
    assert rows[below].cut_by_design and rows[below].at_low > 0.5
    assert rows[below].accumulated_db < 20 and budget.first_bad is None
    assert rows[below].losses[y].clip == 0
    assert budget.explained[y] > 0.9


def test_sources_put_in_alone_cost_what_derivatives_say(case, monkeypatch):
    """Errors are small here, so that both ways of measuring have to agree; nothing is trusted, to get the second."""
    planned, inputs, budget = case
    monkeypatch.setattr(inject, "TRUSTED", 2.0)
    measured = error_budget(planned, inputs, samples=COUNT, batch_size=16, probes=32)
    (y,) = budget.snr_db
    assert measured.rows[0].injected and budget.rows[0].injected == ()
    compared = 0
    for one, other in zip(measured.rows, budget.rows, strict=True):
        for part in one.injected:
            ours, theirs = (getattr(r.losses[y], part) for r in (one, other))
            assert 10 * np.log10(ours) == pytest.approx(10 * np.log10(theirs), abs=1), f"{part} of {one.tensor}"
            compared += 1
    assert compared > 8
    assert "*" in measured.table(1) and "*" not in budget.table()


def test_what_is_measured_next_are_the_largest_sources_not_known():
    """Per source [samples, outputs, probes]; the second output is small, and only the weights matter there."""
    errors = np.array([[[3.0, 3.0], [0.1, 0.1]]])
    part = {"big": errors * [[[0.5], [0.0]]], "tiny": errors * [[[0.01], [0.0]]]}
    slopes = Gates({}, part, {"n": errors * [[[0.0], [0.9]]]}, {}, {})
    assert not inject.explains(slopes, errors)
    assert inject.largest(slopes, errors, frozenset()) == (("weight", "n"), ("round", "big"))
    assert inject.largest(slopes, errors, frozenset({("weight", "n")})) == (("round", "big"),)
    assert inject.explains(Gates({}, {"all": errors * 0.9}, {}, {}, {}), errors)


def test_an_infinite_derivative_is_no_infinite_loss():
    """The root of what a Relu leaves, which is 0 for every other value."""
    net = Net({"x": (1, 3, 6, 6)})
    model = net.model(net.conv(net.add("Sqrt", net.add("Relu", net.conv("x", 4))), 3))
    inputs = samples(model, 8)
    budget = error_budget(plan(model, inputs), inputs, samples=8, probes=4)
    assert all(np.isfinite([loss.total for loss in r.losses.values()]).all() for r in budget.rows)
    assert budget.explained[budget.worst_output] > 0.5


def test_reports(case):
    *_, budget = case
    (y,) = budget.snr_db
    data = json.loads(json.dumps(budget.to_json(), allow_nan=False))
    assert [r["tensor"] for r in data["rows"]] == [r.tensor for r in budget.rows]
    assert sum(r["losses"][y]["share"] for r in data["rows"]) == pytest.approx(1)
    lines = budget.table(3).splitlines()
    assert len(lines) == 6 and lines[0].startswith(f"{y}: {budget.snr_db[y]:.1f} dB on {COUNT} samples")
    assert [line.split()[0] for line in lines[3:]] == [r.node for r in budget.ranked()[:3]]


def test_bad_requests_are_named(case):
    planned, inputs, budget = case
    with pytest.raises(ConfigError, match="no quantized output 'nothing'"):
        budget.table(output="nothing")
    with pytest.raises(ConfigError, match="probes has to be 1 or more"):
        error_budget(planned, inputs, probes=0)


def test_traced_layers_are_those_of_the_budget(case):
    """Two integer runs in one compiled step, over batches of another size, against the budget's three steps."""
    planned, inputs, budget = case
    layers = trace_layers(planned, inputs, registry=REGISTRY, samples=COUNT, batch_size=7, limits={"x": 4.0})
    assert list(layers) == [t for t in planned.program.tensor if t in planned.plan.formats]
    for row in budget.rows:
        sums, codes = layers[row.tensor].sums, layers[row.tensor].codes
        for noise, expected in ((sums.alone, row.alone_db), (sums.noise, row.accumulated_db)):
            assert as_db(noise / sums.signal) == pytest.approx(expected, abs=0.01), row.tensor
        assert codes.sum() == sums.count == inputs["x"].shape[0] * np.prod(planned.program.shapes[row.tensor])
        assert codes[0] / sums.count == pytest.approx(row.at_low)
    held = layers["x"].values
    assert held is not None and held.sum() == np.count_nonzero(np.abs(inputs["x"]) <= 4.0)
