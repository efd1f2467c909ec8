"""Range settings from the config to the plan: one measurement, any rule."""

import numpy as np
import pytest
from onnx_text import model_of

import knerex_jax as kx
from knerex_jax import flow
from knerex_jax.calibrate.measured import Measured
from knerex_jax.graph.ir import Model

TEXT = """(float[1, 3, 16, 16] x) => (float[1, 2, 16, 16] y) <float[3, 3, 1, 1] w, float[2, 3, 1, 1] v> {
    inner = Conv(x, w)
    y = Conv(inner, v)
}"""
MMSE = kx.PTQConfig(datapath_range_method="mmse", percentile=0.1)
EVERY = (
    kx.PTQConfig(),
    MMSE,
    kx.PTQConfig(datapath_range_method="mmse", outlier_factor=2.0, quantize_mode="post_sigmoid"),
)


@pytest.fixture(scope="module")
def model() -> Model:
    model = model_of(TEXT)
    return Model(model.graph, {**model.constants, "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)})


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((20, 3, 16, 16))
    values[:, 1] *= 1e-4
    values[:, 2] = np.where(rng.random((20, 16, 16)) < 2e-3, 0.02, 1e-5) * values[:, 2]
    return {"x": (20 * values).astype(np.float32)}


@pytest.fixture(scope="module")
def measured(model, data) -> Measured:
    return flow.measure(model, data, EVERY[0], also=EVERY[1:])


@pytest.mark.parametrize("which", range(len(EVERY)))
def test_one_measurement_gives_what_each_analysis_gives(which, model, data, measured, tmp_path):
    measured.save(tmp_path / "measured.npz")
    again = flow.ranges_of(Measured.load(tmp_path / "measured.npz"), EVERY[which])
    assert str(again) == str(flow.ranges_of(measured, EVERY[which])) == str(kx.analyze(model, data, EVERY[which]))
    assert again.method == EVERY[which].datapath_range_method


def test_a_channel_with_a_freak_optimum_is_protected(model, measured):
    """However small the searched range of a channel, its format reaches at least a quarter of the layer's."""
    ranges = flow.ranges_of(measured, MMSE)
    own = ranges["inner"].channel_absmax(8)
    layer = max(ranges["inner"].layer_absmax(8), own.max())
    assert (own[1:] < layer / 50).all()
    planned = flow.make_plan(model, ranges, MMSE)
    form = planned.plan.formats["inner"]
    reach = 127 / (form.scale.astype(np.float64) * 2.0**form.radix)
    np.testing.assert_allclose(reach, [layer, layer / 4, layer / 4], rtol=1e-6)


MOVED = """(float[1, 3, 16, 16] x) => (float[1, 256, 4] boxes, float[1, 16, 16, 3] scores)
<float[4, 3, 1, 1] w, float[2, 3, 1, 1] v, int64[3] shape = {1, 256, 4}> {
    raw = Conv(x, w)
    turned = Transpose <perm = [0, 2, 3, 1]> (raw)
    boxes = Reshape(turned, shape)
    inner = Conv(x, v)
    small = Relu(inner)
    score = Conv(x, u)
    joined = Concat <axis = 1> (score, small)
    scores = Transpose <perm = [0, 2, 3, 1]> (joined)
}"""


@pytest.fixture(scope="module")
def moved() -> Model:
    return model_of(MOVED.replace("float[2, 3, 1, 1] v,", "float[2, 3, 1, 1] v, float[1, 3, 1, 1] u,"))


def test_what_only_moves_on_its_way_out_keeps_its_exact_range(moved, data):
    """Contract, section 6: an output keeps everything; so do the tensors whose values it holds."""
    config = kx.PTQConfig(data_analysis_pct=0.5, platform="730")
    ranges = flow.ranges_of(flow.measure(moved, data, config), config)
    made = kx.FloatModel(moved).run(data)
    raw, joined = made["boxes"].reshape(-1, 4), made["scores"].reshape(-1, 3)
    np.testing.assert_allclose(ranges["raw"].channel_absmax(8), np.abs(raw).max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(ranges["score"].channel_absmax(8), np.abs(joined[:, :1]).max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(ranges["small"].channel_absmax(8), np.abs(joined[:, 1:]).max(axis=0), rtol=1e-5)
    planned = flow.make_plan(moved, ranges, config)
    for output, values in (("boxes", raw), ("scores", joined)):
        form = planned.plan.formats[output]
        reach = 127 / (form.scale.astype(np.float64) * 2.0**form.radix)
        assert (reach >= np.abs(values).max() * (1 - 1e-5)).all()


def test_sigmoids_may_follow_some_outputs_only(moved, data):
    plain = kx.PTQConfig()
    all_of_them = kx.PTQConfig(quantize_mode="post_sigmoid")
    scores_only = kx.PTQConfig(quantize_mode="post_sigmoid", sigmoid_outputs="scores")
    configs = (plain, all_of_them, scores_only)
    exact, clipped, some = flow.ranges_of_each(flow.measure(moved, data, plain, also=configs), configs)
    widest = {t: float(exact[t].layer_absmax(8)) for t in ("raw", "score")}
    assert min(widest.values()) > 20
    assert clipped["raw"].layer_absmax(8) < widest["raw"] / 2 and clipped["score"].layer_absmax(8) < widest["score"] / 2
    assert some["raw"].layer_absmax(8) == widest["raw"]
    assert some["score"].layer_absmax(8) == clipped["score"].layer_absmax(8)


def test_a_sigmoid_behind_no_output_is_an_error(moved, data):
    config = kx.PTQConfig(quantize_mode="post_sigmoid", sigmoid_outputs=["score"])
    with pytest.raises(kx.ConfigError, match="no output 'score'") as caught:
        flow.measure(moved, data, config)
    assert "did you mean 'scores'" in str(caught.value)
