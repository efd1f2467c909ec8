"""Suggestions against plans that carry them out."""

import math

import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges, fixed_model, float_values

from knerex_jax.calibrate.ranges import Cut, Ranges, TensorRange
from knerex_jax.diagnose.budget import ErrorBudget, error_budget
from knerex_jax.diagnose.suggest import LEAST_GAIN_DB, merge_entries, suggest_overrides
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.overrides import resolve
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.quan_config import read_quan_config
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

COUNT = 24


def branching_net() -> Model:
    """A coarse product behind a pool: rounding of activations dominates."""
    net = Net({"x": (1, 3, 8, 8)})
    a = net.add("Relu", net.conv("x", 6))
    pooled = net.add("MaxPool", a, kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4)
    joined = net.add("Mul", net.conv(pooled, 6), net.add("Sigmoid", pooled))
    flat = net.add("Flatten", joined)
    return net.model(net.add("Gemm", flat, net.random(96, 5, scale=0.1), net.random(5)))


def squeezed(ranges: Ranges, tensor: str, factor: float) -> Ranges:
    """The same with one range that is too narrow."""
    held = ranges[tensor]

    def narrowed(cut: Cut) -> Cut:
        return Cut(cut.layer_min * factor, cut.layer_max * factor, cut.channel_min * factor, cut.channel_max * factor)

    changed = TensorRange(narrowed(held.narrow), narrowed(held.wide), held.axis, held.values_per_channel)
    return Ranges({**ranges.tensors, tensor: changed}, ranges.samples, ranges.pct, ranges.pct_wide)


def planned_with(model: Model, ranges: Ranges, entries: dict, platform: str = "720", width: str = "int8") -> Planned:
    target = TARGETS[platform]
    overrides = resolve(read_quan_config(entries), model, analyse(model, target, REGISTRY), target)
    return plan_model(model, ranges, WIDTHS[width], target, policy=EVERY_CHANNEL, overrides=overrides)


def measured(planned: Planned, inputs: dict[str, np.ndarray]) -> float:
    (y,) = planned.model.graph.outputs
    return snr_db(float_values(planned.model, inputs, ())[y], fixed_model(planned).run(inputs)[y])


@pytest.fixture(scope="module")
def case() -> tuple[Model, dict[str, np.ndarray], Ranges, Planned, ErrorBudget]:
    model = branching_net()
    inputs = samples(model, COUNT)
    ranges = squeezed(exact_ranges(model, inputs, "720"), model.graph.nodes[3].outputs[0], 0.5)
    planned = planned_with(model, ranges, {})
    return model, inputs, ranges, planned, error_budget(planned, inputs, samples=COUNT, batch_size=24, probes=32)


def test_suggestions_are_ranked_and_count_on_each_other(case):
    *_, planned, budget = case
    found = suggest_overrides(budget, planned)
    (y,) = budget.snr_db
    assert len(found) >= 2
    assert all(s.gain_db >= LEAST_GAIN_DB for s in found)
    assert suggest_overrides(budget, planned, count=1) == found[:1]
    for s, total in zip(found, np.cumsum([s.gain_db for s in found]), strict=True):
        assert s.cumulative_db == pytest.approx(total)
        assert s.snr_db[y] == pytest.approx(budget.snr_db[y] + total)


@pytest.mark.parametrize("count", [1, 3])
def test_applying_the_top_ones_delivers_the_predicted_gain(case, count):
    model, inputs, ranges, planned, budget = case
    found = suggest_overrides(budget, planned, count=count)
    predicted = found[-1].cumulative_db
    better = planned_with(model, ranges, merge_entries(found))
    delivered = measured(better, inputs) - measured(planned, inputs)
    assert delivered == pytest.approx(predicted, abs=max(1.5, 0.25 * predicted))
    assert delivered > 1


def test_a_cut_range_is_widened(case):
    model, _, _, planned, budget = case
    cut = model.graph.nodes[3]
    (y,) = budget.snr_db
    row = next(r for r in budget.rows if r.tensor == cut.outputs[0])
    assert row.losses[y].clip > 0.3 * budget.total(y)
    assert cut.name in suggest_overrides(budget, planned, count=1)[0].entries


def test_what_passes_codes_on_is_widened_with_its_source(case):
    """A 15-bit Relu in front of an 8-bit pool would only move the rounding into the pool."""
    model, *_, planned, budget = case
    relu, pool = (next(n.name for n in model.graph.nodes if n.op_type == op) for op in ("Relu", "MaxPool"))
    entries = [s.entries for s in suggest_overrides(budget, planned, count=20) if relu in s.entries]
    assert entries and all(pool in e for e in entries)


def test_a_platform_without_15_bits_gets_none():
    model = branching_net()
    inputs = samples(model, 8)
    ranges = squeezed(exact_ranges(model, inputs, "520"), model.graph.nodes[1].outputs[0], 0.5)
    planned = planned_with(model, ranges, {}, "520")
    found = suggest_overrides(error_budget(planned, inputs, samples=8, probes=4), planned)
    assert found and not any("bitwidth" in e for s in found for e in s.entries.values())
    assert all(math.isfinite(s.gain_db) for s in found)
    planned_with(model, ranges, merge_entries(found), "520")  # every selector is known, every value is legal


def test_15_bits_with_less_headroom_promise_more(case):
    *_, planned, budget = case

    def promised(headroom_16b: float) -> float:  # with little headroom other sources are all that is left
        found = suggest_overrides(budget, planned, count=20, headroom_16b=headroom_16b)
        assert any("bitwidth" in e for s in found for e in s.entries.values())
        return found[-1].cumulative_db

    assert promised(2.0) > promised(4.0) > promised(6.0)
