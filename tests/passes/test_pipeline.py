"""The whole way from an ONNX file to the decomposed graph."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx_text import assert_equal_outputs, assert_same_function, model_of, ops_of, run_on_ort

from knerex_jax.graph.read import read_onnx
from knerex_jax.graph.write import write_onnx
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, unbind
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.zoo import zoo_model

INTEGER_OPS = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"),
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Add", "Sub", "Mul", "Max", "Min"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"),
    *("Reshape", "Transpose", "Concat", "Pad", "Slice", "Expand", "Gather", "Resize", "Identity"),
    *("Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Reciprocal"),
}

EXPECTED = {
    "A1": "Conv 52, Clip 35, Add 10, GlobalAveragePool 1, Reshape 1, Gemm 1",
    "A2": "Conv 11, Relu 11, Add 5, Pad 3, AveragePool 2, MaxPool 1, GlobalAveragePool 1, Reshape 1, Gemm 1,"
    " ReduceMax 1, Sub 1, Exp 1, ReduceSum 1, Reciprocal 1, Mul 1",
    "A3_front": "Conv 37, Relu 17, Add 16, Pad 11, Transpose 5, Reshape 4, MaxPool 3",
    "A3_back": "Conv 69, Relu 33, Add 31, Transpose 5, Reshape 4, MaxPool 3, Pad 2",
    "A9": "Relu 4, Conv 3, MaxPool 3, Gemm 2, Reshape 1",
}

SMALL_NET = (
    "(float[1,3,8,8] x) => (float[1,5] y) <float[4,3,3,3] w, float[4] g, float[4] b, float[4] m, float[4] v,"
    " int64[8] p = {0,0,1,1,0,0,1,1}, float lo = {0}, float hi = {6}, float[4,5] d, float[5] e, float[1,4,1,1] s,"
    " int64[2] a = {2, 3}> { t0 = Pad(x, p) t1 = Conv<strides=[2,2]>(t0, w)"
    " t2 = BatchNormalization(t1, g, b, m, v) t3 = Clip(t2, lo, hi) t4 = Mul(t3, s) t5 = Dropout(t4)"
    " t6 = ReduceMean<keepdims=0>(t5, a) t7 = MatMul(t6, d) t8 = Add(t7, e) y = Softmax(t8) }"
)


@pytest.mark.smoke
def test_small_network():
    before = model_of(SMALL_NET)
    after = decompose_model(before)
    assert ops_of(after) == (
        "Conv Clip BatchNormalization GlobalAveragePool Reshape Gemm ReduceMax Sub Exp ReduceSum Reciprocal Mul"
    )
    assert_same_function(before, after)
    assert decompose_model(after) is after


def test_written_and_read_again_it_is_the_same(tmp_path):
    after = decompose_model(model_of(SMALL_NET))
    again = read_onnx(write_onnx(unbind(after, REGISTRY), tmp_path / "net.onnx"))
    back = bind(again.model, REGISTRY, again.opset)
    assert back.graph == after.graph
    assert back.constants.keys() == after.constants.keys()
    assert all(np.array_equal(back.constants[t], after.constants[t]) for t in after.constants)
    assert decompose_model(back) is back


@pytest.mark.models
@pytest.mark.parametrize("name", EXPECTED)
def test_real_model(name, tmp_path):
    path, samples = zoo_model(name).path(), zoo_model(name).evaluation(2).inputs
    source = read_onnx(path)
    origin = bind(source.model, REGISTRY, source.opset)
    decomposed = decompose_model(origin)
    counts = Counter(n.op_type for n in decomposed.graph.nodes)
    assert counts == {op: int(n) for op, n in (entry.split() for entry in EXPECTED[name].split(","))}
    assert counts.keys() <= INTEGER_OPS
    user = onnx.load(str(path))
    for stage in (origin, decomposed):
        written = onnx.load(str(write_onnx(unbind(stage, REGISTRY), tmp_path / "stage.onnx")))
        onnx.checker.check_model(written, full_check=True)
        for i in range(2):
            sample = {t: v[i : i + 1] for t, v in samples.items()}
            assert_equal_outputs(run_on_ort(user, sample), run_on_ort(written, sample))
