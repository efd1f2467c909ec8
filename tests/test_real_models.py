"""Real pretrained models through the whole flow: stage files on ONNX Runtime, codes against the independent oracle."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import FLOAT_TOLERANCE, relative_error
from planning import WIDTHS
from real_models import REAL_MODELS, RealModel, oracle_mismatches

import knerex_jax as kx
from knerex_jax.artifacts.bie import Bie
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.graph.ir import Model
from knerex_jax.graph.write import to_proto
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.quantize.planner import plan_model
from knerex_jax.quantize.scaled import scale_model
from knerex_jax.runtime import FixedModel, FloatModel

pytestmark = pytest.mark.models
CALIBRATION_SAMPLES = 24
EVERY_WIDTH = [("720", "int8"), ("720", "w8a16"), ("720", "int16"), ("520", "int8")]
PLANS = {
    "embedded": EVERY_WIDTH,
    "A1": [("720", "int8"), ("720", "int16"), ("520", "int8")],
    "A2": EVERY_WIDTH[:3],
    "A3_front": [("720", "int8"), ("720", "w8a16")],
    "A3_back": [("720", "int16")],
    "A9": EVERY_WIDTH,
}
"""The accuracy table compares every model at every width; here a share of it, for the time it takes to compile."""


@dataclass(frozen=True)
class Case:
    name: str
    real: RealModel
    origin: Model
    model: Model
    ranges: Ranges

    def inputs(self, count: int) -> dict[str, np.ndarray]:
        return {k: v[:count] for k, v in self.real.evaluation[0].items()}


@pytest.fixture(scope="module", params=REAL_MODELS)
def case(request) -> Case:
    real = REAL_MODELS[request.param]()
    config = kx.PTQConfig(batch_size=8)
    model = kx.decompose_onnx(real.path)
    data = {k: v[:CALIBRATION_SAMPLES] for k, v in real.calibration.items()}
    return Case(request.param, real, kx.load_onnx(real.path), model, kx.analyze(model, data, config))


def ort_run(model: onnx.ModelProto | str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(source, options)
    names = [o.name for o in session.get_outputs()]
    count = len(next(iter(inputs.values())))
    rows = [session.run(None, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return {n: np.concatenate([r[j] for r in rows]) for j, n in enumerate(names)}


def planned(case: Case, platform: str, width: str):
    return plan_model(case.model, case.ranges, WIDTHS[width], kx.TARGETS[platform])


def test_float_lowering_equals_onnx_runtime(case):
    inputs = case.inputs(3)
    ours = FloatModel(case.origin).run(inputs)
    for name, value in ort_run(str(case.real.path), inputs).items():
        assert relative_error(value, ours[name]) <= FLOAT_TOLERANCE["runtime"]


def test_stages_equal_the_model_on_onnx_runtime(case):
    inputs = case.inputs(3)
    reference = ort_run(str(case.real.path), inputs)
    plan = planned(case, "720", "int8")
    scaled = scale_model(plan.model, plan.structure, plan.plan)
    for stage, model in {"origin": case.origin, "decomposed": plan.model, "scaled": scaled}.items():
        proto = to_proto(unbind(model, REGISTRY))
        onnx.checker.check_model(proto, full_check=True)
        outputs = ort_run(proto, inputs)
        for name, value in reference.items():
            scale = plan.plan.formats[name].scale if stage == "scaled" else 1.0
            assert relative_error(value, outputs[name] / scale) <= FLOAT_TOLERANCE["pass"], stage


def test_every_code_equals_the_oracle(case):
    for platform, width in PLANS[case.name]:
        compare_with_oracle(case, platform, width)


def compare_with_oracle(case, platform, width):
    plan = planned(case, platform, width)
    fixed = FixedModel(Bie(plan.program, plan.constants, plan.plan, {}))
    inputs = case.inputs(4)
    assert oracle_mismatches(plan, fixed, inputs) == []
    reference = FloatModel(case.model).run(inputs)
    outputs = fixed.run(inputs)
    floor_db = 30.0 if width == "int16" else 3.0  # a plan from 24 samples; the accuracy table calibrates properly
    for name, value in reference.items():
        assert snr_db(value, outputs[name]) > floor_db


def test_codes_do_not_depend_on_the_batch(case):
    plan = planned(case, "720", "int8")
    fixed = FixedModel(Bie(plan.program, plan.constants, plan.plan, {}))
    inputs = case.inputs(32)
    together = fixed.run(inputs, "fixed", batch_size=32)
    for size, count in ((1, 2), (8, 32)):
        some = fixed.run({k: v[:count] for k, v in inputs.items()}, "fixed", batch_size=size)
        for name, codes in some.items():
            np.testing.assert_array_equal(codes, together[name][:count])
