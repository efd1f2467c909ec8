"""Normalisations spelled out: the same numbers as ONNX states them, 15 bits inside."""

import numpy as np
import pytest
from helpers import FLOAT_TOLERANCE, relative_error
from onnx.reference import ReferenceEvaluator
from onnx_text import assert_leaves, assert_rewrites, case_id, model_of, ops_of, proto_of

from knerex_jax.graph.ir import Model
from knerex_jax.passes import normalise
from knerex_jax.passes.base import run_passes
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.runtime import FloatModel

SEQUENCE = "(float[1,6,8] x) => (float[1,6,8] y) "
IMAGE = "(float[1,6,4,5] x) => (float[1,6,4,5] y) "
ROOT = "Mul ReduceMean Add Sqrt Reciprocal"
STANDARD = f"ReduceMean Sub {ROOT} Mul Mul Mul {ROOT} Mul"
UNGUARDED = "ReduceMean Sub Mul ReduceMean Clip Sqrt Reciprocal Mul Mul ReduceMean Clip Sqrt Reciprocal Mul"

NORMALISATIONS = {
    "layer": (
        SEQUENCE + "<float[8] g, float[8] b> { y = LayerNormalization<axis=-1>(x, g, b) }",
        f"{STANDARD} Mul Add",
    ),
    "layer without a bias, two axes": (
        SEQUENCE + "<float[6,8] g> { y = LayerNormalization<axis=1, epsilon=0.01>(x, g) }",
        f"{STANDARD} Mul",
    ),
    "layer with a bias of another shape": (
        SEQUENCE + "<float[8] g, float[1] b> { y = LayerNormalization(x, g, b) }",
        f"{STANDARD} Mul Add",
    ),
    "layer with a computed scale": (
        "(float[1,6,8] x, float[8] g) => (float[1,6,8] y) { y = LayerNormalization(x, g) }",
        f"{STANDARD} Mul",
    ),
    "instance": (
        IMAGE + "<float[6] g, float[6] b> { y = InstanceNormalization(x, g, b) }",
        f"{STANDARD} Mul Add",
    ),
    "instance, one axis": (
        "(float[2,3,7] x) => (float[2,3,7] y) <float[3] g, float[3] b> { y = InstanceNormalization(x, g, b) }",
        f"{STANDARD} Mul Add",
    ),
    "group": (
        IMAGE + "<float[6] g, float[6] b> { y = GroupNormalization<num_groups=3>(x, g, b) }",
        f"Reshape {STANDARD} Reshape Mul Add",
    ),
    "group with a computed scale": (
        "(float[1,6,4,5] x, float[6] g) => (float[1,6,4,5] y) <float[6] b> "
        "{ y = GroupNormalization<num_groups=2>(x, g, b) }",
        f"Reshape {STANDARD} Reshape Reshape Mul Add",
    ),
    "mean and variance": (IMAGE + "{ y = MeanVarianceNormalization<axes=[2, 3]>(x) }", UNGUARDED),
    "l1": (SEQUENCE + "{ y = LpNormalization<axis=-1, p=1>(x) }", "ReduceL1 Clip Reciprocal Mul"),
    "l2": (SEQUENCE + "{ y = LpNormalization<axis=1, p=2>(x) }", "ReduceL2 Clip Reciprocal Mul"),
}
SPELL_OUT = (
    normalise.spell_out_layer_norm,
    normalise.spell_out_instance_norm,
    normalise.spell_out_group_norm,
    normalise.spell_out_mean_variance,
    normalise.spell_out_lp_norm,
)

REDUCTIONS = [
    ("(float[2,6] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceL1(x, a) }", "Abs ReduceSum"),
    ("(float[2,6] x) => (float[6] y) <int64[1] a = {0}> { y = ReduceL2<keepdims=0>(x, a) }", "Mul ReduceSum Sqrt"),
    ("(float[2,6] x) => (float[1,1] y) { y = ReduceSumSquare(x) }", "Mul ReduceSum"),
    (
        "(float[2,6] x) => (float[2] y) <int64[1] a = {-1}> { p = Exp(x) y = ReduceLogSum<keepdims=0>(p, a) }",
        "Exp ReduceSum Log",
    ),
    (
        "(float[2,6] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceLogSumExp(x, a) }",
        "ReduceMax Sub Exp ReduceSum Log Add",
    ),
    (
        "(float[2,6] x) => (float[2] y) <int64[1] a = {1}, float k = {100}> "
        "{ t = Mul(x, k) y = ReduceLogSumExp<keepdims=0>(t, a) }",  # overflows without the maximum
        "Mul ReduceMax Sub Exp ReduceSum Log Reshape Add",
    ),
]


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_normalisation_is_spelled_out(case):
    text, expected = NORMALISATIONS[case]
    after = assert_rewrites(text, SPELL_OUT, expected)
    assert not after.graph.producer["y"].wide
    assert {n.op_type for n in after.graph.nodes if not n.wide} <= {"Mul", "Add", "Reshape"}


# The reference of L1 adds the entries up with their signs; above, ONNX Runtime judges it.
@pytest.mark.parametrize("case", [case for case in NORMALISATIONS if case != "l1"])
def test_decomposed_normalisation_equals_the_reference_of_onnx(case):
    text, _ = NORMALISATIONS[case]
    proto = proto_of(text)
    rng = np.random.default_rng(3)
    types = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    inputs = {t: (3 * rng.normal(size=shape) + 1).astype(np.float32) for t, shape in types.items()}
    (expected,) = ReferenceEvaluator(proto).run(None, inputs)
    assert relative_error(expected, _run(decompose_model(model_of(text)), inputs)) <= FLOAT_TOLERANCE["runtime"]


def _run(model: Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output for one sample, in the shape that the model states."""
    shapes = {t: model.graph.shape(t) for t in (*model.graph.inputs, model.graph.outputs[0])}
    batch = {t: v.reshape(1, *(shapes[t][1:] if shapes[t][0] == 1 else shapes[t])) for t, v in inputs.items()}
    return FloatModel(model).run(batch)[model.graph.outputs[0]].reshape(shapes[model.graph.outputs[0]])


def test_rms_norm_is_not_centred():
    text = SEQUENCE + "<float[8] g> { y = RMSNormalization<epsilon=0.1>(x, g) }"
    before = model_of(text, opset=23)
    after = run_passes(before, SPELL_OUT)
    assert ops_of(after) == f"{ROOT} Mul Mul Mul {ROOT} Mul Mul"
    x = np.random.default_rng(4).normal(size=(1, 6, 8)).astype(np.float32) + 2
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.1) * before.constants["g"]
    assert relative_error(expected, _run(after, {"x": x})) <= FLOAT_TOLERANCE["pass"]


def test_further_outputs_of_layer_norm_are_kept():
    text = (
        "(float[1,6,8] x) => (float[1,6,8] y, float[1,6,1] mean, float[1,6,1] deviation) <float[8] g, float[8] b> "
        "{ y, mean, deviation = LayerNormalization(x, g, b) }"
    )
    assert_rewrites(text, SPELL_OUT, f"{STANDARD} Mul Mul Add Identity Identity")


def test_scale_and_bias_by_group_as_before_opset_21():
    text = IMAGE + "<float[3] g, float[3] b> { y = GroupNormalization<num_groups=3>(x, g, b) }"
    before = model_of(text, opset=20)
    after = run_passes(before, SPELL_OUT)
    assert ops_of(after) == f"Reshape {STANDARD} Reshape Mul Add"
    x = np.random.default_rng(5).normal(size=(1, 6, 4, 5)).astype(np.float32)
    grouped = x.reshape(3, -1)
    scaled = (grouped - grouped.mean(1, keepdims=True)) / np.sqrt(grouped.var(1, keepdims=True) + 1e-5)
    expected = scaled * before.constants["g"][:, None] + before.constants["b"][:, None]
    assert relative_error(expected.reshape(x.shape), _run(after, {"x": x})) <= FLOAT_TOLERANCE["pass"]


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_nothing_to_normalise_gives_numbers(case):
    """Where all entries are equal, or 0, the divisor is 0 or nearly so."""
    model = decompose_model(model_of(NORMALISATIONS[case][0]))
    inputs = {t: np.zeros(model.graph.shape(t), np.float32) for t in model.graph.inputs}
    assert np.isfinite(_run(model, inputs)).all()


LEFT = [
    (
        normalise.spell_out_instance_norm,  # nothing to average over
        "(float[2,3] x) => (float[2,3] y) <float[3] g, float[3] b> { y = InstanceNormalization(x, g, b) }",
    ),
    (
        normalise.spell_out_group_norm,  # by group and computed
        "(float[1,6,4] x, float[3] g) => (float[1,6,4] y) <float[6] b> "
        "{ y = GroupNormalization<num_groups=3>(x, g, b) }",
    ),
    (normalise.spell_out_reductions, "(int64[2,6] x) => (int64[1,1] y) { y = ReduceSumSquare(x) }"),
    (normalise.spell_out_reductions, "(float[2,6] x) => (float[1,1] y) { y = ReduceSum(x) }"),
    (  # not inside a normalisation
        normalise.sum_of_squares_to_matmul,
        "(float[2,6] x) => (float[2,1] y) <int64[1] a = {1}> { q = Mul(x, x) y = ReduceMean(q, a) }",
    ),
]


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)


@pytest.mark.parametrize(("text", "expected"), REDUCTIONS)
def test_reduction_is_spelled_out(text, expected):
    after = assert_rewrites(text, normalise.spell_out_reductions, expected)
    assert not after.graph.producer["y"].wide


SQUARES = (normalise.spell_out_reductions, normalise.sum_of_squares_to_matmul)


def test_squares_inside_a_norm_are_summed_by_a_product():
    text = "(float[2,3,6] x) => (float[2,1,1] y) <int64[2] a = {-1, 1}> { y = ReduceL2(x, a) }"
    after = assert_rewrites(text, SQUARES, "Reshape Reshape MatMul Reshape Sqrt")
    row, column = (after.graph.shape(n.outputs[0]) for n in after.graph.nodes[:2])
    assert (row, column) == ((2, 1, 18), (2, 18, 1))


def test_mean_of_squares_is_a_product_times_a_share():
    text = SEQUENCE + "<float[8] g> { y = LayerNormalization(x, g) }"
    passes = (*SPELL_OUT, normalise.sum_of_squares_to_matmul)
    product = "Reshape Reshape MatMul Reshape Mul Add Sqrt Reciprocal"
    assert_rewrites(text, passes, f"ReduceMean Sub {product} Mul Mul Mul {product} Mul Mul")


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3,6] x) => (float[2,1,6] y) <int64[1] a = {1}> { y = ReduceL2(x, a) }",  # not the last axis
        "(float[2,6] x) => (float[2,1] y, float[2,6] q) <int64[1] a = {1}> "
        "{ q = Mul(x, x) s = ReduceSum(q, a) y = Sqrt(s) }",  # the squares are an output
        "(float[2,6] x, float[2,6] z) => (float[2,1] y) <int64[1] a = {1}> "
        "{ q = Mul(x, z) s = ReduceSum(q, a) y = Sqrt(s) }",  # no squares
    ],
)
def test_other_sums_stay(text):
    after = run_passes(model_of(text), SQUARES)
    assert "MatMul" not in ops_of(after) and "ReduceSum" in ops_of(after)
