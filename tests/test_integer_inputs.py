"""Models whose pictures or columns are integers, and models that lie both ways: quantized like any other."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import Net, samples
from onnx_text import proto_of

import knerex_jax as kx
from knerex_jax.graph.write import write_onnx
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind

PICTURE = (
    "(uint8[1,3,8,8] x) => (float[1,4,8,8] y) <float s = {0.00392}, float[4,3,1,1] w, float[4,4,1,1] v> "
    "{ f = Cast<to=1>(x) a = Mul(f, s) b = Conv(a, w) c = Relu(b) y = Conv(c, v) }"
)
COLUMNS = (
    "(int64[1,6] x) => (float[1,3] y) <float[6,5] w, float[5,3] v> "
    "{ f = Cast<to=1>(x) a = MatMul(f, w) b = Relu(a) y = MatMul(b, v) }"
)


@pytest.mark.parametrize("text", [PICTURE, COLUMNS])
def test_what_follows_from_integers_is_quantized_from_the_first_weights_on(text, tmp_path):
    onnx.save(proto_of(text), tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    high, dtype = (256, np.uint8) if given.type == "tensor(uint8)" else (20, np.int64)
    data = {"x": np.random.default_rng(0).integers(0, high, (16, *given.shape[1:])).astype(dtype)}
    made = kx.run_ptq(p_onnx=tmp_path / "m.onnx", np_txt=data, p_output=tmp_path / "out", mode=3)
    assert len(made.planned.plan.weight_bits) == 2
    assert made.bit_true_match and made.snr_db["y"] > 30
    wanted = np.concatenate([session.run(None, {"x": x[None]})[0] for x in data["x"]])
    found = kx.FixedModel.load(made.paths["bie"]).run(data)["y"].reshape(wanted.shape)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_nothing_but_integers_is_a_clear_error(tmp_path):
    onnx.save(proto_of("(int64[1,4] x) => (float[1,4] y) { f = Cast<to=1>(x) y = Sqrt(f) }"), tmp_path / "m.onnx")
    with pytest.raises(kx.ModelError, match="nothing to quantize"):
        kx.run_ptq(p_onnx=tmp_path / "m.onnx", np_txt={"x": np.ones((8, 4), np.int64)}, p_output=tmp_path / "out")


def cube(folder: Path) -> Path:
    net = Net({"x": (1, 5, 5, 5)})
    return write_onnx(unbind(net.model(net.conv("x", 2)), REGISTRY), folder / "cube.onnx")


def test_a_stated_layout_holds_for_the_whole_run(tmp_path):
    path = cube(tmp_path)
    data = samples(Net({"x": (1, 5, 5, 5)}).model("x"), 16)
    options = {"p_onnx": path, "optimize": 3, "range_search": True, "mode": 3, "export_dynasty_dump": True}
    with pytest.raises(kx.ConfigError, match="state the layout"):
        kx.run_ptq(**options, np_txt=data, p_output=tmp_path / "none")
    straight = kx.run_ptq(**options, np_txt=data, p_output=tmp_path / "first", layout="NCHW")
    last = {"x": data["x"].transpose(0, 2, 3, 1)}
    turned = kx.run_ptq(**options, np_txt=last, p_output=tmp_path / "last", layout="NHWC")
    assert straight.bit_true_match and straight.snr_db == turned.snr_db
    assert straight.paths["bie"].read_bytes() == turned.paths["bie"].read_bytes()


def test_preprocessing_that_nothing_reads_is_noted(tmp_path):
    path, data = cube(tmp_path), samples(Net({"x": (1, 5, 5, 5)}).model("x"), 8)
    options = {"p_onnx": path, "np_txt": data, "layout": "NCHW", "mode": 1, "p_output": tmp_path / "out"}
    (note,) = [n for n in kx.run_ptq(**options, preprocess="yolo").plan.notes if n.where == "preprocess"]
    assert (note.requested, note.applied) == ("yolo", "unused")
    assert not [n for n in kx.run_ptq(**options).plan.notes if n.where == "preprocess"]


def test_numbers_that_are_drawn_are_refused(tmp_path):
    onnx.save(
        proto_of("(float[1,4] x) => (float[1,4] y) { r = RandomNormalLike(x) y = Add(x, r) }"), tmp_path / "m.onnx"
    )
    with pytest.raises(kx.UnsupportedOpError, match="other numbers every time"):
        kx.run_ptq(p_onnx=tmp_path / "m.onnx", np_txt={"x": np.ones((8, 4))}, p_output=tmp_path / "out")
