"""The QDQ model is close to the fixed-point one, and says how close."""

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import samples
from npu_nets import backbone
from onnx_sessions import run_codes
from onnx_text import model_of
from planning import fixed_model, plan

from knerex_jax.artifacts.bie import Bie
from knerex_jax.export.qdq import DEVIATION_KEY, qdq_onnx, session_options, with_deviation
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.runtime import FixedModel


@pytest.mark.parametrize(
    ("net", "platform", "width"),
    [
        (backbone(table=True), "720", "int8"),
        (backbone(table=False), "730", "int16"),
        (backbone(table=True), "520", "int8"),
    ],
)
def test_it_is_close_to_the_emulator_and_says_how_close(net, platform, width):
    model = net[0].model(*net[1])
    data = samples(model, 3)
    planned = plan(model, data, platform, width)
    fixed = FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    codes = fixed.run(data, "fixed")
    made = qdq_onnx(planned)
    found = with_deviation(made, planned, data, codes)
    onnx.checker.check_model(made, full_check=True)
    assert sum(n.op_type == "QuantizeLinear" for n in made.graph.node) >= 5
    (held,) = [p.value for p in made.metadata_props if p.key == DEVIATION_KEY]
    assert msgspec.json.decode(held) == found and set(found) == set(planned.program.outputs)
    levels = ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL")
    largest = {level: dict.fromkeys(found, 0.0) for level in levels}
    for level in levels:
        for k in range(3):
            run = run_codes(made, {t: v[k : k + 1] for t, v in data.items()}, level)
            for t in found:
                real = fixed.dequantize(t, codes[t])[k]
                largest[level][t] = max(largest[level][t], float(np.abs(run[t].ravel() - real.ravel()).max()))
    for t, row in found.items():
        assert row["units"] == pytest.approx(largest["ORT_ENABLE_ALL"][t]) and row["samples"] == 3
        # Float kernels between the quantizers, as the format means it: the integer kernels of optimized sessions differ
        # by processor (8 codes off with AVX2 alone, where 6 are the most with AVX-512).
        step = row["units"] / row["codes"] if row["codes"] else 1.0
        assert largest["ORT_DISABLE_ALL"][t] <= 6 * step * (1 + 1e-6), "a few steps of rounding, not another model"
        assert np.abs(fixed.dequantize(t, codes[t])).max() > 8 * row["units"]


POOL = """(float[1,3,8,8] x) => (float[1,4,4,4] y) <float[4,3,3,3] w, float[4,4,1,1] v> {
    a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = MaxPool<kernel_shape=[2,2],strides=[2,2]>(b) y = Conv(c, v)
}"""


def test_it_names_the_option_without_which_onnx_runtime_gets_it_wrong():
    model = decompose_model(model_of(POOL))
    data = samples(model, 3)
    planned = plan(model, data, "520")
    fixed = fixed_model(planned)
    codes = fixed.run(data, "fixed")
    made = qdq_onnx(planned)
    found = with_deviation(made, planned, data, codes)

    def worst(options: dict[str, str]) -> float:
        settings = ort.SessionOptions()
        for name, value in options.items():
            settings.add_session_config_entry(name, value)
        session = ort.InferenceSession(made.SerializeToString(), settings)
        real = fixed.dequantize("y", codes["y"])
        return max(float(np.abs(session.run(None, {"x": data["x"][k : k + 1]})[0] - real[k]).max()) for k in range(3))

    assert worst(session_options(made)) == pytest.approx(found["y"]["units"]) and found["y"]["codes"] <= 8
    assert bool(session_options(made)) == (worst({}) > 8 * planned.constants["tensor:y"]["inverse"][0])
