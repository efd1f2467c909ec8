"""What the search for a plan is judged by."""

import numpy as np
from onnx_text import model_of

import knerex_jax as kx
from knerex_jax import flow
from knerex_jax.artifacts.bie import Bie
from knerex_jax.refine.noise import NoiseMeter

TEXT = """(float[1, 3, 8, 8] x) => (float[1, 64, 4] boxes, float[1, 2, 8, 8] scores)
<float[4, 3, 1, 1] w, float[2, 3, 1, 1] u, int64[3] shape = {1, 64, 4}> {
    raw = Conv(x, w)
    turned = Transpose <perm = [0, 2, 3, 1]> (raw)
    boxes = Reshape(turned, shape)
    scores = Conv(x, u)
}"""


def test_noise_of_outputs_that_a_sigmoid_follows_counts_where_it_is_not_flat():
    model, rng = model_of(TEXT), np.random.default_rng(0)
    inputs = {"x": (8 * rng.standard_normal((5, 3, 8, 8))).astype(np.float32)}
    planned = flow.make_plan(model, flow.analyze(model, inputs, kx.PTQConfig()), kx.PTQConfig())
    plain = NoiseMeter.of(model, inputs)
    behind = NoiseMeter.of(model, inputs, sigmoids=("scores",))
    assert plain.sigmoids == frozenset() and behind.sigmoids == {"scores"}
    assert NoiseMeter.of(model, inputs, sigmoids=("scores", "boxes")).sigmoids == set(plain.reference)
    before, after = plain.by_output(planned), behind.by_output(planned)
    (boxes,) = set(before) - {"scores"}  # judged in front of the Reshape
    assert before[boxes] == after[boxes] and before["scores"] != after["scores"]
    exact = kx.FloatModel(model).run(inputs)["scores"].astype(np.float64)
    bie = Bie(planned.program, planned.constants, planned.plan, {})
    fixed = kx.FixedModel(bie).run(inputs)["scores"].astype(np.float64)
    assert (np.abs(exact) > 8).any() and (np.abs(exact) < 8).any()
    seen, given = np.clip(fixed, -8, 8), np.clip(exact, -8, 8)
    np.testing.assert_allclose(after["scores"], ((seen - given) ** 2).sum() / (given**2).sum(), rtol=1e-6)
    assert behind.part(np.arange(5) < 2).sigmoids == behind.sigmoids
