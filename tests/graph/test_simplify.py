import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from knerex_jax.errors import ModelError
from knerex_jax.graph.read import read_onnx, read_proto
from knerex_jax.graph.simplify import load_proto, simplify


def parsed(text: str, opset: int = 17, domains: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\nnet {text}')


def shapes_of(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = read_proto(proto).model.graph
    return {t: graph.types[t].shape for t in graph.types}


def run(proto: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, inputs)]


RELU = "(float[{}] x) => (float[?] y) {{ y = Relu(x) }}"


@pytest.mark.parametrize("opset", [7, 28])
def test_opsets_at_the_ends(opset):
    simplify(parsed(RELU.format("N,3"), opset))


@pytest.mark.parametrize("opset", [6, 29])
def test_opsets_outside(opset):
    with pytest.raises(ModelError, match=f"(?s)opset {opset} cannot be read.*from 7 to 28"):
        simplify(parsed(RELU.format("N,3"), opset))


def test_no_standard_opset():
    proto = parsed(RELU.format("N,3"))
    proto.opset_import[0].domain = "custom"
    with pytest.raises(ModelError, match="imports no standard operators"):
        simplify(proto)


@pytest.mark.smoke
def test_symbolic_batch_becomes_one_and_a_fixed_one_stays():
    assert shapes_of(simplify(parsed(RELU.format("N,3,4"))))["y"] == (1, 3, 4)
    assert shapes_of(simplify(parsed(RELU.format("4,3,4"))))["y"] == (4, 3, 4)
    assert shapes_of(simplify(parsed(RELU.format("4,3,4")), {"x": (1, 3, 4)}))["y"] == (4, 3, 4)
    assert shapes_of(simplify(parsed(RELU.format("N,3,4")), {"x": (2, 3, 4)}))["y"] == (2, 3, 4)


def test_negative_dimension_counts_as_dynamic():
    proto = parsed(RELU.format("1,3"))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert shapes_of(simplify(proto))["y"] == (1, 3)


def test_unknown_dimension_is_named():
    with pytest.raises(ModelError, match=r"(?s)axis 2 \('H'\) of input 'x' is dynamic.*--input-shape x:1,3,224,224"):
        simplify(parsed(RELU.format("N,3,H,W")))
    with pytest.raises(ModelError, match=r"axis 3 \('W'\) of input 'x'"):
        simplify(parsed(RELU.format("N,3,H,W")), {"x": (1, 3, 32, 0)})
    assert shapes_of(simplify(parsed(RELU.format("N,3,H,W")), {"x": (1, 3, 32, 16)}))["y"] == (1, 3, 32, 16)


def test_a_symbol_means_the_same_everywhere():
    proto = parsed("(float[N,L] x, float[N,L] z) => (float[?,?] y) { y = Add(x, z) }")
    assert shapes_of(simplify(proto, {"x": (1, 32)}))["z"] == (1, 32)


def test_unknown_rank():
    proto = parsed(RELU.format("1"))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="the shape of input 'x' is unknown"):
        simplify(proto)
    assert shapes_of(simplify(proto, {"x": (2, 5)}))["y"] == (2, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": (1, 3)}, "(?s)no input 'z'.*the inputs are: x"),
        ({"x": (1, 3)}, "has 2 axes, the model's input 3"),
        ({"x": (1, 5, 4)}, "axis 1 is 3 in the model, but 5 in the shape given"),
    ],
)
def test_shapes_given_that_do_not_fit(given, message):
    with pytest.raises(ModelError, match=message):
        simplify(parsed(RELU.format("N,3,L")), given)


def test_shapes_that_contradict_one_another():
    proto = parsed("(float[N,L] x) => (float[?,?] y) <float[3,2] w> { y = MatMul(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2), np.float32), "w"))
    del proto.graph.value_info[:]
    with pytest.raises(ModelError, match="contradict one another"):
        simplify(proto, {"x": (1, 4)})


def test_shape_arithmetic_is_folded():
    proto = parsed(
        "(float[N,3,H,W] x) => (float[?,?] y) <int64 zero = {0}, int64[1] first = {0}, int64[1] minus = {-1}>"
        "{ s = Shape(x) n = Gather(s, zero) m = Unsqueeze(n, first) t = Concat<axis=0>(m, minus) y = Reshape(x, t) }"
    )
    proto.metadata_props.add(key="author", value="me")
    simple = simplify(proto, {"x": (1, 3, 4, 5)})
    assert [n.op_type for n in simple.graph.node] == ["Reshape"]
    assert shapes_of(simple)["y"] == (1, 60)
    assert simple.metadata_props[0].value == "me" and simple.opset_import[0].version == 17
    assert [n.op_type for n in proto.graph.node][0] == "Shape", "the argument was changed"


def test_every_tensor_gets_a_type():
    text = "(float[N,3,8,8] x) => (float[?,?,?,?] y, float[?,?,?,?] z) { t = Relu(x) y, z = Split<axis=2>(t) }"
    assert {"x", "t", "y", "z"} <= shapes_of(simplify(parsed(text))).keys()


def test_functions_are_inlined_and_custom_operators_survive():
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1, "custom" : 1]>
        net (float[N,3] x) => (float[?,?] y) { t = own.twice(x) u = custom.Mystery<k = 3>(t) y = Relu(u) }
        <opset_import: ["" : 17], domain: "own">
        twice (a) => (b) { two = Constant<value_float = 2.0>() c = CastLike(two, a) b = Mul(a, c) }
    """)
    source = read_proto(simplify(proto))
    nodes = {n.op_type: n for n in source.model.graph.nodes}
    assert "twice" not in nodes and "Mul" in nodes
    assert nodes["Mystery"].domain == "custom" and nodes["Mystery"].attrs == {"k": 3}
    assert "u" not in source.model.graph.types  # nobody can know before a rule is registered


@pytest.mark.parametrize("size", [4, 4000])
def test_half_precision_becomes_float32(size):
    weight = np.linspace(-1, 1, size * 4, dtype=np.float16).reshape(size, 4)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["t"]),
            helper.make_node("Cast", ["t"], ["u"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["u"], ["v"], to=TensorProto.FLOAT16),
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([0.5], np.float16))),
            helper.make_node("Add", ["v", "c"], ["y"]),
        ],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    simple = simplify(proto)
    onnx.checker.check_model(simple, full_check=True)
    model = read_proto(simple).model
    assert {t.dtype for t in model.graph.types.values()} == {"float32"}
    x = np.linspace(0, 1, size, dtype=np.float32)[None]
    (wide,), (half,) = run(simple, x=x), run(proto, x=x.astype(np.float16))
    np.testing.assert_allclose(wide, half.astype(np.float32), rtol=0.01, atol=0.01)


def test_initializers_that_are_inputs_too():
    proto = parsed("(float[N,3] x, float[3] w) => (float[?,?] y) { y = Add(x, w) }", 8)
    proto.ir_version = 3
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    assert read_proto(simplify(proto)).model.graph.inputs == ("x",)


def test_unread_input_stays():
    simple = simplify(parsed("(float[N,3] x, float[N,2] z) => (float[?,?] y) { y = Relu(x) }"))
    assert [v.name for v in simple.graph.input] == ["x", "z"]


def test_known_branch_is_taken():
    proto = parsed(
        "(float[N,1,4] x) => (float[?,?] y) <int64 three = {3}, int64[1] axis = {1}>"
        "{ s = Shape(x) r = Size(s) c = Equal(r, three) t = If(c) <"
        " then_branch = g1 () => (float[?,?] a) { b = Squeeze(x, axis) a = Relu(b) },"
        " else_branch = g2 () => (float[?,?,?] a) { a = Identity(x) }> y = Exp(t) }"
    )
    simple = simplify(proto)
    assert [n.op_type for n in simple.graph.node if n.op_type != "Identity"] == ["Squeeze", "Relu", "Exp"]
    assert shapes_of(simple)["y"] == (1, 4)
    x = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 1, 4)
    np.testing.assert_array_equal(run(simple, x=x)[0], run(proto, x=x)[0])


# --- files


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="cannot read the model: No such file"):
        load_proto(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="cannot read the model"):
        load_proto(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04" + bytes(99), bytes(64)]
)
def test_not_an_onnx_file(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="(?s)(not an ONNX model|holds no ONNX graph).*bad.onnx.*fix:"):
        read_onnx(tmp_path / "bad.onnx")


def test_cut_off_and_altered_files(tmp_path):
    text = "(float[N,3] x) => (float[?,?] y) <float[3] w = {1, 2, 3}> { t = Add(x, w) y = Relu(t) }"
    content = parsed(text).SerializeToString()
    path = tmp_path / "bad.onnx"
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(120):
        altered = bytearray(content[: rng.integers(len(content))] if trial % 2 else content)
        for place in rng.integers(len(altered), size=3) if not trial % 2 else ():
            altered[place] = rng.integers(256)
        path.write_bytes(altered)
        try:
            read_onnx(path)
        except ModelError as error:
            refused += 1
            assert "bad.onnx" in str(error)
    assert refused > 80


def external(folder, size=2000, location="weights.bin") -> onnx.ModelProto:
    """A model whose weight [size, 4] lies in another file; written to model.onnx."""
    weight = np.arange(size * 4, dtype=np.float32).reshape(size, 4)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="16")
    proto = parsed(f"(float[N,{size}] x) => (float[?,?] y) {{ y = MatMul(x, w) }}")
    proto.graph.initializer.append(tensor)
    (folder / "weights.bin").write_bytes(bytes(16) + weight.tobytes())
    onnx.save(proto, folder / "model.onnx")
    return proto


def test_external_weights_are_read_once_and_only_by_the_reader(tmp_path, monkeypatch):
    external(tmp_path)
    reads = []
    fromfile = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: reads.append(a[0].name) or fromfile(*a, **k))
    simple = simplify(load_proto(tmp_path / "model.onnx"), folder=tmp_path)
    assert not reads and simple.ByteSize() < 1000
    assert shapes_of_types(simple) == {"x": [1, 2000], "y": [1, 4]}
    model = read_onnx(tmp_path / "model.onnx").model
    assert reads == ["weights.bin"]
    np.testing.assert_array_equal(model.constants["w"], np.arange(8000, dtype=np.float32).reshape(2000, 4))


def shapes_of_types(proto: onnx.ModelProto) -> dict[str, list[int]]:
    values = (*proto.graph.input, *proto.graph.output)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_small_external_tensors_take_part_in_folding(tmp_path):
    proto = parsed("(float[N,6] x) => (float[?,?] y) { y = Reshape(x, s) }")
    tensor = TensorProto(name="s", data_type=TensorProto.INT64, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="s.bin")
    proto.graph.initializer.append(tensor)
    (tmp_path / "s.bin").write_bytes(np.array([2, 3]).tobytes())
    assert shapes_of(simplify(proto, folder=tmp_path))["y"] == (2, 3)


def test_external_half_precision(tmp_path):
    weight = np.arange(8000, dtype=np.float16).reshape(2000, 4)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[2000, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    proto = parsed("(float16[N,2000] x) => (float16[?,?] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(tensor)
    (tmp_path / "w.bin").write_bytes(weight.tobytes())
    onnx.save(proto, tmp_path / "model.onnx")
    model = read_onnx(tmp_path / "model.onnx").model
    assert {t.dtype for t in model.graph.types.values()} == {"float32"}
    np.testing.assert_array_equal(model.constants["w"], weight.astype(np.float32))


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "", "C:\\weights.bin"])
def test_external_weights_outside_the_folder(location, tmp_path):
    (tmp_path / "inner").mkdir()
    external(tmp_path / "inner", location=location)
    with pytest.raises(ModelError, match="weights outside the model's folder"):
        read_onnx(tmp_path / "inner" / "model.onnx")


def test_external_weights_missing_or_short(tmp_path):
    external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(100))
    with pytest.raises(ModelError, match="(?s)too short.*weights.bin"):
        read_onnx(tmp_path / "model.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="(?s)cannot read the weights.*put the file 'weights.bin' beside the model"):
        read_onnx(tmp_path / "model.onnx")
