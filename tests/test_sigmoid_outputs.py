"""Outputs that a sigmoid outside the model follows, from the option to the report."""

import numpy as np
import onnx
import pytest
from onnx_text import proto_of
from scipy.special import expit

import knerex_jax as kx
from knerex_jax.config_file import load_config
from knerex_jax.diagnose.whatif import WhatIf
from knerex_jax.quantize.config import make_config
from knerex_jax.report.score import with_score
from knerex_jax.sweep.cell import run_cell, share
from knerex_jax.sweep.grid import Cell

TEXT = """(float[1, 3, 8, 8] x) => (float[1, 64, 4] boxes, float[1, 64, 2] scores)
<float[4, 3, 1, 1] w, float[2, 3, 1, 1] u, int64[3] four = {1, 64, 4}, int64[3] two = {1, 64, 2}> {
    raw = Conv(x, w)
    raw_turned = Transpose <perm = [0, 2, 3, 1]> (raw)
    boxes = Reshape(raw_turned, four)
    score = Conv(x, u)
    score_turned = Transpose <perm = [0, 2, 3, 1]> (score)
    scores = Reshape(score_turned, two)
}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    onnx.save(proto_of(TEXT), folder / "detector.onnx")
    data = (30 * np.random.default_rng(3).standard_normal((40, 3, 8, 8))).astype(np.float32)
    np.savez(folder / "data.npz", x=data)
    return folder, {"x": data}


@pytest.fixture(scope="module")
def result(place) -> kx.PTQResult:
    folder, _ = place
    return kx.run_ptq(
        p_onnx=folder / "detector.onnx", np_txt=folder / "data.npz", platform="730", p_output=folder / "out",
        quantize_mode="post_sigmoid", sigmoid_outputs=["scores"],
    )  # fmt: skip


def test_scores_are_fine_where_the_sigmoid_is_steep_and_boxes_reach_everything(place, result):
    _, data = place
    exact = kx.FloatModel.load(place[0] / "detector.onnx").run(data)
    steps = {t: 1 / (f.scale[0] * 2.0 ** f.radix[0]) for t in exact for f in (result.plan.formats[t],)}
    assert 127.5 * steps["boxes"] > np.abs(exact["boxes"]).max()
    assert np.abs(exact["scores"]).max() > 50 and 127 * steps["scores"] < 15


def test_the_report_measures_them_behind_the_sigmoid(place, result):
    _, data = place
    exact = kx.FloatModel.load(place[0] / "detector.onnx").run(data)
    fixed = kx.FixedModel.load(result.paths["bie"]).run(data)
    wanted = {t: v.astype(np.float64) for t, v in exact.items()}
    made = {t: v.astype(np.float64) for t, v in fixed.items()}
    for values in (wanted, made):
        values["scores"] = expit(values["scores"])
    for t in wanted:
        snr = 10 * np.log10((wanted[t] ** 2).sum() / ((wanted[t] - made[t]) ** 2).sum())
        assert result.snr_db[t] == pytest.approx(snr, abs=1e-3)
    assert result.report["behind_sigmoid"] == ["scores"]
    assert "SNR of scores, behind its sigmoid" in result.paths["report_html"].read_text()
    assert "SNR of boxes<" in result.paths["report_html"].read_text()


def test_what_if_measures_alike(place, result):
    subject = WhatIf.load(place[0] / "out")
    assert subject.snr_db(subject.base, place[1]) == pytest.approx(dict(result.snr_db), abs=1e-6)


def test_a_sweep_measures_alike(place, result):
    folder, _ = place
    options = {
        "p_onnx": str(folder / "detector.onnx"), "np_txt": str(folder / "data.npz"), "platform": "730",
        "quantize_mode": "post_sigmoid", "sigmoid_outputs": ["scores"],
    }  # fmt: skip
    cell = Cell({"platform": "730"}, options, "one")
    for row in (run_cell(cell, share([make_config(**options)])), run_cell(cell, None)):
        assert row["status"] == "ok", row
        assert {t: row[f"snr_db:{t}"] for t in result.snr_db} == {t: round(v, 2) for t, v in result.snr_db.items()}


def test_an_alarm_says_where_it_was_measured(result):
    low = with_score({**result.report, "snr_db": {"boxes": 40.0, "scores": 3.0}})
    assert any("scores has 3.0 dB behind its sigmoid" in a["what"] for a in low["score"]["alarms"])


def test_the_run_can_be_repeated_from_its_config(place, result):
    again = load_config(result.paths["config"])
    assert again.sigmoid_outputs == ("scores",) and again.quantize_mode == "post_sigmoid"


def test_a_name_that_is_no_output_is_refused(place):
    folder, _ = place
    with pytest.raises(kx.ConfigError, match="no output 'score'"):
        kx.run_ptq(
            p_onnx=folder / "detector.onnx", np_txt=folder / "data.npz", p_output=folder / "other",
            quantize_mode="post_sigmoid", sigmoid_outputs="score",
        )  # fmt: skip
    assert not (folder / "other").exists() or not any((folder / "other").iterdir())
