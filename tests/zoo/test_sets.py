"""The named models: their files, their data, and what the float model is known to do on it."""

import math
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest

from knerex_jax.errors import ConfigError
from knerex_jax.zoo import ZOO, ZooModel, zoo_model
from knerex_jax.zoo.age import predicted_age
from knerex_jax.zoo.blazeface import best_anchor
from knerex_jax.zoo.images import letterbox, load_photo
from knerex_jax.zoo.scores import agreement, area_under_roc, balanced_accuracy, top_k

EVERY = pytest.mark.parametrize("name", sorted(ZOO))


@pytest.mark.models
@EVERY
def test_data_fit_the_inputs_of_the_file(name):
    model = ZOO[name]
    inputs = onnx.load(model.path()).graph.input
    for data in (model.calibration(3), model.evaluation(2).inputs):
        assert list(data) == [value.name for value in inputs]
        for value in inputs:
            kind, shape = (
                value.type.tensor_type.elem_type,
                [axis.dim_value for axis in value.type.tensor_type.shape.dim],
            )
            if model.input_shapes is not None:
                batch, *stated = model.input_shapes[value.name]
                assert batch == 1 and all(size in (0, axis) for axis, size in zip(stated, shape[1:], strict=True))
                shape = [batch, *stated]
            assert data[value.name].shape[1:] == tuple(shape[1:])
            assert data[value.name].dtype == onnx.helper.tensor_dtype_to_np_dtype(kind)
            assert data[value.name].flags.c_contiguous and np.isfinite(data[value.name]).all()


@pytest.mark.models
@EVERY
def test_data_are_the_same_every_time_and_smaller_counts_are_prefixes(name, evaluated):
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
def test_calibration_and_evaluation_are_disjoint(name, evaluated):
    calibration, evaluation = (
        [b"".join(sample) for sample in zip(*(map(np.ndarray.tobytes, a) for a in arrays.values()), strict=True)]
        for arrays in (ZOO[name].calibration(), evaluated(name)[0].inputs)
    )
    assert len(calibration) >= 128 and set(calibration).isdisjoint(evaluation)


@pytest.mark.models
def test_a1_recognizes_the_photos_as_known(evaluated):
    data, outputs = evaluated("A1")
    assert data.labels is not None and data.inputs["input"].shape == (200, 3, 224, 224)
    centre = outputs["logits"][:20]
    assert top_k(centre, data.labels[:20]) == 18 / 20 and top_k(centre, data.labels[:20], 5) == 1
    measures = ZOO["A1"].metrics(outputs, outputs, data.labels)
    assert measures["agreement"] == 1 and measures["top1"] > 0.85
    nodes = Counter(node.op_type for node in onnx.load(ZOO["A1"].path()).graph.node)
    assert nodes["Conv"] == nodes["BatchNormalization"] == 52 and nodes["Clip"] == 35 and nodes["Add"] == 10


@pytest.mark.models
def test_a2_estimates_plausible_ages(evaluated):
    data, outputs = evaluated("A2")
    ages = predicted_age(outputs["probabilities"])
    assert data.labels is None and len(ages) == 101
    assert ages[0] == pytest.approx(31.8, abs=0.5)  # the astronaut
    assert ages.std() > 5  # the preprocessing is right: raw bytes would give one age for all
    assert ZOO["A2"].metrics(outputs, outputs, None)["mean_age_change_years"] == 0


@pytest.mark.models
@pytest.mark.parametrize("name", ["A3_front", "A3_back"])
def test_a3_tells_faces_from_other_patches(name, evaluated):
    data, outputs = evaluated(name)
    measures = ZOO[name].metrics(outputs, outputs, data.labels)
    assert measures["auc"] >= 0.9975 and measures["balanced_accuracy"] >= 0.935
    assert measures["decision_agreement"] == measures["anchor_agreement"] == 1 and measures["box_shift_pixels"] == 0


@pytest.mark.models
@pytest.mark.parametrize(("name", "size"), [("A3_front", 128), ("A3_back", 256)])
def test_a3_finds_the_face_of_the_astronaut(name, size, run_float):
    image = letterbox(load_photo("astronaut.png"), size)
    outputs = run_float(ZOO[name], {"input:0": image[None].astype(np.float32) / np.float32(127.5) - np.float32(1)})
    (index,), (logit,), (box,) = best_anchor(outputs)
    cells, number, per_cell = (16, index, 2) if index < 512 else (8, index - 512, 6)
    row, column = divmod(number // per_cell, cells)
    centre = (np.array([column, row]) + 0.5) / cells + box[:2] / size
    assert logit > 0
    np.testing.assert_allclose(centre * 512, [225, 120], atol=15)  # seen by eye in the photo


@pytest.mark.models
def test_a9_reads_digits_as_known(evaluated, run_float):
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
