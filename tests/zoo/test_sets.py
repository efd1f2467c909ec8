"""The named models: their files, their data, and what the float model is known to do on it."""

import math
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from knerex_jax.errors import ConfigError
from knerex_jax.zoo import ZOO, EvaluationSet, ZooModel, zoo_model
from knerex_jax.zoo.age import predicted_age
from knerex_jax.zoo.blazeface import best_anchor
from knerex_jax.zoo.images import letterbox, load_photo
from knerex_jax.zoo.scores import agreement, area_under_roc, balanced_accuracy, top_k

EVERY = pytest.mark.parametrize("name", sorted(ZOO))


def run_float(model: ZooModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs the ONNX file with ONNX Runtime, in batches of 50, or one by one where the file fixes the batch."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model.path(), options)
    names = [output.name for output in session.get_outputs()]
    size = session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else 50
    total = len(next(iter(inputs.values())))
    parts = [
        session.run(names, {name: array[first : first + size] for name, array in inputs.items()})
        for first in range(0, total, size)
    ]
    return {name: np.concatenate([np.asarray(part[k]) for part in parts]) for k, name in enumerate(names)}


@cache
def evaluated(name: str) -> tuple[EvaluationSet, dict[str, np.ndarray]]:
    """Evaluation set and float outputs of a model, once for all tests of this file."""
    data = ZOO[name].evaluation()
    return data, run_float(ZOO[name], data.inputs)


@pytest.mark.models
@EVERY
def test_data_fit_the_inputs_of_the_file(name):
    model = ZOO[name]
    inputs = onnx.load(model.path()).graph.input
    for data in (model.calibration(3), model.evaluation(2).inputs):
        assert list(data) == [value.name for value in inputs]
        for value in inputs:
            _, *shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
            assert data[value.name].shape[1:] == tuple(shape) and data[value.name].dtype == np.float32
            assert data[value.name].flags.c_contiguous and np.isfinite(data[value.name]).all()


@pytest.mark.models
@EVERY
def test_data_are_the_same_every_time_and_smaller_counts_are_prefixes(name):
    model = ZOO[name]
    few, more = model.calibration(5), model.calibration(9)
    for key in few:
        np.testing.assert_array_equal(few[key], more[key][:5])
    streamed = list(islice(model.calibration_samples(), 5))
    assert all((streamed[k][key] == few[key][k]).all() for key in few for k in range(5))
    whole, _ = evaluated(name)
    part = model.evaluation(4)
    for key in part.inputs:
        np.testing.assert_array_equal(part.inputs[key], whole.inputs[key][:4])
    assert (part.labels is None) == (whole.labels is None) and whole.note


@pytest.mark.models
@EVERY
def test_calibration_and_evaluation_are_disjoint(name):
    (calibration,) = ZOO[name].calibration().values()
    (evaluation,) = evaluated(name)[0].inputs.values()
    seen = {sample.tobytes() for sample in calibration}
    assert len(calibration) >= 128 and seen.isdisjoint(sample.tobytes() for sample in evaluation)


@pytest.mark.models
def test_a1_recognizes_the_photos_as_known():
    data, outputs = evaluated("A1")
    assert data.labels is not None and data.inputs["input"].shape == (200, 3, 224, 224)
    centre = outputs["logits"][:20]
    assert top_k(centre, data.labels[:20]) == 18 / 20 and top_k(centre, data.labels[:20], 5) == 1
    measures = ZOO["A1"].metrics(outputs, outputs, data.labels)
    assert measures["agreement"] == 1 and measures["top1"] > 0.85
    nodes = Counter(node.op_type for node in onnx.load(ZOO["A1"].path()).graph.node)
    assert nodes["Conv"] == nodes["BatchNormalization"] == 52 and nodes["Clip"] == 35 and nodes["Add"] == 10


@pytest.mark.models
def test_a2_estimates_plausible_ages():
    data, outputs = evaluated("A2")
    ages = predicted_age(outputs["probabilities"])
    assert data.labels is None and len(ages) == 101
    assert ages[0] == pytest.approx(31.8, abs=0.5)  # the astronaut
    assert ages.std() > 5  # the preprocessing is right: raw bytes would give one age for all
    assert ZOO["A2"].metrics(outputs, outputs, None)["mean_age_change_years"] == 0


@pytest.mark.models
@pytest.mark.parametrize("name", ["A3_front", "A3_back"])
def test_a3_tells_faces_from_other_patches(name):
    data, outputs = evaluated(name)
    measures = ZOO[name].metrics(outputs, outputs, data.labels)
    assert measures["auc"] >= 0.9975 and measures["balanced_accuracy"] >= 0.935
    assert measures["decision_agreement"] == measures["anchor_agreement"] == 1 and measures["box_shift_pixels"] == 0


@pytest.mark.models
@pytest.mark.parametrize(("name", "size"), [("A3_front", 128), ("A3_back", 256)])
def test_a3_finds_the_face_of_the_astronaut(name, size):
    image = letterbox(load_photo("astronaut.png"), size)
    outputs = run_float(ZOO[name], {"input:0": image[None].astype(np.float32) / np.float32(127.5) - np.float32(1)})
    (index,), (logit,), (box,) = best_anchor(outputs)
    cells, number, per_cell = (16, index, 2) if index < 512 else (8, index - 512, 6)
    row, column = divmod(number // per_cell, cells)
    centre = (np.array([column, row]) + 0.5) / cells + box[:2] / size
    assert logit > 0
    np.testing.assert_allclose(centre * 512, [225, 120], atol=15)  # seen by eye in the photo


@pytest.mark.models
def test_a9_reads_digits_as_known():
    data, outputs = evaluated("A9")
    assert data.labels is not None
    calibration = ZOO["A9"].calibration()
    right = top_k(outputs["logits"], data.labels) * 4500
    right += top_k(run_float(ZOO["A9"], calibration)["logits"], np.tile(np.arange(10), 50)) * 500
    assert right / 5000 == pytest.approx(0.9970, abs=1e-9)
    assert np.bincount(data.labels).tolist() == [450] * 10


def test_unknown_model_and_impossible_counts():
    with pytest.raises(ConfigError, match="choose one of A1"):
        zoo_model("A0")
    model = ZooModel(
        name="toy",
        title="",
        licence="",
        packages=(),
        locate=lambda: Path("toy.onnx"),
        calibration_samples=lambda: iter([{"x": np.zeros(2, np.float32)}] * 3),
        calibration_count=3,
        labelled_samples=lambda: iter([({"x": np.ones(2, np.float32)}, 7)] * 2),
        note="",
        score=lambda outputs, float_outputs, labels: {},
    )
    assert model.calibration()["x"].shape == (3, 2) and model.calibration(1)["x"].shape == (1, 2)
    labels = model.evaluation().labels
    assert labels is not None and labels.tolist() == [7, 7]
    for count in (0, -1, 4):
        with pytest.raises(ConfigError, match="are not available"):
            model.calibration(count)


def test_scores_on_hand_worked_cases():
    logits = np.array([[3.0, 2, 1], [0, 5, 5], [1, 2, 3]])
    assert top_k(logits, np.array([0, 2, 0])) == 1 / 3  # the tie of the second counts for class 1
    assert top_k(logits, np.array([0, 2, 0]), 2) == 2 / 3
    assert agreement(logits, -logits) == 0
    scores, labels = np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])
    assert area_under_roc(scores, labels) == (1 + 1 + 0.5 + 1) / 4
    assert balanced_accuracy(scores > 0.3, labels) == (1 + 0.5) / 2
    assert math.isnan(area_under_roc(scores, np.ones(4))) and math.isnan(balanced_accuracy(scores > 0, np.zeros(4)))
