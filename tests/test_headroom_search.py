"""The range search finds the headroom of 16-bit data on samples that did not set the ranges."""

import numpy as np
import pytest
from helpers import Net

from knerex_jax import embedded
from knerex_jax.api import run_ptq
from knerex_jax.diagnose.whatif import WhatIf
from knerex_jax.flow import analyze, make_plan, measure
from knerex_jax.graph.ir import Model
from knerex_jax.improve import RangeChoice, choose_ranges, searched_configs
from knerex_jax.ops import REGISTRY
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.refine.headroom import Room

INT16 = {f"{side}_bitwidth_mode": "int16" for side in ("datapath", "weight", "model_in", "model_out")}
COUNT, SHAPE = 32, (4, 3, 5)


def search(data: np.ndarray, model: Model | None = None, **options: object) -> RangeChoice:
    """The choice for a model: two convolutions of 1x1."""
    net = Net({"x": (1, *SHAPE)})
    model = model or net.model(net.conv(net.conv("x", 4, kernel=1), 4, kernel=1))
    config = PTQConfig(platform="730", range_search=True, **options)
    measured = measure(model, {"x": list(data)}, config, also=searched_configs(config).values())
    return choose_ranges(model, measured, {"x": data}, config)


@pytest.fixture(scope="module")
def familiar() -> np.ndarray:
    """Two samples again and again, so that every fold has seen all there is."""
    return np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)[np.arange(COUNT) // 4 % 2]


def test_data_without_surprises_need_no_headroom(familiar):
    choice = search(familiar, **INT16)
    assert {c.config.headroom_16b for c in choice.finalists} == {0.0}
    assert min(choice.room.snr_db[Room(0.0, 0)]) > max(choice.room.snr_db[Room(2.0, 0)]) + 6


def test_headroom_stays_where_held_out_samples_exceed_the_ranges(familiar):
    loud = familiar.copy()
    loud[9] *= 3.5
    choice = search(loud, **INT16)
    assert {c.config.headroom_16b for c in choice.finalists} == {2.0}
    assert sum(snr < 20 for snr in choice.room.snr_db[Room(0.0, 0)]) == 1


def test_the_search_is_for_data_of_16_bits_that_the_user_leaves_open(familiar):
    assert search(familiar).room is None, "8-bit data"
    assert search(familiar[:7], **INT16).room is None, "too few samples to judge"
    fixed = search(familiar, headroom_16b=1.0, **INT16)
    assert fixed.room is None and fixed.finalists[0].config.headroom_16b == 1.0


def test_decomposed_operators_of_an_8_bit_model_ask_for_no_search(familiar):
    net = Net({"x": (1, *SHAPE)})
    scores = net.add("Softmax", net.add("Add", net.conv("x", 4, kernel=1), net.random(4, 1, 1)), axis=1)
    model = decompose_model(net.model(net.conv(scores, 4, kernel=1)), REGISTRY)
    config = PTQConfig(platform="730")
    formats = make_plan(model, analyze(model, {"x": list(familiar)}, config), config).plan.formats
    assert 15 in {f.bits for f in formats.values()}
    assert search(familiar, model).room is None
    assert search(familiar, model, model_out_bitwidth_mode="int16").room is not None


def test_rules_that_differ_at_8_bits_only_are_tried_once(familiar):
    labels = search(familiar, headroom_16b=1.0, **INT16).snr_db
    assert [x for x in labels if x.startswith("percentage")] == ["percentage 0.999, guard 0"], "few values, few formats"
    assert len(search(familiar).snr_db) == 7 * 4


def test_headroom_divides_the_codes_of_wide_data_alone(familiar):
    net = Net({"x": (1, *SHAPE)})
    model = net.model(net.conv("x", 4, kernel=1))
    widths = {**INT16, "model_in_bitwidth_mode": "int8"}
    none, some = (PTQConfig(platform="730", headroom_16b=bits, **widths) for bits in (0.0, 1.5))
    ranges = analyze(model, {"x": list(familiar)}, none)
    before, after = (make_plan(model, ranges, config).plan.formats for config in (none, some))
    (y,) = model.graph.outputs
    np.testing.assert_allclose(before[y].factor / after[y].factor, 2**1.5, rtol=1e-5)
    np.testing.assert_array_equal(before["x"].factor, after["x"].factor)


def test_the_report_says_what_was_found_and_what_if_reads_it_back(tmp_path):
    data = {k: v[:16] for k, v in embedded.calibration().items()}
    result = run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, mode=1, p_output=tmp_path, platform="730", range_search=True, **INT16
    )
    search, applied = result.report["learned"]["range_search"], result.report["applied"]
    found = search["held_out"]
    assert found["chosen"] == str(Room(applied["headroom_16b"], applied["guard_bits"]))
    assert found["chosen"] in found["snr_db_by_fold"] and search["chosen"].endswith(found["chosen"])
    assert {len(each) for each in found["snr_db_by_fold"].values()} == {4}
    made = WhatIf.load(tmp_path).change({}).planned
    assert made.plan.to_json()["tensors"] == result.plan.to_json()["tensors"]


def test_a_search_before_mixbw_plans_with_16_bits(familiar):
    ranked = {**INT16, "weight_bitwidth_mode": "mixbw"}
    assert PTQConfig(platform="730", **ranked).unranked == PTQConfig(platform="730", **INT16)
    found, plain = search(familiar, headroom_16b=1.0, **ranked), search(familiar, headroom_16b=1.0, **INT16)
    assert found.snr_db == plain.snr_db and all(c.config.ranked == ("weight",) for c in found.finalists)
