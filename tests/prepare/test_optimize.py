"""The optimizer: what it rewrites, what it keeps, and what it says."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx_text import proto_of

import knerex_jax as kx
from knerex_jax.prepare import optimize as module
from knerex_jax.prepare.optimize import optimize_onnx


def kinds(made) -> str:
    return " ".join(n.op_type for n in made.model.graph.nodes)


CONV = """(float[1, 3, 8, 8] x) => (float[1, 4, 4, 4] y) <float[4, 3, 3, 3] w, float[4] s, float[4] b, float[4] m,
    float[4] v> {
  c = Conv <pads = [1, 1, 1, 1], dilations = [1, 1]> (x, w)
  n = BatchNormalization(c, s, b, m, v)
  r = Relu(n)
  i = Identity(r)
  y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (i)
}"""


def test_the_result_is_a_standard_model_with_the_same_ends(tmp_path):
    proto = proto_of(CONV)
    proto.doc_string = "made for a test"
    onnx.helper.set_model_props(proto, {"author": "me"})
    before = proto.SerializeToString()
    made = optimize_onnx(proto, tmp_path / "out.onnx")
    assert kinds(made) == "Conv Relu AveragePool" and made.comparison.alike and made.notes == ()
    assert made.before["BatchNormalization"] == 1 and made.after["BatchNormalization"] == 0
    assert proto.SerializeToString() == before
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {n.domain for n in written.graph.node} == {""}
    assert written.doc_string == "made for a test" and [p.value for p in written.metadata_props] == ["me"]
    assert [v.name for v in (*written.graph.input, *written.graph.output)] == ["x", "y"]
    plain = optimize_onnx(proto, clear_descriptions=True).to_proto()
    assert not plain.doc_string and not plain.metadata_props
    again = optimize_onnx(tmp_path / "out.onnx")
    assert kinds(again) == kinds(made)


def test_rewrites_on_request():
    assert kinds(optimize_onnx(proto_of(CONV), replace_avgpool_with_conv=True)) == "Conv Relu Conv"
    padded = CONV.replace("strides = [2, 2]", "strides = [2, 2], pads = [1, 1, 1, 1]").replace(
        "4, 4, 4] y", "4, 5, 5] y"
    )
    assert kinds(optimize_onnx(proto_of(padded), replace_avgpool_with_conv=True)) == "Conv Relu AveragePool"
    counted = padded.replace("pads = [1, 1, 1, 1]> (i)", "pads = [1, 1, 1, 1], count_include_pad = 1> (i)")
    assert kinds(optimize_onnx(proto_of(counted), replace_avgpool_with_conv=True)) == "Conv Relu Conv"

    dilated = proto_of(
        CONV.replace("pads = [1, 1, 1, 1], dilations = [1, 1]", "pads = [2, 1, 2, 1], dilations = [2, 1]")
    )
    conv = optimize_onnx(dilated, replace_dilated_conv=True).model.graph.nodes[0]
    assert conv.attrs.dilations == (1, 1) and conv.attrs.kernel_shape == (5, 3)
    assert optimize_onnx(dilated).model.graph.nodes[0].attrs.dilations == (2, 1)


SHARED = """(float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) <float[3, 3, 1, 1] w> {
  c = Conv(x, w)
  r = Relu(c)
  y = Conv(r, w)
}"""


def test_shared_weights():
    for level, count in ((0, 1), (1, 1), (2, 2)):
        made = optimize_onnx(proto_of(SHARED), duplicate_shared_weights=level)
        assert sum(t.dims == [3, 3, 1, 1] for t in made.to_proto().graph.initializer) == count
    with pytest.raises(kx.ConfigError, match="3 is no level"):
        optimize_onnx(proto_of(SHARED), duplicate_shared_weights=3)


def test_passes_are_skipped_by_name():
    made = optimize_onnx(proto_of(CONV), skipped_optimizers=["batch_norm_into_conv"])
    assert kinds(made) == "Conv BatchNormalization Relu AveragePool"
    with pytest.raises(kx.ConfigError, match="did you mean 'remove_identity'"):
        optimize_onnx(proto_of(CONV), skipped_optimizers=["remove_identities"])


def test_shapes_are_overwritten():
    proto = proto_of(CONV)
    made = optimize_onnx(proto, overwrite_input_shapes={"x": (2, 3, 16, 8)})
    assert made.model.graph.types["y"].shape == (2, 4, 8, 4) and made.comparison.alike
    assert optimize_onnx(proto, overwrite_input_shapes=["1,3,12,12"]).model.graph.types["y"].shape == (1, 4, 6, 6)
    for text, error, said in (
        ("z:1,3,8,8", kx.ModelError, "no input 'z'"),
        ("x:1,3,8", kx.ModelError, "has 3 axes"),
        ("x:1,3,a", kx.ConfigError, "cannot read the shape"),
        ("x:1,4,8,8", kx.ModelError, "does not accept"),
    ):
        with pytest.raises(error, match=said):
            optimize_onnx(proto, overwrite_input_shapes=[text])


def test_half_precision_becomes_float32():
    proto = proto_of(SHARED)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    made = optimize_onnx(proto, convert_f16=False)
    assert made.model.graph.types["x"].dtype == "float32" and made.comparison.alike
    assert [(n.where, n.applied) for n in made.notes] == [("convert_f16", "True")]


def test_a_result_that_differs_is_not_written(tmp_path, monkeypatch):
    def scaled(model, passes, ops):
        broken = {k: v * 1.01 for k, v in model.constants.items()}
        return type(model)(model.graph, broken)

    monkeypatch.setattr(module, "run_passes", scaled)
    with pytest.raises(kx.ModelError, match=r"the optimized model differs[\s\S]*output 'y'"):
        optimize_onnx(proto_of(SHARED), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    assert optimize_onnx(proto_of(SHARED), tmp_path / "out.onnx", skip_check=True).comparison is None


def test_what_the_other_runtime_cannot_run_is_said():
    made = optimize_onnx(proto_of("(float[1, 4] x) => (bfloat16[1, 4] y) { d = Erf(x)  y = Cast <to = 16> (d) }"))
    assert made.comparison is None and kinds(made) == "Erf"
    assert [(n.where, n.applied) for n in made.notes] == [("skip_check", "not compared")]
