"""The main job through its public face, on the model and digits that ship with the package."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import relative_error

import knerex_jax as kx
from knerex_jax import api, embedded

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> kx.PTQResult:
    data = {k: list(v[:100]) for k, v in embedded.calibration().items()}
    return kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, platform="720", p_output=tmp_path_factory.mktemp("out") / "deeper"
    )


@pytest.fixture(scope="module")
def digits():
    inputs, labels = embedded.evaluation()
    return {k: v[:64] for k, v in inputs.items()}, labels[:64]


def ort_run(path, inputs, count):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options)
    names = [o.name for o in session.get_outputs()]
    rows = [session.run(None, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return {n: np.concatenate([r[j] for r in rows]) for j, n in enumerate(names)}


def test_result_names_every_file_and_they_exist(result):
    assert set(result.paths) == {
        "origin",
        "decomposed",
        "scaled",
        "bie",
        "report_html",
        "report_json",
        "calibration",
        "nef",
        "integer_onnx",
        "qdq_onnx",
        "config",
    }
    assert all(p.is_file() for p in result.paths.values())
    assert sorted(p.name for p in result.paths["bie"].parent.iterdir()) == sorted(p.name for p in result.paths.values())
    assert result.bit_true_match is True
    match = result.report["bit_true_match"]
    assert match["samples"] == 1 and match["codes"] == 10 and match["differing"] == 0


def test_stage_files_are_valid_and_equal_the_model_on_onnx_runtime(result, digits):
    inputs, _ = digits
    reference = ort_run(embedded.model_path(), inputs, 8)
    for stage in ("origin", "decomposed", "scaled"):
        onnx.checker.check_model(onnx.load(result.paths[stage]), full_check=True)
        outputs = ort_run(result.paths[stage], inputs, 8)
        for name, value in reference.items():
            scale = result.plan.formats[name].scale if stage == "scaled" else 1.0
            assert relative_error(value, outputs[name] / scale) <= 1e-5, stage


def test_fixed_result_can_be_had_from_the_scaled_model_alone(result, digits):
    inputs, _ = digits
    from_bie = kx.FixedModel.load(result.paths["bie"]).run(inputs, "fixed")
    from_scaled = kx.FixedModel.load(result.paths["scaled"]).run(inputs, "fixed")
    for name, codes in from_bie.items():
        assert codes.dtype == np.int8
        np.testing.assert_array_equal(codes, from_scaled[name])
    keys = {p.key for p in onnx.load(result.paths["scaled"]).metadata_props}
    assert {"knerex.plan", "knerex.weights", "knerex.bie"} <= keys


def test_accuracy_is_kept_and_the_report_says_what_was_done(result, digits):
    inputs, labels = digits
    fixed = kx.FixedModel.load(result.paths["bie"]).run(inputs)["logits"]
    assert (fixed.argmax(axis=1) == labels).mean() >= 0.95
    report = json.loads(result.paths["report_json"].read_text())
    assert report["snr_db"]["logits"] == pytest.approx(result.snr_db["logits"]) and result.snr_db["logits"] > 20
    assert report["requested"]["mode"] == 2 and report["applied"]["mode"] == 2
    assert report["overflow"]["proven"] == report["overflow"]["total"] > 0
    assert {"name", "op", "tensor", "bits", "radix", "scale", "range"} <= set(report["nodes"][0])
    assert report["snr_samples"] == 64
    assert {"python", "jax", "knerex-jax"} <= set(report["versions"])


def test_float_and_fixed_models_take_any_number_of_samples(result):
    inputs, _ = embedded.evaluation()
    model = kx.FloatModel.load(embedded.model_path())
    for count in (1, 3, 33):
        some = {k: v[:count] for k, v in inputs.items()}
        assert model.run(some)["logits"].shape == (count, 10)
        assert kx.FixedModel.load(result.paths["bie"]).run(some)["logits"].shape == (count, 10)


def test_kneron_inference_runs_onnx_and_bie(result):
    inputs, _ = embedded.evaluation()
    arrays, names = [inputs["input"][:2]], ["input"]
    (float_out,) = kx.kneron_inference(arrays, names, onnx_file=embedded.model_path())
    (fixed_out,) = kx.kneron_inference(arrays, names, bie_file=result.paths["bie"], reordering=["logits"])
    (codes,) = kx.kneron_inference(arrays, names, bie_file=result.paths["bie"], data_type="fixed")
    assert float_out.shape == fixed_out.shape == codes.shape == (2, 10)
    assert np.issubdtype(codes.dtype, np.integer)
    with pytest.raises(kx.ConfigError, match="no output 'nope'"):
        kx.kneron_inference(arrays, names, bie_file=result.paths["bie"], reordering=["nope"])


def test_an_iterator_is_read_once_and_noted(tmp_path):
    arrays = embedded.calibration()["input"][:100]
    result = kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=({"input": a} for a in arrays), p_output=tmp_path, platform="520"
    )
    assert result.report["snr_samples"] == 64
    assert any("once" in hint for hint in result.report["hints"]), result.report["hints"]
    assert result.snr_db["logits"] > 15


def test_planning_again_keeps_the_program(result):
    config = kx.PTQConfig(platform="720", data_analysis_pct=0.99)
    model = kx.decompose_onnx(embedded.model_path())
    ranges = kx.analyze(model, embedded.calibration(), config)
    other = kx.make_plan(model, ranges, config, base=result.planned)
    assert other.program == result.planned.program and hash(other.program) == hash(result.planned.program)
    assert other.plan.to_json() != result.plan.to_json()


def test_mode_3_compares_what_there_is_of_an_iterator(tmp_path):
    arrays = embedded.calibration()["input"][:5]
    result = kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=({"input": a} for a in arrays), p_output=tmp_path, mode=3, optimize=2
    )
    match = result.report["bit_true_match"]
    assert result.bit_true_match is True and match["samples"] == 5 and match["layers"] and match["tensors"] > 5
    assert ("mode", "the first 5") in [(n.where, n.applied) for n in result.plan.notes]
    assert set(result.report["compiled"]["estimate_ms"]) == {"default", "deep_search"}


def test_mode_3_holds_384_samples_of_an_iterator_at_most(tmp_path, monkeypatch):
    assert api.LEARN_SAMPLES == 384
    monkeypatch.setattr(api, "LEARN_SAMPLES", 3)
    arrays = embedded.calibration()["input"][:5]
    config = {"p_onnx": embedded.model_path(), "p_output": tmp_path, "mode": 3}
    result = kx.run_ptq(np_txt=({"input": a} for a in arrays), **config)
    assert result.report["bit_true_match"]["samples"] == 3
    assert ("mode", "the first 3") in [(n.where, n.applied) for n in result.plan.notes]
    again = kx.run_ptq(np_txt={"input": list(arrays)}, **config)  # what can be read again is compared whole
    assert again.report["bit_true_match"]["samples"] == 5
    assert "mode" not in [n.where for n in again.plan.notes]


def test_a_nef_runs_like_its_bie(result):
    inputs, _ = embedded.evaluation()
    arrays, names = [inputs["input"][:2]], ["input"]
    for data_type in ("float", "fixed"):
        outputs = [
            kx.kneron_inference(arrays, names, data_type=data_type, **{f"{kind}_file": result.paths[kind]})[0]
            for kind in ("nef", "bie")
        ]
        np.testing.assert_array_equal(*outputs)
    with pytest.raises(kx.ArtifactError, match="no model 1"):
        kx.kneron_inference(arrays, names, nef_file=result.paths["nef"], model_id=1)
