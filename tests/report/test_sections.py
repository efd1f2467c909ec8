"""The report's data: consistent with each other, with the emulator, and with what they are made of."""

import json
from itertools import pairwise

import numpy as np
import pytest
from report_runs import HOSTILE, data_of

import knerex_jax as kx
from knerex_jax.artifacts.stages import finite
from knerex_jax.report.score import with_score
from knerex_jax.report.tensors import output_rows


def test_every_tensor_has_its_layer_and_its_distribution(good):
    report = data_of(good)
    formatted = list(good.plan.formats)
    assert set(report["layers"]) == set(report["tensors"]) == set(formatted)
    rows = [*report["input_tensors"], *report["nodes"]]
    made = {t for row in rows for t in row.get("outputs", [row["tensor"]])}
    assert all(made.issuperset(row.get("inputs", ())) for row in rows), "an edge that nothing makes"
    for t, row in report["tensors"].items():
        # The codes of `layer_samples` runs, all of them.
        size = np.prod(good.planned.program.shapes[t])
        assert sum(row["codes"]) == size * report["layer_samples"]
        if row["values"]["of"] == "calibration data":
            assert sum(row["values"]["counts"]) == size * 12
        low, high = row["cuts"]["8"]
        assert -row["values"]["limit"] * 1.001 <= low <= high <= row["values"]["limit"] * 1.001


def test_the_error_of_a_clip_is_best_between_the_ends_or_at_the_largest(good):
    curves = [row["search"] for row in data_of(good)["tensors"].values() if "search" in row]
    assert curves
    for curve in curves:
        assert all(a < b for a, b in pairwise(curve["clip"]))
        assert len(curve["clip"]) == len(curve["snr_db_8"]) == len(curve["snr_db_15"])
        # A clip far inside costs more than any rounding; at 15 bits hardly anything but clipping costs.
        assert curve["snr_db_8"][0] < max(curve["snr_db_8"]) and curve["snr_db_15"][-1] > curve["snr_db_8"][-1]


def test_the_schedule_ends_when_the_estimate_does_and_units_never_do_two_things(good):
    schedule = data_of(good)["schedule"]
    by_unit = {}
    for unit, start, end, node, commands in schedule["bars"]:
        assert start <= end <= schedule["end_ms"] * 1.00001 and commands == 1 and node < len(schedule["labels"])
        by_unit.setdefault(unit, []).append((start, end))
    for bars in by_unit.values():
        assert all(b[0] >= a[1] - 1e-9 for a, b in pairwise(bars))
    held = schedule["memories"]["sram"]
    assert all(0 <= b[0] and b[0] + b[1] <= held["bytes"] for b in held["buffers"])


def test_no_two_buffers_hold_the_same_bytes_of_the_chip_at_once(good):
    buffers = data_of(good)["schedule"]["memories"]["sram"]["buffers"]
    for i, a in enumerate(buffers):
        for b in buffers[:i]:
            in_place = a[0] < b[0] + b[1] and b[0] < a[0] + a[1]
            assert not (in_place and a[5] <= b[6] and b[5] <= a[6]), (a, b)


def test_the_report_in_memory_is_that_of_the_file(good, bad, estimated):
    for result in (good, bad, estimated):
        assert json.loads(json.dumps(finite(result.report))) == data_of(result)


def test_support_names_every_node_and_hashes_the_probe(good):
    report = data_of(good)
    assert report["support"]["supported"] and HOSTILE in {n["name"] for n in report["support"]["nodes"]}
    assert set(report["hashes"]) == {"y"} and len(report["hashes"]["y"]) == 64
    assert (
        report["repeat"]["command"].startswith("knerex ptq --p-onnx ")
        and "--error-budget true" in (report["repeat"]["command"])
    )


def test_a_good_run_has_no_alarm(good):
    score = data_of(good)["score"]
    assert score["level"] == "good" and score["alarms"] == []
    assert score["bit_true_match"] is True and score["fps"] == pytest.approx(good.evaluation.fps)
    (output,) = score["outputs"]
    assert output["snr_db"] == good.snr_db["y"] and output["channels"] == 5 and not output["collapsed"]


def test_a_constant_output_and_nodes_on_the_processor_are_alarms(bad):
    score = data_of(bad)["score"]
    assert score["level"] == "alarm"
    first, *rest = score["alarms"]
    assert first["level"] == "alarm" and "output y is constant" in first["what"] and "(0.0 dB)" in first["what"]
    assert any(a["level"] == "warning" and "on the CPU" in a["what"] and "sum" in a["what"] for a in rest)
    assert data_of(bad)["first_bad"]["node"] == "act"


def test_channels_of_an_output_are_looked_at_one_by_one(good):
    """Boxes and scores with one scale: the scores are lost, and the SNR of the whole does not show it."""
    rng = np.random.default_rng(0)
    reference = np.float32(rng.normal(size=(50, 5)) * [100, 100, 100, 0.4, 0])
    found = np.rint(reference)
    (row,) = output_rows(good.planned, {"y": reference}, {"y": found * [1, 1, 1, 0, 1]}, good.planned.model).values()
    assert row["collapsed_channels"] == [3] and row["collapsed"] == 1 and not row["constant"]
    assert row["worst_channel"] == 3 and row["worst_channel_db"] == 0.0 and row["channels"] == 5
    (row,) = output_rows(good.planned, {"y": reference}, {"y": found * 0}, good.planned.model).values()
    assert row["constant"] and row["collapsed"] == 4, "the last channel is constant in float, too"


def test_one_dead_channel_is_an_alarm_although_the_whole_is_fine(good):
    report = data_of(good)
    report["outputs"]["y"] |= {"collapsed": 1, "collapsed_channels": [3]}
    score = with_score(report)["score"]
    assert score["level"] == "alarm" and "1 of 5 channels of output y are constant" in score["alarms"][0]["what"]
    report["outputs"]["y"] |= {"probabilities": True}
    assert with_score(report)["score"]["level"] == "warning"


def test_differing_codes_are_an_alarm_and_possible_saturation_a_warning(good):
    report = data_of(good)
    report["overflow"] |= {"saturating": ["dense"]}
    report["bit_true_match"] |= {"equal": False, "differing": 2, "first": {"tensor": "y"}}
    said = [(a["level"], a["what"]) for a in with_score(report)["score"]["alarms"]]
    assert any(level == "warning" and "saturate" in s and "dense" in s for level, s in said)
    assert any(level == "alarm" and "differ in 2 of" in s for level, s in said)


def test_labelled_scores_go_into_both_files(good, tmp_path):
    copied = {k: tmp_path / p.name for k, p in good.paths.items()}
    moved = kx.PTQResult(copied, *(getattr(good, f) for f in ("snr_db", "plan", "bit_true_match", "report", "planned")),
                         ranges=good.ranges)  # fmt: skip
    scored = kx.add_scores(moved, {"top-1": {"float": 0.98, "fixed": 0.95, "samples": 1000}})
    assert scored.report["score"]["labelled"]["top-1"] == {"float": 0.98, "fixed": 0.95, "samples": 1000}
    assert data_of(scored)["score"]["level"] == "warning", "three points are lost"
    page = scored.paths["report_html"].read_text()
    assert page.index("0.95") < page.index("SNR of y"), "labelled scores come first"
    assert kx.add_scores(scored, {}).report["score"] == scored.report["score"]
    with pytest.raises(kx.ConfigError, match="'float' and 'fixed'"):
        kx.add_scores(moved, {"top-1": {"float": 0.98}})


def test_mode_0_says_that_nothing_was_quantized(estimated):
    report = data_of(estimated)
    assert report["score"]["headline"].startswith("Estimate only") and report["score"]["outputs"] == []
    assert report["schedule"]["bars"] and report["support"]["nodes"]
