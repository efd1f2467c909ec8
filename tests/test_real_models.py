"""Real pretrained models through the whole flow: stage files on ONNX Runtime, codes against the independent oracle."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from helpers import FLOAT_TOLERANCE, relative_error
from planning import WIDTHS, exact_ranges, fixed_model
from real_models import REAL_MODELS, RealModel, every_tensor, ort_run, stage_error, unlike_oracle

import knerex_jax as kx
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.graph.ir import Model
from knerex_jax.graph.write import to_proto
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.scaled import scale_model
from knerex_jax.runtime import FloatModel

pytestmark = pytest.mark.models
CALIBRATION_SAMPLES = 24
EVERY_WIDTH = [("720", "int8"), ("720", "w8a16"), ("720", "int16"), ("520", "int8")]
PLANS = {
    "embedded": EVERY_WIDTH,
    "A1": [("720", "int8"), ("720", "int16"), ("520", "int8")],
    "A2": EVERY_WIDTH[:3],
    "A3_front": [("720", "int8"), ("720", "w8a16")],
    "A9": EVERY_WIDTH,
}
"""The accuracy table compares every model at every width; here a share of it, for the time it takes to compile."""


@dataclass(frozen=True)
class Brief:
    """One combination of platform and width, and what is expected of it.

    Attributes:
      least_db: SNR that every float output exceeds. Well below what one sample gives (from the top 36, 21, 22, 43, 79,
        12 and 30 dB): it catches a broken plan; the accuracy table says how good a sound one is.
      rounding: largest relative error of a stage on ONNX Runtime.
    """

    platform: str
    width: str
    least_db: float
    rounding: float = FLOAT_TOLERANCE["pass"]


BRIEF_SAMPLES = 8
BRIEF = {
    "A3_back": Brief("720", "int16", 30.0),
    "A4": Brief("730", "int8", 15.0),
    "A5": Brief("720", "int8", 12.0),
    # A steep sigmoid behind a deep network: the last place of the input alone moves the output by 1.5e-5.
    "A6_det": Brief("730", "int16", 35.0, FLOAT_TOLERANCE["runtime"]),
    "A6_cls": Brief("720", "w8a16", 40.0),
    # Logarithms of quiet spectra: the last place of the input moves the output by 3e-5. For the same reason few dB are
    # left at 15 bits: octaves without a note lie below the step that the loud ones need, and every bin counts alike.
    "A7": Brief("730", "int16", 10.0, FLOAT_TOLERANCE["runtime"]),
    "A8": Brief("720", "int16", 25.0),
}
"""The large models, each at one combination."""


@dataclass(frozen=True)
class Case:
    name: str
    real: RealModel
    origin: Model
    model: Model
    ranges: Ranges

    def inputs(self, count: int) -> dict[str, np.ndarray]:
        return dict(self.real.evaluation(count)[0])


LONG = {"A3_front", "A5", "A6_cls"}
"""Run on demand: A3_back, A6_det and the others have the same operators."""


def marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in names]


@pytest.fixture(scope="module", params=marked(PLANS))
def case(request) -> Case:
    real = REAL_MODELS[request.param]()
    config = kx.PTQConfig(batch_size=8)
    model = kx.decompose_onnx(real.path)
    ranges = kx.analyze(model, dict(real.calibration(CALIBRATION_SAMPLES)), config)
    return Case(request.param, real, kx.load_onnx(real.path), model, ranges)


def planned(case: Case, platform: str, width: str) -> Planned:
    return plan_model(case.model, case.ranges, WIDTHS[width], kx.TARGETS[platform])


def test_float_lowering_equals_onnx_runtime(case):
    inputs = case.inputs(3)
    ours = FloatModel(case.origin).run(inputs)
    for name, value in ort_run(case.real.path, inputs).items():
        assert relative_error(value, ours[name]) <= FLOAT_TOLERANCE["runtime"]


def test_stages_equal_the_model_on_onnx_runtime(case):
    check_stages(case.real, case.origin, planned(case, "720", "int8"), case.inputs(3), FLOAT_TOLERANCE["pass"])


def check_stages(real: RealModel, origin: Model, plan: Planned, inputs: dict[str, np.ndarray], rounding: float) -> None:
    reference = ort_run(real.path, inputs)
    scaled = scale_model(plan.model, plan.structure, plan.plan)
    for stage, model in {"origin": origin, "decomposed": plan.model, "scaled": scaled}.items():
        proto = to_proto(unbind(model, REGISTRY))
        onnx.checker.check_model(proto, full_check=True)
        error = stage_error(reference, proto, inputs, plan.plan if stage == "scaled" else None)
        assert error <= rounding, stage


def test_every_code_equals_the_oracle(case):
    inputs = case.inputs(4)
    reference = FloatModel(case.model).run(inputs)
    for platform, width in PLANS[case.name]:
        compare_with_oracle(planned(case, platform, width), width, inputs, reference)


def compare_with_oracle(plan: Planned, width: str, inputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]):
    fixed = fixed_model(plan)
    held = every_tensor(fixed, inputs)
    assert unlike_oracle(plan, held, inputs) == []
    floor_db = 30.0 if width == "int16" else 3.0  # a plan from 24 samples; the accuracy table calibrates properly
    for name, value in reference.items():
        assert snr_db(value, fixed.dequantize(name, held[name])) > floor_db


def assert_same_arithmetic(model: Model, ranges: Ranges, width: str) -> None:
    """720 and 730 come to the same program and integers."""
    one, two = (plan_model(model, ranges, WIDTHS[width], kx.TARGETS[p]) for p in ("720", "730"))
    assert msgspec.structs.replace(two.program, platform="720") == one.program
    for name, integers in one.constants.items():
        for key, array in integers.items():
            np.testing.assert_array_equal(two.constants[name][key], array)


def test_720_and_730_compute_alike(case):
    for width in ("int8", "int16"):
        assert_same_arithmetic(case.model, case.ranges, width)


def test_codes_do_not_depend_on_the_batch(case):
    plan = planned(case, "720", "int8")
    fixed = fixed_model(plan)
    inputs = case.inputs(32)
    together = fixed.run(inputs, "fixed", batch_size=32)
    for size, count in ((1, 2), (8, 32)):
        some = fixed.run({k: v[:count] for k, v in inputs.items()}, "fixed", batch_size=size)
        for name, codes in some.items():
            np.testing.assert_array_equal(codes, together[name][:count])


def test_every_model_has_a_test():
    assert {*PLANS, *BRIEF} == set(REAL_MODELS)


@pytest.mark.parametrize("name", marked(BRIEF))
def test_model_in_brief(name):
    """Stages, every tensor against the oracle, and SNR, for one sample.

    Its ranges are minimum and maximum of a few samples, which compile in a quarter of the time that percentages take.
    """
    brief = BRIEF[name]
    real = REAL_MODELS[name]()
    origin = kx.load_onnx(real.path, input_shapes=real.input_shapes)
    model = kx.decompose_onnx(real.path, kx.PTQConfig(input_shape=real.input_shapes))
    ranges = exact_ranges(model, real.calibration(BRIEF_SAMPLES), brief.platform)
    plan = plan_model(model, ranges, WIDTHS[brief.width], kx.TARGETS[brief.platform])
    assert_same_arithmetic(model, ranges, brief.width)
    inputs = dict(real.evaluation(1)[0])
    check_stages(real, origin, plan, inputs, brief.rounding)
    fixed = fixed_model(plan)
    held = every_tensor(fixed, inputs)
    assert unlike_oracle(plan, held, inputs) == []
    for tensor, value in ort_run(real.path, inputs).items():
        found = fixed.dequantize(tensor, held[tensor])
        if value.dtype.kind == "f":
            assert snr_db(value, found) > brief.least_db, tensor
        else:
            np.testing.assert_array_equal(found.reshape(value.shape), value)
