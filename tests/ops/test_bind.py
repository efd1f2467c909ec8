from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx_text import proto_of

import knerex_jax as kx
from knerex_jax.errors import ModelError, UnsupportedOpError
from knerex_jax.graph.ir import Graph, Model, Node, TensorType
from knerex_jax.graph.read import read_proto
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, unbind
from knerex_jax.ops.opdef import OpDef


def bound(text: str, opset: int = 21, registry=REGISTRY) -> Model:
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "custom" : 1]>'
    source = read_proto(onnx.parser.parse_model(f"{head}\nnet {text}"))
    return bind(source.model, registry, source.opset)


def only_attrs(text: str, opset: int = 21):
    (node,) = bound(text, opset).graph.nodes
    return node.attrs


@pytest.mark.smoke
def test_old_attributes_and_new_inputs_become_one():
    new = "(float[2,3] x) => (float[2,3] y) <float lo = {0}, float hi = {6}> { y = Clip(x, lo, hi) }"
    old = "(float[2,3] x) => (float[2,3] y) { y = Clip<min=0.0, max=6.0>(x) }"
    assert only_attrs(new) == only_attrs(old, 10)
    new = "(float[2,1,3] x) => (float[2,3] y) <int64[1] a = {1}> { y = Squeeze(x, a) }"
    old = "(float[2,1,3] x) => (float[2,3] y) { y = Squeeze<axes=[1]>(x) }"
    assert only_attrs(new) == only_attrs(old, 11)
    new = "(float[2,3] x) => (float[4,3] y) <int64[4] p = {1,0,1,0}, float v = {2}> { y = Pad(x, p, v) }"
    old = "(float[2,3] x) => (float[4,3] y) { y = Pad<pads=[1,0,1,0], value=2.0>(x) }"
    assert only_attrs(new) == only_attrs(old, 10)
    new = "(float[4,3] x) => (float[2,3] y) <int64[1] s={1}, int64[1] e={3}, int64[1] a={0}> { y = Slice(x, s, e, a) }"
    old = "(float[4,3] x) => (float[2,3] y) { y = Slice<starts=[1], ends=[3], axes=[0]>(x) }"
    assert only_attrs(new) == only_attrs(old, 9)
    new = "(float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceMean(x, a) }"
    old = "(float[2,3] x) => (float[2,1] y) { y = ReduceMean<axes=[1]>(x) }"
    assert only_attrs(new) == only_attrs(old, 13)


def test_absent_attributes_take_the_default_of_onnx():
    model = bound("(float[4,3] x) => (float[2,3] y) <int64[2] i = {3, 0}> { y = Gather(x, i) }")
    assert model.graph.nodes[0].attrs.axis == 0
    assert only_attrs("(float[2,3] x) => (float[2,3] y) { y = LeakyRelu(x) }").alpha == pytest.approx(0.01)


def test_types_of_all_tensors_follow_from_the_rules():
    model = bound("(float[2,3,4] x) => (float[?,?] y) { t = Relu(x) u = Flatten(t) y = Exp(u) }")
    assert model.graph.types == {
        "x": TensorType("float32", (2, 3, 4)),
        "t": TensorType("float32", (2, 3, 4)),
        "u": TensorType("float32", (2, 12)),
        "y": TensorType("float32", (2, 12)),
    }


def test_indices_keep_64_bits():
    model = bound("(int64[1,3] x) => (int64[3,1] y) { t = Transpose(x) y = Identity(t) }")
    assert model.graph.types["y"] == TensorType("int64", (3, 1))


def test_unknown_operator_says_how_to_register_it():
    with pytest.raises(UnsupportedOpError, match=r"(?s)operator Mine of domain 'custom'.*node Mine_0.*Mine.: MY_OP"):
        bound("(float[2] x) => (float[2] y) { y = custom.Mine(x) }")


def test_output_shape_that_depends_on_the_data():
    with pytest.raises(UnsupportedOpError, match="(?s)an output of NonZero depends on the data.*node NonZero_0"):
        bound("(float[2] x) => (int64[1,n] y) { y = NonZero(x) }")


@dataclass(frozen=True)
class ScaleAttrs:
    """An operator of the user's."""

    factor: float = 1.0


SCALE = OpDef(op_type="Scale", attrs=ScaleAttrs, to_float=lambda a, x: x * a.factor)


@pytest.mark.parametrize("key", ["Scale", "custom::Scale"])
def test_custom_operator(key):
    registry = {**REGISTRY, key: SCALE}
    model = bound("(float[2] x) => (float[2] y) { t = custom.Scale<factor=2.0>(x) y = Relu(t) }", registry=registry)
    assert model.graph.nodes[0].attrs == ScaleAttrs(2.0)
    assert model.graph.types["t"] == TensorType("float32", (2,))
    proto = to_proto(unbind(model, registry))
    assert proto.graph.node[0].domain == "custom" and proto.graph.node[0].attribute[0].f == 2.0


def test_a_standard_name_in_another_domain_is_another_operator():
    with pytest.raises(UnsupportedOpError, match="operator Relu of domain 'custom'"):
        bound("(float[2] x) => (float[2] y) { y = custom.Relu(x) }")
    own = {**REGISTRY, "custom::Relu": OpDef(op_type="Relu", to_float=lambda a, x: jnp.maximum(x, 1))}
    assert bound("(float[2] x) => (float[2] y) { y = custom.Relu(x) }", registry=own).graph.nodes[0].domain == "custom"


def test_unknown_attribute():
    with pytest.raises(ModelError, match="(?s)unknown attribute 'slope' of Relu.*node Relu_0"):
        bound("(float[2] x) => (float[2] y) { y = Relu<slope=0.5>(x) }")


def test_computed_static_input():
    text = "(float[2,3] x, int64[1] s) => (float[6] y) { y = Reshape(x, s) }"
    with pytest.raises(ModelError, match=r"(?s)input 1 \(shape\) of Reshape is computed.*node Reshape_0"):
        bound(text)


def test_shapes_that_do_not_fit():
    with pytest.raises(ModelError, match=r"(?s)MatMul does not accept \(x: \(2, 3\), z: \(4, 5\)\).*node MatMul_0"):
        bound("(float[2,3] x, float[4,5] z) => (float[?,?] y) { y = MatMul(x, z) }")
    with pytest.raises(ModelError, match=r"declared \(2, 4\), but Relu gives \(2, 3\)"):
        bound("(float[2,3] x) => (float[2,4] y) { y = Relu(x) }")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "(float[2,3] x) => (float[2,3] y) <float lo = {0}, float hi = {6}> { y = Clip(x, lo, hi) }",
            {1: np.float32(0), 2: np.float32(6)},
        ),
        ("(float[2,3] x) => (float[2,3] y) <float hi = {6}> { y = Clip(x, , hi) }", {2: np.float32(6)}),
        ("(float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceMean(x, a) }", {1: np.array([1])}),
        ("(float[2,3] x) => (float[3,2] y) <int64[2] s = {3, -1}> { y = Reshape(x, s) }", {1: np.array([3, -1])}),
        (
            "(int32[2] x) => (int32[4] y) <int64[2] p = {1, 1}, int32 v = {7}> { y = Pad(x, p, v) }",
            {1: np.array([1, 1]), 2: np.int32(7)},
        ),
    ],
)
def test_static_inputs_return_with_the_types_onnx_demands(text, expected):
    model = bound(text)
    raw = unbind(model, REGISTRY)
    node = raw.graph.nodes[0]
    for index, value in expected.items():
        array = raw.constants[node.inputs[index]]
        assert array.dtype == value.dtype and array.shape == np.shape(value)
        np.testing.assert_array_equal(array, value)
    proto = to_proto(raw)
    onnx.checker.check_model(proto, full_check=True)
    back = read_proto(proto)
    assert bind(back.model, REGISTRY, back.opset).graph == model.graph


def test_defaults_are_not_written():
    text = (
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2] s = {1, 1}>"
        "{ t = Identity(x) u = BatchNormalization(t, s, s, s, s) y = Dropout(u) }"
    )
    assert [n.attrs for n in unbind(bound(text), REGISTRY).graph.nodes] == [{}, {}, {}]
    conv = "(float[1,2,4,4] x, float[2,2,3,3] w) => (float[1,2,2,2] y) { y = Conv(x, w) }"
    (node,) = unbind(bound(conv), REGISTRY).graph.nodes
    expected = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    assert node.attrs == expected


def test_gaps_between_inputs_stay():
    @dataclass(frozen=True)
    class Attrs:
        k: tuple[int, ...] | None = None

    op = OpDef(op_type="Gap", attrs=Attrs, static_inputs=((1, "k"),), to_float=lambda a, x, k, z: x[: a.k[0]] + z)
    types = {"x": TensorType("float32", (3,)), "z": TensorType("float32", (2,)), "k": TensorType("int64", (1,))}
    node = Node("gap", "Gap", ("x", "k", "z"), ("y",), {}, "custom")
    raw = Model(Graph("g", ("x", "z"), ("y",), (node,), types), {"k": np.array([2])})
    model = bind(raw, {"Gap": op})
    assert model.graph.nodes[0].inputs == ("x", "", "z") and model.graph.nodes[0].attrs == Attrs((2,))
    again = unbind(model, {"Gap": op}).graph.nodes[0]
    assert again.inputs[0::2] == ("x", "z") and again.inputs[1]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_whose_last_window_would_begin_in_the_padding(op, tmp_path):
    """ONNX infers a place too many below opset 22; ONNX Runtime and we do not make it."""
    attrs = "<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>"
    text = f"(float[1,3,5,5] x) => (float[1,3,a,b] y) {{ m = {op} {attrs}(x) y = Relu(m) }}"
    onnx.save(proto_of(text, opset=19), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": one[None]})[0] for one in x])
    found = kx.FloatModel.load(tmp_path / "m.onnx").run({"x": x})["y"]
    assert found.shape == (2, 3, 3, 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
