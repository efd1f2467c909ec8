"""A run that learns (range search, learned rounding, bias adjustment) through the public face."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import relative_error
from onnx_text import proto_of
from real_models import oracle_mismatches

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.metrics import snr_db
from knerex_jax.refine.grid import on_grid
from knerex_jax.runtime import FixedModel, FloatModel


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return {k: np.asarray(v[:64]) for k, v in embedded.calibration().items()}


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> kx.PTQResult:
    return kx.run_ptq(p_onnx=embedded.model_path(), np_txt=data, mode=1, p_output=tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory) -> kx.PTQResult:
    return kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, mode=1, p_output=tmp_path_factory.mktemp("learned"),
        range_search=True, weight_rounding="learned", optimize=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    return {k: v[:256] for k, v in embedded.evaluation()[0].items()}


def test_what_is_learned_helps_on_data_it_never_saw(plain, learned, digits):
    reference = FloatModel.load(embedded.model_path()).run(digits)["logits"]
    before, after = (snr_db(reference, FixedModel.load(r.paths["bie"]).run(digits)["logits"]) for r in (plain, learned))
    assert after > before + 3


def test_every_step_leaves_its_records(learned):
    records = learned.report["learned"]
    search = records["range_search"]
    finalists = [search["snr_db"][label] for label in search["finalists"]]
    assert finalists == sorted(finalists, reverse=True)
    assert list(search["refined_snr_db"]) == search["finalists"][:3]
    assert search["chosen"] == max(search["refined_snr_db"], key=search["refined_snr_db"].__getitem__)
    assert len(finalists) == len(search["snr_db"]) / 4
    assert {r["node"] for r in records["weight_rounding"]["nodes"]} == set(learned.plan.weight_bits)
    assert any(r["kept"] for r in records["bias_adjustment"]["nodes"])
    assert all(r["after"] < r["before"] for r in records["weight_rounding"]["nodes"] if r["kept"])


def test_emulator_and_oracle_agree_on_refined_integers(learned, digits):
    fixed = FixedModel.load(learned.paths["bie"])
    assert oracle_mismatches(learned.planned, fixed, {k: v[:2] for k, v in digits.items()}) == []


def test_the_quantized_stage_file_holds_grid_weights_and_adjusted_biases(plain, learned, digits):
    assert "wqbi" not in plain.paths and learned.paths["wqbi"].name.endswith(".scaled.wqbi.onnx")
    onnx.checker.check_model(onnx.load(learned.paths["wqbi"]), full_check=True)
    few = {k: v[:8] for k, v in digits.items()}
    session = ort.InferenceSession(str(learned.paths["wqbi"]))
    rows = [session.run(None, {k: v[i : i + 1] for k, v in few.items()})[0] for i in range(8)]
    made = np.concatenate(rows) / learned.plan.formats["logits"].scale
    refined = FloatModel(on_grid(learned.planned)).run(few)["logits"]
    original = FloatModel.load(embedded.model_path()).run(few)["logits"]
    assert relative_error(refined, made) <= 1e-5
    assert relative_error(original, made) > 1e-3, "weights on the grid and adjusted biases are another function"


def test_refining_is_deterministic(learned, data, tmp_path):
    again = kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, mode=1, p_output=tmp_path, range_search=True,
        weight_rounding="learned", optimize=3,
    )  # fmt: skip
    for name, integers in learned.planned.constants.items():
        for key, array in integers.items():
            np.testing.assert_array_equal(again.planned.constants[name][key], array)


def test_a_search_reads_the_data_once(data, tmp_path):
    rows = iter([{k: v[i] for k, v in data.items()} for i in range(16)])
    result = kx.run_ptq(p_onnx=embedded.model_path(), np_txt=rows, mode=1, p_output=tmp_path, range_search=True)
    assert result.ranges.samples == 16 and result.report["learned"]["range_search"]["finalists"]


def test_quantizers_of_the_model_are_announced(tmp_path):
    proto = proto_of(
        """(float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float s = {0.1}, int8 z = {0}>
        { a = Relu(x) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }"""
    )
    onnx.save(proto, tmp_path / "qdq.onnx")
    result = kx.run_ptq(
        p_onnx=tmp_path / "qdq.onnx", np_txt={"x": np.ones((8, 2, 4, 4), np.float32)}, mode=1, p_output=tmp_path / "out"
    )
    assert [n.applied for n in result.plan.notes] == ["their limits as Clip"]
