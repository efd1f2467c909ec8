"""Measured ranges against exact sorting."""

from fractions import Fraction

import numpy as np
import pytest
from calibrating import calibrate

from knerex_jax.calibrate.ranges import Cut
from knerex_jax.data.sources import open_source
from knerex_jax.graph.ir import TensorType

SAMPLES, SHAPE = 37, (5, 6, 7)
TINY = float(np.finfo(np.float32).tiny)
CUTS = {"narrow": 0.99, "wide": 0.999}
TWO_READINGS, ONE_READING = 2.0**-10, 2.0**-7


def _data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    size = (SAMPLES, *SHAPE)
    normal = rng.standard_normal(size)
    with_outliers = normal.copy()
    with_outliers.flat[rng.choice(normal.size, 9, replace=False)] = [1e9, -1e9, 3e12, -2e7, 5e3, 1e20, -1e20, 4e30, 7e5]
    skewed = -np.abs(normal)
    skewed.flat[rng.choice(normal.size, 12, replace=False)] = 50
    sparse = np.where(rng.random(size) < 0.004, np.abs(normal), 0)
    scaled = normal * np.float32(10.0) ** np.arange(-10, 15, 5).reshape(1, 5, 1, 1)
    return {
        "normal": normal,
        "heavy": rng.standard_t(1.2, size),
        "scaled": scaled,
        "constant": np.full(size, 3.0),
        "minus": np.full(size, -2.5),
        "zero": np.zeros(size),
        "positive": np.maximum(normal, 0),
        "negative": np.minimum(normal, 0) - 0.125,
        "clipped": np.clip(normal * 4, 0, 6),
        "skewed": skewed,
        "outliers": with_outliers,
        "sparse": sparse,
        "wide": 10 ** rng.uniform(-36, 36, size) * rng.choice([-1, 1], size),
        "tiny": normal * 1e-30,
        "subnormal": normal * 1e-41,
        "largest": normal * 3e37,
        "ties": np.round(normal),
    }


DATA = {name: values.astype(np.float32) for name, values in _data().items()}
AXES = {name: (1, 2, 3, None)[i % 4] for i, name in enumerate(DATA)}
TYPES = {name: TensorType("float32", (1, *SHAPE)) for name in DATA}


def _identity(params, inputs):
    return {name: value + params for name, value in inputs.items()}


def _measure(source, **options):
    return calibrate(
        _identity, np.float32(0), source, AXES, TYPES,
        pct=CUTS["narrow"], pct_wide=CUTS["wide"], batch_size=16, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def twice():
    return _measure(open_source(DATA, TYPES))


@pytest.fixture(scope="module")
def once():
    samples = ({name: values[i] for name, values in DATA.items()} for i in range(SAMPLES))
    return _measure(open_source(samples, TYPES))


def _ends(values: np.ndarray, limit: float) -> tuple[float, float]:
    """Range of the values up to a magnitude; a side that is lost altogether ends at 0."""
    kept = values[np.abs(values) <= limit]
    low, high = (kept.min(), kept.max()) if kept.size else (0.0, 0.0)
    return (min(low, 0.0) if values.min() < 0 else values.min()), (max(high, 0.0) if values.max() > 0 else values.max())


def _check(found_low: float, found_high: float, values: np.ndarray, pct: float, tolerance: float) -> None:
    values = values.astype(np.float64).ravel()
    drop = min(int((1 - Fraction(str(pct))) * values.size), values.size - 1)
    if drop == 0:
        assert (found_low, found_high) == (values.min(), values.max())
        return
    threshold = np.sort(np.abs(values))[-1 - drop]
    assert max(abs(found_low), abs(found_high)) == pytest.approx(threshold, rel=tolerance, abs=TINY)
    # The ends are those of the values up to some threshold that is as close to the exact one.
    inner = _ends(values, threshold * (1 - 2 * tolerance))
    outer = _ends(values, threshold * (1 + 2 * tolerance) + TINY)
    slack = [tolerance * abs(end) + TINY for end in (*outer, *inner)]
    assert outer[0] - slack[0] <= found_low <= inner[0] + slack[2]
    assert inner[1] - slack[3] <= found_high <= outer[1] + slack[1]


def _check_tensor(name: str, cut: Cut, pct: float, tolerance: float) -> None:
    values, axis = DATA[name], AXES[name]
    _check(cut.layer_min, cut.layer_max, values, pct, tolerance)
    channels = [values] if axis is None else list(np.moveaxis(values, axis, 0))
    assert cut.channel_min.shape == cut.channel_max.shape == (len(channels),)
    assert cut.channel_min.dtype == cut.channel_max.dtype == np.float32
    for low, high, channel in zip(cut.channel_min, cut.channel_max, channels, strict=True):
        _check(float(low), float(high), channel, pct, tolerance)


@pytest.mark.parametrize("record", CUTS)
@pytest.mark.parametrize("name", DATA)
def test_two_readings_are_within_a_tenth_of_a_percent(name, record, twice):
    _check_tensor(name, getattr(twice[name], record), CUTS[record], TWO_READINGS)


@pytest.mark.parametrize("record", CUTS)
@pytest.mark.parametrize("name", [n for n in DATA if n not in ("outliers", "wide", "scaled", "heavy")])
def test_one_reading_is_within_a_percent(name, record, once):
    _check_tensor(name, getattr(once[name], record), CUTS[record], ONE_READING)


def test_one_reading_says_so(once, twice):
    assert any("0.8 %" in hint for hint in once.hints)
    assert not any("0.8 %" in hint for hint in twice.hints)


def test_one_reading_is_never_too_small(once):
    """A threshold outside the window that the first batch suggested is stated as a bound, with a hint."""
    assert any("bounds only" in hint for hint in once.hints)
    for name in DATA:
        exact = np.sort(np.abs(DATA[name].ravel()))[-1 - int(0.01 * DATA[name].size)]
        assert once[name].layer_absmax(8) >= exact * (1 - ONE_READING) - TINY


def test_values_per_channel_are_counted(twice):
    assert twice["normal"].values_per_channel == SAMPLES * 42
    assert twice["constant"].values_per_channel == SAMPLES * 210
    assert twice.samples == SAMPLES


def test_full_percentage_is_exact():
    types = {name: TYPES[name] for name in ("normal", "wide")}
    ranges = calibrate(
        _identity, np.float32(0), open_source({n: DATA[n] for n in types}, types), {"normal": 1, "wide": 2}, types,
        pct=1.0, pct_wide=1.0,
    )  # fmt: skip
    for name, axis in (("normal", 1), ("wide", 2)):
        rows = np.moveaxis(DATA[name], axis, 0).reshape(DATA[name].shape[axis], -1)
        for cut in (ranges[name].narrow, ranges[name].wide):
            np.testing.assert_array_equal(cut.channel_min, rows.min(1))
            np.testing.assert_array_equal(cut.channel_max, rows.max(1))
            assert (cut.layer_min, cut.layer_max) == (rows.min(), rows.max())


def test_exact_tensors_are_not_cut(twice):
    types = {"normal": TYPES["normal"]}
    ranges = calibrate(
        lambda p, x: {"normal": x["normal"], "out": x["normal"] * 2}, {},
        open_source({"normal": DATA["normal"]}, types),
        {"normal": 1, "out": 1}, {**types, "out": TYPES["normal"]}, pct=0.99, pct_wide=0.999, exact=("out",),
    )  # fmt: skip
    assert ranges["out"].layer_absmax(8) == 2 * np.abs(DATA["normal"]).max()
    assert ranges["normal"].layer_absmax(8) == twice["normal"].layer_absmax(8)


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 40), 1), ((1,), None), ((1, 1, 9), 1), ((2, 3), 1), ((1, 3, 2, 2, 2), 1), ((1, 4, 6), 2)]
)
def test_shapes_and_axes(shape, axis):
    sample = shape[1:] if shape[0] == 1 else shape
    values = np.random.default_rng(1).standard_normal((50, *sample)).astype(np.float32)
    types = {"x": TensorType("float32", shape)}
    ranges = calibrate(
        lambda p, x: {"x": x["x"] * 2}, {}, open_source({"x": values}, types), {"x": axis}, types,
        pct=0.9, pct_wide=0.99,
    )  # fmt: skip
    full = (values * 2).reshape(50, *shape)
    channels = [full] if axis is None else list(np.moveaxis(full, axis + 1, 0))
    for record, pct in (("narrow", 0.9), ("wide", 0.99)):
        cut = getattr(ranges["x"], record)
        _check(cut.layer_min, cut.layer_max, full, pct, TWO_READINGS)
        for low, high, channel in zip(cut.channel_min, cut.channel_max, channels, strict=True):
            _check(float(low), float(high), channel, pct, TWO_READINGS)
