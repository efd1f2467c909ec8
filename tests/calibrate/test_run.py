"""The calibration loop: batches, compilations, bad values, progress, overflow of the counts."""

import jax.numpy as jnp
import numpy as np
import pytest
from calibrating import calibrate

from knerex_jax.calibrate import reading
from knerex_jax.calibrate.measured import RangeRule, ranges_of
from knerex_jax.calibrate.reading import Measurement
from knerex_jax.calibrate.run import extremes_of, measure, measure_parts
from knerex_jax.data.sources import open_source
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType

TYPES = {"x": TensorType("float32", (1, 3, 4, 5)), "y": TensorType("float32", (1, 3, 4, 5))}
OBSERVED = {"x": None, "y": 1}
VALUES = np.random.default_rng(3).standard_t(2, (37, 3, 4, 5)).astype(np.float32)


def _fn(params, inputs):
    return {"x": inputs["x"], "y": jnp.maximum(inputs["x"], 0) * params}


def _source(values=VALUES):
    return open_source({"x": values}, {"x": TYPES["x"]})


def _calibrate(source, **options):
    return calibrate(_fn, np.float32(2), source, OBSERVED, TYPES, **{"pct": 0.9, "pct_wide": 0.99, **options})


def _same(a, b):
    for t in OBSERVED:
        for record in ("narrow", "wide"):
            one, two = getattr(a[t], record), getattr(b[t], record)
            assert (one.layer_min, one.layer_max) == (two.layer_min, two.layer_max)
            np.testing.assert_array_equal(one.channel_min, two.channel_min)
            np.testing.assert_array_equal(one.channel_max, two.channel_max)


def test_any_batch_size_gives_the_same_ranges():
    one = _calibrate(_source(), batch_size=16)
    for size in (1, 7, 37, 64):
        _same(one, _calibrate(_source(), batch_size=size))


def test_pieces_of_a_batch_give_the_same_ranges(monkeypatch):
    one = _calibrate(_source(), batch_size=16)
    monkeypatch.setattr(reading, "_CPU_PIECE", 64)
    _same(one, _calibrate(_source(), batch_size=16))


def test_every_reading_compiles_once():
    traces = []

    def counted(params, inputs):
        traces.append(1)
        return _fn(params, inputs)

    calibrate(counted, np.float32(2), _source(), OBSERVED, TYPES, pct=0.9, pct_wide=0.99, batch_size=5)
    assert len(traces) == 2


def test_without_a_cut_one_reading_is_enough():
    seen = []
    _calibrate(_source(), pct=1.0, pct_wide=1.0, progress=seen.append)
    assert seen == [16, 32, 37]


def test_parts_are_measured_each_for_itself_with_the_steps_of_one():
    traces, rule = [], RangeRule(pct=0.9, pct_wide=0.99)

    def counted(params, inputs):
        traces.append(1)
        return _fn(params, inputs)

    sources = [_source(VALUES[:16]), _source(-np.abs(VALUES[16:32])), _source(np.abs(VALUES[8:24]))]
    measurement = Measurement(counted, np.float32(2), OBSERVED, TYPES, batch_size=8)
    parts = measure_parts(measurement, sources, [rule])
    assert len(traces) == 2
    alone = [measure(Measurement(_fn, np.float32(2), OBSERVED, TYPES, batch_size=8), s, [rule]) for s in sources]
    for one, two in zip(parts, alone, strict=True):
        assert one.state.samples == 16
        _same(*(ranges_of(measured, [rule])[0] for measured in (one, two)))


def test_progress_counts_samples_of_each_reading():
    seen = []
    _calibrate(_source(), progress=seen.append)
    assert seen == [16, 32, 37] * 2


def test_the_search_takes_no_more_readings_than_percentages():
    seen, rule = [], RangeRule("mmse", percentile=0.1)
    measure(Measurement(_fn, np.float32(2), OBSERVED, TYPES, progress=seen.append), _source(), [rule])
    assert seen == [16, 32, 37] * 2


def test_outliers_cost_another_reading_of_the_tensors_concerned_only():
    values = VALUES.copy()
    values[:, 1] *= 1e-9
    values[0, 1, 0, 0] = 1e9
    seen, taps = [], []

    def watched(params, inputs):
        taps.append(len(inputs))
        return _fn(params, inputs)

    calibrate(watched, np.float32(2), _source(values), OBSERVED, TYPES, pct=0.9, pct_wide=0.99, progress=seen.append)
    assert len(seen) % 3 == 0 and 3 * 2 < len(seen) <= 3 * 5
    assert len(taps) == len(seen) // 3


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rereadable", [True, False])
def test_a_value_that_is_not_finite_names_its_tensor(bad, rereadable):
    def spoiled(params, inputs):
        y = jnp.where(inputs["x"] == VALUES[20, 1, 2, 3], bad, inputs["x"])
        return {"x": inputs["x"], "y": y}

    source = _source() if rereadable else open_source(iter(VALUES), {"x": TYPES["x"]})
    with pytest.raises(ModelError, match=r"samples 16 to 31[\s\S]*tensor 'y'"):
        calibrate(spoiled, {}, source, OBSERVED, TYPES, pct=0.9, pct_wide=0.99, batch_size=16)


def test_what_is_not_finite_is_named_whatever_the_order_of_the_names():
    types = {**TYPES, "a": TYPES["y"]}

    def fn(params, inputs):
        return {"x": inputs["x"], "y": inputs["x"], "a": inputs["x"] / 0}

    with pytest.raises(ModelError, match="tensor 'a'"):
        calibrate(fn, {}, _source(), {"x": None, "y": 1, "a": 1}, types, pct=0.9, pct_wide=0.99)


def test_a_source_that_changes_is_refused():
    counts = iter([10, 9, 8])

    def items():
        return iter(VALUES[: next(counts)])

    with pytest.raises(ModelError, match="10 samples, then 9"):
        _calibrate(open_source(items, {"x": TYPES["x"]}))
    rng = np.random.default_rng(0)
    with pytest.raises(ModelError, match=r"changed between two readings \(37 samples, then 37\)"):
        _calibrate(open_source(lambda: (v[:, :, ::-1] if rng.random() < 0.5 else v for v in VALUES), {"x": TYPES["x"]}))


def test_counts_move_to_the_host_before_they_overflow(monkeypatch):
    plain = _calibrate(_source(), batch_size=4)
    monkeypatch.setattr(reading, "_capacity", lambda *_: 8)
    _same(plain, _calibrate(_source(), batch_size=4))


def test_a_batch_too_large_to_count_is_refused():
    types = {"x": TensorType("float32", (1, 1)), "y": TensorType("float32", (1, 1, 2**16, 2**14))}
    measurement = Measurement(_fn, {}, {"y": 1}, types, 16)
    with pytest.raises(ConfigError, match="at most 1"):
        reading._capacity(measurement, extremes_of(measurement), 2)


def test_states_of_parts_merge_to_the_state_of_all():
    rules = [RangeRule(pct=0.9, pct_wide=0.99), RangeRule("mmse", percentile=0.1, outlier_factor=1.5)]

    def measured(values):
        return measure(Measurement(_fn, np.float32(2), OBSERVED, TYPES, 8), _source(values), rules)

    whole = measured(VALUES)
    a, b, c = (measured(part) for part in (VALUES[:5], VALUES[5:21], VALUES[21:]))
    for merged in (a.merge(b, c), c.merge(a).merge(b), a.merge(b.merge(c))):
        assert merged.state.samples == 37
        for found, expected in zip(ranges_of(merged, rules), ranges_of(whole, rules), strict=True):
            _same(found, expected)
    for t in OBSERVED:
        one, two = a.merge(b, c).state.tensors[t], a.merge(b.merge(c)).state.tensors[t]
        for key in vars(one):
            np.testing.assert_array_equal(getattr(one, key), getattr(two, key))


def test_one_measurement_serves_all_rules_that_were_announced():
    rules = [
        RangeRule(pct=0.9, pct_wide=0.99),
        RangeRule("mmse", percentile=0.1),
        RangeRule("mmse", percentile=0.01, outlier_factor=3),
    ]
    measurement = Measurement(_fn, np.float32(2), OBSERVED, TYPES, 16)
    both = ranges_of(measure(measurement, _source(), rules), rules)
    for rule, found in zip(rules, both, strict=True):
        (alone,) = ranges_of(measure(measurement, _source(), [rule]), [rule])
        _same(found, alone)
        assert found.method == rule.method
    assert both[0]["x"].layer_absmax(8) < both[1]["x"].layer_absmax(8) == np.abs(VALUES).max()


@pytest.mark.parametrize(
    "rule",
    [RangeRule(pct=0.5, pct_wide=0.6), RangeRule("mmse", percentile=0.5)],
)
def test_a_rule_that_reaches_below_the_counts_gives_bounds_with_a_hint(rule):
    values = VALUES * np.float32(10.0) ** np.where(np.arange(37) < 5, 9, 0)[:, None, None, None]
    measurement = Measurement(_fn, np.float32(2), OBSERVED, TYPES, 16)
    known = RangeRule(pct=0.999, pct_wide=0.9999)
    (bound,) = ranges_of(measure(measurement, _source(values), [known]), [rule])
    (found,) = ranges_of(measure(measurement, _source(values), [rule]), [rule])
    assert any("bounds only" in hint for hint in bound.hints)
    assert not any("bounds only" in hint for hint in found.hints)
    for t in OBSERVED:
        assert bound[t].layer_absmax(8) >= found[t].layer_absmax(8)


def test_hints_about_the_data_are_kept():
    hints = _calibrate(_source(), pct=0.999, exact=("y",)).hints
    assert len(hints) == 1 and "37 calibration samples are few" in hints[0]


def test_integer_inputs_reach_the_model_as_integers():
    types = {"x": TensorType("int32", (1, 4)), "y": TensorType("float32", (1, 4))}

    def fn(params, inputs):
        assert inputs["x"].dtype == jnp.int32
        return {"y": inputs["x"] * 0.5}

    source = open_source({"x": np.arange(40).reshape(10, 4)}, {"x": types["x"]})
    ranges = calibrate(fn, {}, source, {"y": 1}, types, pct=0.999, pct_wide=0.999999)
    assert (ranges["y"].narrow.layer_min, ranges["y"].narrow.layer_max) == (0.0, 19.5)
