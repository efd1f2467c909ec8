import math
import os

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knerex_jax.errors import ArtifactError
from knerex_jax.graph.ir import Graph, Model, Node, TensorType
from knerex_jax.graph.read import read_onnx, read_proto
from knerex_jax.graph.write import to_proto, write_onnx


def parsed(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\nnet {text}')


def relu_model(size: int = 4, **constants: np.ndarray) -> Model:
    types = {t: TensorType("float32", (size,)) for t in "xy"}
    types |= {t: TensorType(a.dtype.name, a.shape) for t, a in constants.items()}
    inputs = ("x", *constants)
    op = {1: "Relu", 2: "Add"}[len(inputs)]
    return Model(Graph("g", ("x",), ("y",), (Node("n", op, inputs, ("y",), {}, origin=("n",)),), types), constants)


def assert_equal_models(a: Model, b: Model) -> None:
    assert a.constants.keys() == b.constants.keys()
    for name, array in a.constants.items():
        assert array.dtype == b.constants[name].dtype and array.shape == b.constants[name].shape, name
        np.testing.assert_array_equal(array, b.constants[name])
    ours, theirs = a.graph, b.graph
    assert (ours.name, ours.inputs, ours.outputs, ours.types) == (
        theirs.name,
        theirs.inputs,
        theirs.outputs,
        theirs.types,
    )
    assert len(ours.nodes) == len(theirs.nodes)
    for x, y in zip(ours.nodes, theirs.nodes, strict=True):
        assert (x.name, x.op_type, x.inputs, x.outputs, x.domain, x.origin, x.wide) == (
            *(y.name, y.op_type, y.inputs, y.outputs, y.domain, y.origin, y.wide),
        )
        assert x.attrs.keys() == y.attrs.keys()
        for key, value in x.attrs.items():
            np.testing.assert_array_equal(value, y.attrs[key])
            assert type(value) is type(y.attrs[key])


FLOATS = st.floats(width=32, allow_nan=False)
DTYPES = st.sampled_from(["float32", "float64", "int64", "int32", "int8", "uint8", "bool"])
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape, dtype = draw(SHAPES), draw(DTYPES)
    values = draw(st.lists(st.integers(0, 100), min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(values, dtype).reshape(shape)


ATTRIBUTES = st.one_of(
    *(INTEGERS, FLOATS, st.text(max_size=5), arrays()),
    *(st.lists(v, min_size=1, max_size=4).map(tuple) for v in (INTEGERS, FLOATS, st.text(max_size=5))),
    st.just(()),
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Chains of custom operators with any attributes, constants and side inputs."""
    types, constants, nodes, known = {"in": TensorType(draw(DTYPES), draw(SHAPES))}, {}, [], ["in"]
    for i in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            name, array = f"c{i}", draw(arrays())
            constants[name], types[name] = array, TensorType(array.dtype.name, array.shape)
            known.append(name)
        inputs = [draw(st.sampled_from([*known, ""])) for _ in range(draw(st.integers(1, 3)))]
        attrs = draw(st.dictionaries(st.sampled_from("abcd"), ATTRIBUTES, max_size=3))
        origin = draw(st.sampled_from([(f"n{i}",), ("a", "b")]))
        types[f"t{i}"] = TensorType(draw(DTYPES), draw(SHAPES))
        wide = draw(st.booleans())
        nodes.append(Node(f"n{i}", "Any", (*inputs, "in"), (f"t{i}",), attrs, "custom", origin, wide))
        known.append(f"t{i}")
    return Model(Graph("g", ("in",), (f"t{len(nodes) - 1}",), tuple(nodes), types), constants)


@given(models())
@settings(max_examples=60, deadline=None)
def test_write_then_read_gives_an_equal_model(model):
    proto = onnx.ModelProto.FromString(to_proto(model).SerializeToString())
    assert_equal_models(read_proto(proto).model, model)


@pytest.mark.smoke
def test_file_carries_metadata_and_says_who_wrote_it(tmp_path):
    path = write_onnx(relu_model(), tmp_path / "new" / "m.onnx", {"plan": "{}", "empty": ""}, doc="words")
    again = read_onnx(path)
    assert_equal_models(again.model, relu_model())
    assert again.metadata == {"plan": "{}", "empty": ""}
    assert (again.opset, again.producer, again.doc) == (21, "knerex_jax", "words")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert os.listdir(path.parent) == ["m.onnx"]


def test_names_of_nodes_become_unique():
    proto = parsed("(float[3] x) => (float[3] y) { t = Relu(x) u = Exp(t) y = Exp(u) }")
    for node in proto.graph.node[:2]:
        node.name = "same"
    assert [n.name for n in read_proto(proto).model.graph.nodes] == ["same", "same_1", "Exp_2"]


def test_all_forms_of_constants():
    proto = parsed(
        "(float[3] x) => (float[3] y) { a = Constant<value_float=2.0>() b = Constant<value_ints=[1,2]>()"
        " c = Constant<value = float[1] {7}>() d = Constant<value_int=3>() y = Relu(x) }"
    )
    constants = read_proto(proto).model.constants
    assert {k: (v.dtype.name, v.tolist()) for k, v in constants.items()} == {
        "a": ("float32", 2.0),
        "b": ("int64", [1, 2]),
        "c": ("float32", [7.0]),
        "d": ("int64", 3),
    }


@pytest.mark.parametrize(("op_type", "opset"), [("Relu", 21), ("Gelu", 21), ("Swish", 24)])
def test_opset_is_raised_only_for_newer_operators(op_type, opset):
    graph = relu_model().graph
    model = Model(Graph("g", ("x",), ("y",), (Node("n", op_type, ("x",), ("y",), {}),), graph.types), {})
    proto = to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset
    onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def test_large_constants_go_to_a_file_of_their_own(tmp_path):
    weight = np.arange(5000, dtype=np.float32)
    model = relu_model(5000, w=weight)
    path = write_onnx(model, tmp_path / "m.onnx", external_above_bytes=10_000)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 1000 and (tmp_path / "m.onnx.data").stat().st_size == weight.nbytes
    assert_equal_models(read_onnx(path).model, model)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": weight})[0], 2 * weight)


def test_one_file_below_the_limit(tmp_path):
    write_onnx(relu_model(5000, w=np.ones(5000, np.float32)), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="(?s)cannot write.*m.onnx.*choose another folder"):
        write_onnx(relu_model(), tmp_path / "file" / "m.onnx")


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_full_disk_leaves_the_old_file_and_no_scraps(limit, tmp_path, monkeypatch):
    path = write_onnx(relu_model(), tmp_path / "m.onnx")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_onnx(relu_model(4, w=np.ones(4, np.float32)), path, external_above_bytes=limit)
    assert os.listdir(tmp_path) == ["m.onnx"] and path.read_bytes() == before


def test_written_file_has_the_usual_rights(tmp_path):
    path = write_onnx(relu_model(), tmp_path / "m.onnx")
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
