"""Ranges of outputs that a sigmoid follows."""

from dataclasses import replace

import numpy as np
import pytest
from calibrating import calibrate_all
from scipy.special import expit

from knerex_jax.calibrate.measured import RangeRule
from knerex_jax.data.sources import open_source
from knerex_jax.graph.ir import TensorType

SIZE = (24, 3, 2048)
_rng = np.random.default_rng(2)
VALUES = {
    "wide": 40 * _rng.standard_normal(SIZE),
    "detector": np.where(_rng.random(SIZE) < 0.3, 4, -12) + 3 * _rng.standard_normal(SIZE),
    "far": np.where(_rng.random(SIZE) < 0.001, 5e4, 1) * _rng.standard_normal(SIZE),
    "small": 0.3 * _rng.standard_normal(SIZE),
    "zero": np.zeros(SIZE),
}
VALUES = {name: values.astype(np.float32) for name, values in VALUES.items()}
TYPES = {name: TensorType("float32", (1, *SIZE[1:])) for name in VALUES}
PLAIN = RangeRule(pct=0.99, pct_wide=0.999)
OUTPUTS = tuple(VALUES)
RULES = [replace(PLAIN, sigmoids=OUTPUTS), RangeRule("mmse", percentile=0.01, sigmoids=OUTPUTS), PLAIN]
TOLERANCE_DB = 0.1
"""Few values lie where the sigmoid is curved, and brute force picks the luckiest of 100 roundings of them."""


def _fn(params, inputs):
    return {**inputs, "inner": inputs["wide"]}


@pytest.fixture(scope="module")
def found():
    types = {**TYPES, "inner": TYPES["wide"]}
    return calibrate_all(_fn, (), open_source(VALUES, TYPES), dict.fromkeys(types, 1), types, RULES, outputs=TYPES)


def _cost(values: np.ndarray, clip: float, bits: int) -> float:
    x, step = values.astype(np.float64), clip / (2 ** (bits - 1) - 1)
    quantized = np.clip(np.rint(x / step), -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1) * step
    return float(((expit(x) - expit(quantized)) ** 2).sum())


@pytest.mark.parametrize("bits", [8, 15])
@pytest.mark.parametrize("name", [name for name in VALUES if name != "zero"])
def test_the_clip_is_the_best_behind_the_sigmoid(name, bits, found):
    values = VALUES[name]
    largest = float(np.abs(values).max())
    candidates = np.append(np.geomspace(min(2.0, largest / 20), largest, 100), largest)
    least = min(_cost(values, t, bits) for t in candidates)
    excess_db = 10 * np.log10(_cost(values, found[0][name].layer_absmax(bits), bits) / least)
    assert excess_db <= TOLERANCE_DB


def test_saturated_outputs_win_resolution(found):
    exact, narrow = (found[i]["wide"].layer_absmax(8) for i in (2, 0))
    assert exact == np.abs(VALUES["wide"]).max() and 5 < narrow < 12
    assert _cost(VALUES["wide"], narrow, 8) < 0.1 * _cost(VALUES["wide"], exact, 8)


def test_every_channel_has_the_clip_of_the_layer(found):
    for cut in (found[0]["wide"].narrow, found[0]["wide"].wide):
        assert set(cut.channel_max) == {np.float32(cut.layer_max)} and set(cut.channel_min) == {
            np.float32(cut.layer_min)
        }


def test_only_outputs_are_concerned_and_either_method_gives_them_the_same(found):
    for record in ("narrow", "wide"):
        assert str(getattr(found[0]["inner"], record)) == str(getattr(found[2]["inner"], record))
        for name in VALUES:
            assert str(getattr(found[0][name], record)) == str(getattr(found[1][name], record))


def test_outputs_are_exact_without_it(found):
    for name, values in VALUES.items():
        assert (found[2][name].narrow.layer_min, found[2][name].wide.layer_max) == (values.min(), values.max())
