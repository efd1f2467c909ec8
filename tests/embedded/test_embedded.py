"""The model and digits that ship with the package."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from knerex_jax import embedded


def as_bytes(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_shapes_types_and_balance():
    calibration, (inputs, labels) = embedded.calibration(), embedded.evaluation()
    assert list(calibration) == list(inputs) == ["input"]
    assert calibration["input"].shape == (200, 1, 28, 28) and calibration["input"].dtype == np.float32
    assert inputs["input"].shape == (1000, 1, 28, 28) and inputs["input"].dtype == np.float32
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [100] * 10
    assert inputs["input"].min() == -0.5 and inputs["input"].max() == 255 / 256 - 0.5


def test_calibration_and_evaluation_are_disjoint():
    calibration, evaluation = embedded.calibration()["input"], embedded.evaluation()[0]["input"]
    assert len({*as_bytes(calibration), *as_bytes(evaluation)}) == 1200


@pytest.mark.models
def test_digits_are_those_of_the_source_and_training_used_others():
    from knerex_jax.zoo.digits import load_digits

    images, _ = load_digits()
    training = embedded.preprocess(images[:, 120:].reshape(-1, 28, 28))
    source = embedded.preprocess(images.reshape(-1, 28, 28))
    shipped = {*as_bytes(embedded.calibration()["input"]), *as_bytes(embedded.evaluation()[0]["input"])}
    assert shipped <= set(as_bytes(source)) and shipped.isdisjoint(as_bytes(training))


def test_float_accuracy_and_independence_of_the_batch():
    session = onnxruntime.InferenceSession(embedded.model_path())
    inputs, labels = embedded.evaluation()
    logits = np.asarray(session.run(["logits"], inputs)[0])
    assert np.mean(np.argmax(logits, axis=1) == labels) >= 0.98
    one = np.asarray(session.run(["logits"], {"input": inputs["input"][:1]})[0])
    np.testing.assert_allclose(one, logits[:1], rtol=1e-5, atol=1e-5)


def test_graph_is_the_documented_one():
    model = onnx.load(embedded.model_path())
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    ((batch, *shape),) = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.input
    ]
    assert batch == "N" and shape == [1, 28, 28]
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 6,
        "BatchNormalization": 6,
        "Relu": 6,
        "MaxPool": 2,
        "Add": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }


def test_package_data_stays_small():
    folder = Path(embedded.model_path()).parent
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    assert {"digits_cnn.onnx", "digits.npz", "PROVENANCE.md"} <= set(sizes)
    assert sum(sizes.values()) < 1.5e6 and sizes["digits_cnn.onnx"] < 300e3
