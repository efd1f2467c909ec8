"""The searched ranges against brute force on the values themselves."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest
from calibrating import calibrate_all

from knerex_jax.calibrate.measured import RangeRule
from knerex_jax.calibrate.mmse import search
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.calibrate.reading import Measurement
from knerex_jax.calibrate.run import measure
from knerex_jax.data.sources import open_source
from knerex_jax.graph.ir import TensorType

SAMPLES, CHANNELS, POSITIONS = 32, 2, 4096
RULES = [
    RangeRule("mmse", percentile=percentile, outlier_factor=factor)
    for percentile, factor in product((0.001, 0.01, 0.1), (1.0, 1.5, 2.0, 4.0))
]
TOLERANCE_DB = 0.02


def _data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    size = (SAMPLES, CHANNELS, POSITIONS)
    normal = rng.standard_normal(size)
    outliers = normal.copy()
    outliers.flat[rng.choice(normal.size, 9, replace=False)] *= 40
    data = {
        "laplace": rng.laplace(size=size),
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": rng.standard_t(2.2, size),
        "outliers": outliers,
        "uniform": rng.uniform(-1, 1, size),
    }
    scales = np.float32([[1.0], [0.03]])
    return {name: values.astype(np.float32) * scales for name, values in data.items()}


DATA = _data()
TYPES = {name: TensorType("float32", (1, CHANNELS, POSITIONS)) for name in DATA}


def _identity(params, inputs):
    return inputs


@pytest.fixture(scope="module")
def found() -> list[Ranges]:
    return calibrate_all(_identity, (), open_source(DATA, TYPES), dict.fromkeys(DATA, 1), TYPES, RULES)


@dataclass
class Brute:
    """The contract's cost by its words, remembered by candidate: its part below the clip, and its part above."""

    magnitudes: np.ndarray
    qmax: int
    known: dict[float, tuple[float, float]] = field(default_factory=dict)

    def cost(self, clip: float, factor: float) -> float:
        if clip not in self.known:
            x, step = self.magnitudes, clip / self.qmax
            at = np.searchsorted(x, clip, "right")
            inside = float(((x[:at] - np.rint(x[:at] / step) * step) ** 2).sum())
            self.known[clip] = inside, float(((x[at:] - clip) ** 2).sum())
        inside, outside = self.known[clip]
        return inside + factor**2 * outside

    def least(self, rule: RangeRule) -> float:
        """Least cost over the largest magnitudes: 30 of them one by one, the rest first coarsely, then finely."""
        count = len(self.magnitudes)
        lowest = count - 1 - int(Fraction(str(rule.percentile)) * count)
        coarse = np.linspace(lowest, count - 1, 40).astype(int)
        best, _ = self._least_of(np.append(coarse, np.arange(max(lowest, count - 30), count)), rule)
        near = np.searchsorted(coarse, best)
        span = coarse[max(near - 1, 0)], coarse[min(near + 1, len(coarse) - 1)]
        return self._least_of(np.append(np.linspace(*span, 25).astype(int), best), rule)[1]

    def _least_of(self, places: Iterable[int], rule: RangeRule) -> tuple[int, float]:
        costs = {int(i): self.cost(float(self.magnitudes[i]), rule.outlier_factor) for i in places}
        best = min(costs, key=costs.__getitem__)
        return best, costs[best]


@cache
def _brute(name: str, channel: int | None, bits: int) -> Brute:
    values = DATA[name] if channel is None else DATA[name][:, channel]
    return Brute(np.sort(np.abs(values.astype(np.float64)).ravel()), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", [8, 15])
@pytest.mark.parametrize("channel", [None, 1])
@pytest.mark.parametrize("name", DATA)
def test_the_search_finds_the_optimum_of_the_raw_values(name, channel, bits, found):
    for rule, ranges in zip(RULES, found, strict=True):
        absmax = ranges[name].layer_absmax(bits) if channel is None else ranges[name].channel_absmax(bits)[channel]
        brute = _brute(name, channel, bits)
        excess_db = 10 * np.log10(brute.cost(float(absmax), rule.outlier_factor) / brute.least(rule))
        assert excess_db <= TOLERANCE_DB, (rule, absmax)


def test_a_larger_factor_keeps_more_outliers(found):
    clips = [ranges["heavy"].channel_absmax(8)[0] for ranges in found[8:]]
    assert all(a <= b for a, b in zip(clips, clips[1:], strict=False)) and clips[0] < clips[-1]


def test_what_is_not_clipped_keeps_its_exact_ends(found):
    for ranges in found:
        cut = ranges["relu"].narrow
        assert cut.layer_min == 0 and not cut.channel_min.any()
        wide = ranges["uniform"].wide
        assert wide.channel_max[0] == DATA["uniform"][:, 0].max()


def test_beats_percentage_where_a_few_outliers_carry_the_range(found):
    (plain,) = calibrate_all(
        _identity, (), open_source(DATA, TYPES), dict.fromkeys(DATA, 1), TYPES, [RangeRule(pct=1.0, pct_wide=1.0)]
    )
    for name in ("laplace", "heavy"):
        cost = [_brute(name, None, 8).cost(ranges[name].layer_absmax(8), 1.0) for ranges in (found[8], plain)]
        assert 10 * np.log10(cost[1] / cost[0]) > 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.zeros(64), 0.0), (np.full(64, 3.0), 3.0), (np.full(64, -2.5), 2.5), (np.full(64, 1e-30), 1e-30)],
)
def test_a_tensor_without_choice_keeps_its_range(values, expected):
    types = {"x": TensorType("float32", (1, 1, 64))}
    data = np.repeat(values.astype(np.float32).reshape(1, 1, 64), 20, axis=0)
    (ranges,) = calibrate_all(
        _identity, (), open_source({"x": data}, types), {"x": 1}, types, [RangeRule("mmse", percentile=0.5)]
    )
    assert ranges["x"].layer_absmax(8) == ranges["x"].channel_absmax(15)[0] == np.float32(expected)


def test_tensors_and_settings_do_not_matter_to_one_another():
    """All of them are searched side by side; each alone gives the same clips, to the last bit."""
    measurement = Measurement(_identity, (), dict.fromkeys(DATA, 1), TYPES, 16)
    states = measure(measurement, open_source(DATA, TYPES), RULES).state.tensors
    settings = [rule.setting for rule in RULES]
    together = search(states.values(), settings)
    for state, found in zip(states.values(), together, strict=True):
        for setting, clips in zip(settings, found, strict=True):
            ((alone,),) = search([state], [setting])
            assert alone.final == clips.final
            np.testing.assert_array_equal(alone.layer, clips.layer)
            np.testing.assert_array_equal(alone.channels, clips.channels)


def test_one_huge_value_does_not_overflow_the_search():
    types = {"x": TensorType("float32", (1, 1, 4096))}
    data = np.random.default_rng(0).standard_normal((16, 1, 4096)).astype(np.float32)
    data[3, 0, 5] = 1e36
    (ranges,) = calibrate_all(
        _identity, (), open_source({"x": data}, types), {"x": 1}, types, [RangeRule("mmse", percentile=0.01)]
    )
    assert ranges["x"].layer_absmax(8) == np.float32(1e36)


def test_one_reading_of_a_stream_comes_close():
    samples = ({name: values[i] for name, values in DATA.items()} for i in range(SAMPLES))
    rule = RULES[8]
    (ranges,) = calibrate_all(_identity, (), open_source(samples, TYPES), dict.fromkeys(DATA, 1), TYPES, [rule])
    for name in DATA:
        brute = _brute(name, None, 8)
        assert brute.cost(ranges[name].layer_absmax(8), 1.0) <= brute.least(rule) * 1.02, name
