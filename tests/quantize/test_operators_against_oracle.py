"""Small networks of composite operators, masks, lookups and islands: every tensor equals the oracle's."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import FLOAT_TOLERANCE, relative_error
from onnx_text import model_of
from planning import fixed_model, plan
from real_models import every_tensor, oracle_mismatches, ort_run

from knerex_jax.graph.ir import Model
from knerex_jax.graph.write import to_proto
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.scaled import scale_model
from knerex_jax.runtime import FloatModel


@dataclass(frozen=True)
class Case:
    """A network and what is expected of it.

    Attributes:
      text: ONNX text; random constants.
      least_db: (platform, width) -> least SNR of a float output, a few dB below what was measured.
      islands: operators that run in float.
      plain: tensors among them and the outputs that must be exact.
      opset: of the text.
    """

    text: str
    least_db: dict[tuple[str, str], float]
    islands: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    opset: int = 21


INT8_520, INT8_720, INT16_730 = ("520", "int8"), ("720", "int8"), ("730", "int16")

CASES = {
    "transformer with a mask of integers": Case(
        "(float[1,5,8] x, int64[1,5] mask) => (float[1,5,8] y) <float[8] vg, float[8] b, float[8,8] wq, float[8] bq,"
        " float[8,8] wk, float[8,8] wv, float[8,8] wo, int64[4] s = {1, 5, 2, 4}, int64[3] r = {1, 5, 8},"
        " float eight = {8}, float one = {1}, float low = {-3.4e38}, int64[2] a = {1, 2}> {"
        " n = LayerNormalization(x, vg, b)"
        " q0 = MatMul(n, wq) q1 = Add(q0, bq) q2 = Reshape(q1, s) q = Transpose<perm=[0,2,1,3]>(q2)"
        " k0 = MatMul(n, wk) k1 = Reshape(k0, s) k = Transpose<perm=[0,2,3,1]>(k1)"
        " v0 = MatMul(n, wv) v1 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v1)"
        " d0 = MatMul(q, k) d = Div(d0, eight) m0 = Cast<to=1>(mask) m1 = Sub(one, m0) m2 = Mul(m1, low)"
        " m = Unsqueeze(m2, a) e = Add(d, m) p = Softmax<axis=-1>(e) o0 = MatMul(p, v)"
        " o1 = Transpose<perm=[0,2,1,3]>(o0) o2 = Reshape(o1, r) o = MatMul(o2, wo) f = Add(x, o) y = Gelu(f) }",
        {INT8_520: 15, INT16_730: 45},
        islands=("Identity",),
        plain=("m",),
    ),
    "grouped queries, boolean and causal mask": Case(
        "(float[1,4,5,3] q, float[1,2,5,3] k, float[1,2,5,3] v, bool[1,1,5,5] m) => (float[1,4,5,3] y)"
        "{ y = Attention<is_causal=1>(q, k, v, m) }",
        {INT8_520: 24, INT16_730: 58},
        islands=("Identity",),
        opset=23,
    ),
    "embedding": Case(
        "(int64[1,6] ids) => (float[1,6,8] y, float[1,11,5] u)"
        " <float[10,8] table, float[1,6,8] position, float[8,5] w, float[5] b, float[1,5,5] tail>"
        "{ e = Gather(table, ids) t = Add(e, position) p = Max(t, e) d = MatMul(p, w) f = Add(d, b)"
        " g = Concat<axis=1>(f, tail) u = Relu(g) s = Sigmoid(e) y = Sub(s, t) }",
        {INT8_520: 18, INT8_720: 19, INT16_730: 58},
        plain=("ids",),
    ),
    "upsampling decoder": Case(
        "(float[1,3,5,4] x) => (float[1,4,20,16] y) <float[3,4,2,2] w, float[4] b, float[4,4,3,3] u, float[4] c,"
        " float[4] s = {1, 1, 2, 2}> { t = ConvTranspose<strides=[2,2]>(x, w, b) r = Relu(t)"
        ' z = Resize<mode="linear">(r, , s) y = Conv<pads=[1,1,1,1]>(z, u, c) }',
        {INT8_520: 27, INT16_730: 57},
    ),
    "recurrent layer": Case(
        "(float[1,5,3] x) => (float[1,5,4] y, float[1,1,4] h) <float[1,16,3] w, float[1,16,4] r, float[1,32] b,"
        " int64[1] a = {1}> { t = Transpose<perm=[1,0,2]>(x) o, h = LSTM<hidden_size=4>(t, w, r, b)"
        " q = Squeeze(o, a) u = Transpose<perm=[1,0,2]>(q) y = Tanh(u) }",
        {INT8_720: 15, INT16_730: 35},
        islands=("LSTM",),
    ),
    "choices": Case(
        "(float[1,4,6] x, float[1,4,6] z) => (float[1,4,2] top, int64[1,4,2] place, int64[1,1,6] best,"
        " bool[1,4,6] above, float[1,4,6] larger) <int64[1] k = {2}> { a = Add(x, z) top, place = TopK<axis=-1>(a, k)"
        " best = ArgMax<axis=1>(a) above = Greater(x, z) larger = Where(above, x, a) }",
        {INT8_720: 30, INT16_730: 60},
        islands=("ArgMax", "Greater", "TopK", "Where"),
        plain=("above", "best", "place"),
    ),
    "blocks": Case(
        "(float[1,8,3,4] x) => (float[1,8,3,4] y, float[1,2,6,8] t) <float[8,8,1,1] w, float[8] b>"
        '{ c = Conv(x, w, b) t = DepthToSpace<blocksize=2, mode="CRD">(c) s = SpaceToDepth<blocksize=2>(t)'
        " p = Relu(s) y = Abs(p) }",
        {INT8_720: 28, INT16_730: 58},
    ),
    "instance norm": Case(
        "(float[1,4,6,5] x) => (float[1,6,6,5] y) <float[6,4,1,1] w, float[6] c, float[6] g, float[6] b>"
        "{ t = Conv(x, w, c) i = InstanceNormalization(t, g, b) y = Relu(i) }",
        {INT8_720: 17},
    ),
    "group norm": Case(
        "(float[1,6,4,5] x) => (float[1,6,4,5] y) <float[6] g, float[6] b>"
        "{ t = Abs(x) i = GroupNormalization<num_groups=3>(t, g, b) y = Tanh(i) }",
        {INT16_730: 50},
    ),
}
COMBINATIONS = [(name, *combination) for name, case in CASES.items() for combination in case.least_db]


def samples_of(model: Model, count: int, seed: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    """Random inputs [N, ...] in place of the batch axis: indices of ten rows, masks that show at least one place."""
    rng, made = np.random.default_rng(seed), {}
    for t in model.graph.inputs:
        held = model.graph.types[t]
        shape = (count, *held.shape[1:])
        if held.real:
            made[t] = (spread * rng.normal(size=shape)).astype(np.float32)
        elif t == "ids":
            made[t] = rng.integers(-10, 10, shape)
        else:
            shown = (rng.random(shape) < 0.7) | (np.arange(shape[-1]) == 0)
            made[t] = shown.astype(held.dtype)
    return made


def planned_case(name: str, platform: str, width: str) -> tuple[Model, Planned]:
    """The float model and its plan."""
    origin = model_of(CASES[name].text, CASES[name].opset)
    model = decompose_model(origin)
    return origin, plan(model, samples_of(model, 16, seed=0), platform, width)


@pytest.mark.parametrize(("name", "platform", "width"), COMBINATIONS)
def test_every_tensor_equals_the_oracle(name, platform, width):
    case = CASES[name]
    origin, planned = planned_case(name, platform, width)
    fixed = fixed_model(planned)
    inputs = samples_of(origin, 4, seed=9)
    wide = samples_of(origin, 2, seed=5, spread=3.0)  # saturation has to agree as well
    everything = {t: np.concatenate([inputs[t], wide[t]]) for t in inputs}
    assert oracle_mismatches(planned, fixed, everything) == []

    nodes = planned.model.graph.node
    assert {nodes[n].op_type for n in planned.plan.islands} == set(case.islands)
    assert set(case.plain) <= set(fixed.program.exact)
    reference = FloatModel(origin).run(inputs)
    outputs = every_tensor(fixed, everything)
    for t, value in reference.items():
        found = fixed.dequantize(t, outputs[t])[: len(value)]
        if value.dtype.kind == "f":
            assert snr_db(value, found) > case.least_db[platform, width], t
        elif width == "int16":
            np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("name", CASES)
def test_scaled_model_equals_the_float_model_up_to_its_output_scales(name):
    origin, planned = planned_case(name, "720", "int8")
    scaled = scale_model(planned.model, planned.structure, planned.plan)
    inputs = samples_of(origin, 3, seed=7)
    outputs = ort_run(to_proto(unbind(scaled, REGISTRY)), inputs)
    for t, value in FloatModel(origin).run(inputs).items():
        if value.dtype.kind == "f":
            real = outputs[t].reshape(value.shape) / planned.plan.formats[t].scale
            assert relative_error(value, real) <= FLOAT_TOLERANCE["runtime"], t
        else:
            np.testing.assert_array_equal(outputs[t].reshape(value.shape), value)


@pytest.mark.parametrize("name", ["recurrent layer", "choices"])
def test_islands_do_not_depend_on_the_batch(name):
    origin, planned = planned_case(name, "720", "int8")
    fixed = fixed_model(planned)
    inputs = samples_of(origin, 5, seed=2)
    one_by_one, together = (fixed.run(inputs, "fixed", batch_size=size) for size in (1, 4))
    for t, codes in together.items():
        np.testing.assert_array_equal(one_by_one[t], codes)
