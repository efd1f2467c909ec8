"""Outputs of the published call have the shapes of the ONNX model, whatever runs it."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx_text import proto_of

import knerex_jax as kx

NET = """(float[3, 8, 8] x) => (float[1, 3] a, float[3] b, float[2, 9] c, float s, float[1, 1] t) {
  i = Constant <value_ints = [0]> ()
  x4 = Unsqueeze(x, i)
  g = GlobalAveragePool(x4)
  f = Flatten(g)
  a = Relu(f)
  b = Squeeze(f, i)
  m = MaxPool <kernel_shape = [4, 4], strides = [4, 2]> (x4)
  k = Constant <value_ints = [2, 9]> ()
  c = Reshape(m, k)
  s = ReduceMean <keepdims = 0> (x4)
  j = Constant <value_ints = [1, 2, 3]> ()
  t4 = ReduceMax <keepdims = 0> (x4, j)
  t = Unsqueeze(t4, i)
}"""


def test_shapes_are_those_of_the_model(tmp_path):
    path, rng = tmp_path / "net.onnx", np.random.default_rng(0)
    onnx.save(proto_of(NET), path)
    data = [rng.normal(size=(3, 8, 8)).astype(np.float32) for _ in range(4)]
    made = kx.run_ptq(p_onnx=path, np_txt={"x": data}, p_output=tmp_path / "out", platform="720")
    assert made.bit_true_match is True
    reference = ort.InferenceSession(path).run(None, {"x": data[0]})
    files = {"onnx_file": path, "bie_file": made.paths["bie"], "nef_file": made.paths["nef"]}
    for kind, file in files.items():
        one = kx.kneron_inference([data[0]], ["x"], **{kind: file})
        assert [v.shape for v in one] == [v.shape for v in reference], kind
        many = kx.kneron_inference([np.stack(data)], ["x"], **{kind: file})
        assert [v.shape for v in many] == [(4, 3), (4, 3), (4, 2, 9), (4,), (4, 1)], kind
        for single, several, float_value in zip(one, many, reference, strict=True):
            np.testing.assert_array_equal(single.ravel(), several[0].ravel())
            np.testing.assert_allclose(single, float_value, atol=1e-6 if kind == "onnx" else 0.1)
    turned = kx.kneron_inference([data[0]], ["x"], bie_file=made.paths["bie"], reordering=["c", "b"])
    assert [v.shape for v in turned] == [(2, 9), (3,)]
