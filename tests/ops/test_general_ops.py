"""General operators in a compiled model, against ONNX Runtime, and the host fallback."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import read_proto
from knerex_jax.graph.write import to_proto
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, op_of, unbind
from knerex_jax.ops.host import is_host
from knerex_jax.ops.opdef import OpDef

CASES = {
    "compare": "(float[2,3] x, float[3] z) => (bool[2,3] y, bool[2,3] w) { y = Less(x, z) w = GreaterOrEqual(x, z) }",
    "where": "(float[2,3] x, float[3] z) => (float[2,3] y) { c = Greater(x, z) d = Not(c) y = Where(d, x, z) }",
    "is_inf": "(float[4] x) => (bool[4] y) { l = Log(x) y = IsInf<detect_positive=0>(l) }",
    "cast": "(float[2,5] x) => (int32[2,5] y) <float k = {9.7}> { z = Mul(x, k) y = Cast<to=6>(z) }",
    "int_div": "(int32[5] x) => (int32[5] y) <int32 k = {-3}> { y = Div(x, k) }",
    "int_mod": "(int32[5] x) => (int32[5] y) <int32 k = {-3}> { y = Mod(x, k) }",
    "fmod": "(float[5] x) => (float[5] y) <float k = {0.4}> { y = Mod<fmod=1>(x, k) }",
    "pow": "(float[5] x) => (float[5] y) <int64 k = {3}> { y = Pow(x, k) }",
    "mean": "(float[2,3] x, float[3] z) => (float[2,3] y) { y = Mean(x, z, x) }",
    "gather": "(float[4,3] x, int64[2,2] i) => (float[4,2,2] y) { y = Gather<axis=1>(x, i) }",
    "gather_elements": "(float[4,3] x, int64[2,3] i) => (float[2,3] y) { y = GatherElements<axis=0>(x, i) }",
    "gather_nd": "(float[4,3] x, int64[5,2] i) => (float[5] y) { y = GatherND(x, i) }",
    "scatter": """(float[4,3] x, int64[2,3] i, float[2,3] u) => (float[4,3] y)
        { y = ScatterElements<axis=1, reduction="add">(x, i, u) }""",
    "scatter_nd": "(float[4,3] x, int64[1,1] i, float[1,3] u) => (float[4,3] y) { y = ScatterND(x, i, u) }",
    "one_hot": """(int64[2,2] i) => (float[2,5,2] y) <int64 d = {5}, float[2] v = {-1, 2}>
        { y = OneHot<axis=1>(i, d, v) }""",
    "top_k": "(float[3,6] x) => (float[3,2] y, int64[3,2] i) <int64[1] k = {2}> { y, i = TopK<largest=0>(x, k) }",
    "arg": "(float[3,6] x) => (int64[3] y, int64[1,6] w) { y = ArgMax<axis=1, keepdims=0>(x) w = ArgMin<axis=0>(x) }",
    "trilu": "(float[2,4,4] x) => (float[2,4,4] y) <int64 k = {-1}> { y = Trilu<upper=1>(x, k) }",
    "cumsum": "(float[3,4] x) => (float[3,4] y) <int64 a = {1}> { y = CumSum<exclusive=1, reverse=1>(x, a) }",
    "reverse": """(float[4,3] x) => (float[4,3] y) <int64[3] n = {4, 1, 2}>
        { y = ReverseSequence<batch_axis=1, time_axis=0>(x, n) }""",
    "reduce": """(float[2,3,4] x) => (float[2,1,4] y, float[3] w, float[2,3,4] v) <int64[1] a = {1}, int64[2] b = {0,2}>
        { y = ReduceMin(x, a) w = ReduceLogSumExp<keepdims=0>(x, b) v = ReduceL1<noop_with_empty_axes=1>(x) }""",
    "depth": "(float[1,8,2,3] x) => (float[1,2,4,6] y) { y = DepthToSpace<blocksize=2, mode=\"CRD\">(x) }",
    "space": "(float[1,2,4,6] x) => (float[1,8,2,3] y) { y = SpaceToDepth<blocksize=2>(x) }",
    "tile": "(float[2,3] x) => (float[4,9] y) <int64[2] r = {2, 3}> { y = Tile(x, r) }",
    "crop": "(float[5,3] x) => (float[2,6] y) <int64[2] s = {2, 6}> { y = CenterCropPad(x, s) }",
    "pad_wrap": "(float[2,3] x) => (float[2,7] y) <int64[4] p = {0,2,0,2}> { y = Pad<mode=\"wrap\">(x, p) }",
    "shapes": """(float[2,3] x) => (int64[1] y, int64 n, float[2,3] c, int64[2,3] e)
        { y = Shape<start=1>(x) n = Size(x) s = Shape(x) z = Exp(x) c = Identity(z) e = EyeLike<dtype=7, k=1>(x) }""",
    "split": "(float[7,2] x) => (float[3,2] y, float[3,2] w, float[1,2] v) { y, w, v = Split<num_outputs=3>(x) }",
}  # fmt: skip


def proto(text: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\nnet {text}')


def bound(source: onnx.ModelProto, registry: Mapping[str, OpDef] = REGISTRY) -> Model:
    read = read_proto(source)
    return bind(read.model, registry, read.opset)


def values(source: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers for floats; small, also negative, for integers, which may be indices."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in source.graph.input:
        held = value.type.tensor_type
        shape = [d.dim_value for d in held.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(held.elem_type)
        drawn = rng.normal(size=shape) if dtype.kind == "f" else rng.permuted(np.resize(np.arange(-2, 3), shape))
        made[value.name] = drawn.astype(dtype)
    return made


@pytest.mark.parametrize("name", CASES)
def test_compiled_equals_onnxruntime(name):
    source = proto(CASES[name])
    inputs = values(source)
    expected = onnxruntime.InferenceSession(source.SerializeToString()).run(None, inputs)
    model = bound(source)
    assert host_nodes(model, REGISTRY) == []
    fn, params = lower_float(model)
    got = jax.jit(fn)(params, inputs)
    for output, reference in zip(model.graph.outputs, expected, strict=True):
        assert model.graph.types[output].dtype == reference.dtype.name
        assert model.graph.types[output].shape == reference.shape
        np.testing.assert_allclose(got[output], reference, rtol=1e-5, atol=1e-6)


def without(*op_types: str) -> dict[str, OpDef]:
    """The registry as if these operators had no rule."""
    return {k: v for k, v in REGISTRY.items() if k not in op_types}


def host_nodes(model: Model, registry: Mapping[str, OpDef]) -> list[str]:
    return [n.op_type for n in model.graph.nodes if is_host(op_of(n, registry))]


@pytest.mark.parametrize("batch", [1, 3])
def test_host_node_in_a_compiled_model(batch):
    registry = without("Det")
    model = bound(proto("(float[2,3,3] x) => (float[2] y) { z = Neg(x) d = Det(z) y = Exp(d) }"), registry)
    assert host_nodes(model, registry) == ["Det"]
    fn, params = lower_float(model, registry=registry)
    x = np.random.default_rng(0).normal(size=(batch, 2, 3, 3)).astype(np.float32)
    got = jax.jit(jax.vmap(fn, (None, 0)))(params, {"x": x})["y"]
    np.testing.assert_allclose(got, np.exp(np.linalg.det(-x)), rtol=1e-4)


LSTM = """(float[4,2,3] x, float[1,2,5] h) => (float[1,2,5] last, float[1,2,5] cell)
    { , last, cell = LSTM<hidden_size=5, direction="reverse", activations=["Sigmoid", "Tanh", "Tanh"]>(x, w, r, , , h) }
"""


def lstm() -> onnx.ModelProto:
    """Optional inputs and outputs that are absent, string attributes, several outputs."""
    source = proto(LSTM)
    rng = np.random.default_rng(3)
    for name, shape in (("w", (1, 20, 3)), ("r", (1, 20, 5))):
        weight = rng.normal(size=shape).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return source


def test_host_node_with_absent_inputs_and_outputs():
    source, registry = lstm(), without("LSTM")
    model = bound(source, registry)
    assert host_nodes(model, registry) == ["LSTM"]
    fn, params = lower_float(model, registry=registry)
    inputs = values(source)
    expected = onnxruntime.InferenceSession(source.SerializeToString()).run(None, inputs)
    got = jax.jit(fn)(params, inputs)
    for output, reference in zip(("last", "cell"), expected, strict=True):
        assert model.graph.shape(output) == reference.shape
        np.testing.assert_allclose(got[output], reference, rtol=1e-4, atol=1e-6)


def test_host_node_is_written_back():
    source, registry = lstm(), without("LSTM")
    model = bound(source, registry)
    written = to_proto(unbind(model, registry))
    onnx.checker.check_model(written, full_check=True)
    assert bound(written, registry).graph == model.graph
    inputs = values(source)
    for a, b in zip(*(ReferenceEvaluator(m).run(None, inputs) for m in (source, written)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_host_node_of_a_form_that_is_no_longer_written():
    registry = without("Upsample", "Resize")
    text = "(float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> { y = Upsample(x, s) }"
    model = bound(proto(text, 9), registry)
    assert model.graph.shape("y") == (1, 1, 4, 4)
    with pytest.raises(UnsupportedOpError, match="Upsample of opset 9 has no equal in opset 21"):
        unbind(model, registry)


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_host_node_whose_shape_depends_on_the_data(op):
    kept = "int64[1,n]" if op == "NonZero" else "float[n]"
    with pytest.raises(UnsupportedOpError, match=f"(?s)an output of {op} depends on the data.*node {op}_1"):
        bound(proto(f"(float[4] x) => ({kept} y) {{ z = Neg(x) y = {op}(z) }}"))


def test_output_that_a_rule_does_not_make_goes_to_the_host():
    registry = {**REGISTRY, "TopK": dataclasses.replace(REGISTRY["TopK"], to_float=lambda a, x: x[..., : a.k])}
    text = "(float[3] x) => (float[2] y, int64[2] i) <int64[1] k = {2}> { y, i = TopK(x, k) }"
    model = bound(proto(text), registry)
    assert host_nodes(model, registry) == ["TopK"]
    assert model.graph.types["i"].dtype == "int64"
