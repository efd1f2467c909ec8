import numpy as np
import onnx
import pytest
from onnx import helper

import knerex_jax as kx
from knerex_jax.data.shapes import shapes_from_data

OPEN = {"x": (0, 3, 0, 0)}


@pytest.mark.parametrize(
    ("data", "layout", "shape"),
    [
        ({"x": [np.zeros((1, 3, 20, 30))]}, None, (0, 3, 20, 30)),
        ({"x": np.zeros((5, 3, 20, 30))}, None, (0, 3, 20, 30)),
        ({"x": [np.zeros((20, 30, 3))]}, None, (0, 3, 20, 30)),
        ({"x": [np.zeros((3, 30, 3))]}, None, (0, 3, 30, 3)),
        ({"x": [np.zeros((3, 30, 3))]}, "NHWC", (0, 3, 3, 30)),
        ([np.zeros((3, 20, 30))], None, (0, 3, 20, 30)),
        ({"x": [np.zeros((4, 20, 30))]}, None, None),
        (iter([]), None, None),
    ],
)
def test_open_dimensions_come_from_the_first_sample(data, layout, shape):
    assert shapes_from_data(OPEN, data, layout) == ({} if shape is None else {"x": shape})


def test_closed_inputs_are_left_alone_and_files_are_looked_at(tmp_path):
    assert shapes_from_data({"x": (0, 3, 8, 8)}, {"x": [np.zeros((3, 9, 9))]}) == {}
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3, 6, 7), np.float32))
    assert shapes_from_data(OPEN, tmp_path / "a.npz") == {"x": (0, 3, 6, 7)}


def test_a_model_with_open_size_runs_on_its_calibration_arrays_or_names_what_is_missing(tmp_path):
    weight = helper.make_tensor("w", 1, (2, 3, 1, 1), [0.5, -1, 0.25, 1, 2, -0.5])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "open",
        [helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", 1, ["N", 2, "H", "W"])], [weight],
    )  # fmt: skip
    path = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    images = np.random.default_rng(0).normal(size=(4, 3, 10, 12)).astype(np.float32)
    result = kx.run_ptq(p_onnx=path, np_txt={"x": images}, p_output=tmp_path / "out")
    assert kx.FixedModel.load(result.paths["bie"]).run({"x": images})["y"].shape == (4, 2, 10, 12)
    with pytest.raises(kx.ModelError, match=r"(?s)H.*--input-shape x:"):
        kx.run_ptq(p_onnx=path, np_txt=iter([{"x": images[0]}]), p_output=tmp_path / "out2")
    stated = kx.run_ptq(
        p_onnx=path, np_txt=({"x": i} for i in images), input_shape={"x": (1, 3, 10, 12)}, p_output=tmp_path / "out3"
    )
    assert stated.planned.model.graph.shape("y") == (1, 2, 10, 12)
