"""The float models' outputs, as ONNX Runtime computes them."""

from functools import cache

import numpy as np
import onnxruntime
import pytest

from knerex_jax.zoo import ZOO, EvaluationSet, ZooModel

# Where running all samples takes long, the first so many; every prefix is a fair mixture.
FIRST = {"A4": 10, "A5": 30, "A6_det": 12, "A6_cls": 60, "A7": 30}


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
def _evaluated(name: str) -> tuple[EvaluationSet, dict[str, np.ndarray]]:
    data = ZOO[name].evaluation(FIRST.get(name))
    return data, run_float(ZOO[name], data.inputs)


@pytest.fixture(name="run_float", scope="session")
def run_float_fixture():
    return run_float


@pytest.fixture(scope="session")
def evaluated():
    """A function of a model's name: evaluation set (or the first of it) and float outputs, computed once."""
    return _evaluated
