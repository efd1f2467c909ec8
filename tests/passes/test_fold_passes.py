import numpy as np
import pytest
from onnx_text import assert_leaves, assert_rewrites, assert_same_function, case_id, model_of, ops_of

from knerex_jax.passes import dense, fold
from knerex_jax.passes.base import run_passes

IMAGE = "(float[1,4,6,5] x) => (float[1,4,6,5] y)"
BN = "float[4] g, float[4] b, float[4] m, float[4] v"
CONV = "float[4,4,3,3] w, float[4] c"
PADS = "pads=[1,1,1,1]"
DENSE = "(float[3,6] x) => (float[3,4] y)"

REWRITTEN = [
    (fold.evaluate_constants, IMAGE + "<float[4,1,1] p, float[4,1,1] q> { r = Add(p, q) y = Mul(x, r) }", "Mul"),
    (fold.evaluate_constants, "(float[4] x) => (float[4] y) <float[4] p, float[4] q> { y = Add(p, q) }", "Identity"),
    (
        fold.batch_norm_into_conv,
        f"{IMAGE} <{CONV}, {BN}> {{ t = Conv<{PADS}>(x, w, c) y = BatchNormalization(t, g, b, m, v) }}",
        "Conv",
    ),
    (
        fold.batch_norm_into_conv,
        f"{IMAGE} <float[4,1,3,3] w, {BN}> {{ t = Conv<{PADS}, group=4>(x, w) y = BatchNormalization(t, g, b, m, v) }}",
        "Conv",
    ),
    (
        fold.batch_norm_into_gemm,
        f"{DENSE} <float[4,6] w, float[4] c, {BN}> "
        "{ t = Gemm<transB=1>(x, w, c) y = BatchNormalization(t, g, b, m, v) }",
        "Gemm",
    ),
    (
        fold.merge_batch_norms,
        f"{IMAGE} <{BN}, float[4] h, float[4] k, float[4] n, float[4] v2> "
        "{ t = BatchNormalization(x, g, b, m, v) y = BatchNormalization<epsilon=0.1>(t, h, k, n, v2) }",
        "BatchNormalization",
    ),
    (fold.normalise_batch_norm, f"{IMAGE} <{BN}> {{ y = BatchNormalization(x, g, b, m, v) }}", "BatchNormalization"),
    (fold.constant_to_batch_norm, IMAGE + "<float[1,4,1,1] c> { y = Mul(x, c) }", "BatchNormalization"),
    (fold.constant_to_batch_norm, IMAGE + "<float[4,1,1] c> { y = Add(c, x) }", "BatchNormalization"),
    (fold.constant_to_batch_norm, IMAGE + "<float[4,1,1] c> { y = Sub(c, x) }", "BatchNormalization"),
    (fold.constant_to_batch_norm, IMAGE + "<float[4,1,1] c> { y = Sub(x, c) }", "BatchNormalization"),
    (fold.constant_to_batch_norm, IMAGE + "<float[1,4,1,1] v> { y = Div(x, v) }", "BatchNormalization"),
    (fold.constant_to_batch_norm, IMAGE + "<float c> { y = Mul(x, c) }", "BatchNormalization"),
    (
        fold.constant_to_batch_norm,
        IMAGE + "<float[6,1] c> { y = Mul(x, c) }",
        "Reshape BatchNormalization Reshape",
    ),
    (
        fold.constant_to_batch_norm,
        "(float[4] x) => (float[4] y) <float[4] c> { y = Add(x, c) }",
        "Reshape BatchNormalization Reshape",
    ),
    (
        fold.constant_to_batch_norm,
        "(float[3,4] x) => (float[3,4] y) <float[4] c> { y = Add(x, c) }",
        "BatchNormalization",
    ),
    (dense.normalise_gemm, DENSE + "<float[6,4] w> { y = Gemm<alpha=0.5>(x, w) }", "Gemm"),
    (dense.normalise_gemm, DENSE + "<float[6,4] w, float[1,4] c> { y = Gemm<beta=2.0>(x, w, c) }", "Gemm"),
    (dense.normalise_gemm, DENSE + "<float[4,6] w, float c> { y = Gemm<transB=1, beta=3.0>(x, w, c) }", "Gemm"),
    (dense.normalise_gemm, DENSE + "<float[6,4] w, float[3,1] c> { y = Gemm<beta=2.0>(x, w, c) }", "Gemm Add"),
    (
        dense.normalise_gemm,
        "(float[6,3] x, float[3,4] z) => (float[3,4] y) <float[6,4] w> { y = Gemm<transA=1, beta=2.0>(x, w, z) }",
        "Transpose Gemm Mul Add",
    ),
    (
        dense.gemm_of_computed_to_matmul,
        "(float[6,3] x, float[4,6] z) => (float[3,4] y) <float[4] c> "
        "{ y = Gemm<transA=1, transB=1, alpha=2.0, beta=0.5>(x, z, c) }",
        "Transpose Transpose MatMul Mul Add",
    ),
    (
        dense.gemm_of_computed_to_matmul,
        "(float[3,6] x, float[6,4] z) => (float[3,4] y) { y = Gemm(x, z) }",
        "MatMul",
    ),
    (dense.matmul_to_gemm, DENSE + "<float[6,4] w> { y = MatMul(x, w) }", "Gemm"),
    (
        dense.matmul_to_gemm,
        "(float[2,3,6] x) => (float[2,3,4] y) <float[1,6,4] w> { y = MatMul(x, w) }",
        "Reshape Gemm Reshape",
    ),
]

LEFT = [
    (fold.evaluate_constants, IMAGE + "<float[1,4,6,5] p> { y = Add(x, p) }"),
    (fold.evaluate_constants, "(float[4] x) => (float[4] y) <float[4] p> { y = Identity(p) }"),
    (
        fold.batch_norm_into_conv,  # two readers
        f"{IMAGE} <{CONV}, {BN}> {{ t = Conv<{PADS}>(x, w, c) u = BatchNormalization(t, g, b, m, v) y = Add(t, u) }}",
    ),
    (
        fold.batch_norm_into_conv,  # the convolution is an output itself
        f"(float[1,4,6,5] x) => (float[1,4,6,5] t, float[1,4,6,5] y) <{CONV}, {BN}> "
        f"{{ t = Conv<{PADS}>(x, w, c) y = BatchNormalization(t, g, b, m, v) }}",
    ),
    (
        fold.batch_norm_into_conv,  # weights are computed
        f"(float[1,4,6,5] x, float[4,4,3,3] w) => (float[1,4,6,5] y) <{BN}> "
        f"{{ t = Conv<{PADS}>(x, w) y = BatchNormalization(t, g, b, m, v) }}",
    ),
    (
        fold.batch_norm_into_gemm,  # not in normal form yet
        f"{DENSE} <float[6,4] w, {BN}> {{ t = Gemm(x, w) y = BatchNormalization(t, g, b, m, v) }}",
    ),
    (
        fold.merge_batch_norms,
        f"{IMAGE} <{BN}> {{ t = BatchNormalization(x, g, b, m, v) u = Relu(t) y = BatchNormalization(u, g, b, m, v) }}",
    ),
    (fold.constant_to_batch_norm, IMAGE + "<float[6,5] c> { y = Mul(x, c) }"),  # no vector
    (fold.constant_to_batch_norm, IMAGE + "<float[1,4,6,5] c> { y = Add(x, c) }"),
    (fold.constant_to_batch_norm, IMAGE + "<float[1,4,1,1] c> { y = Div(c, x) }"),
    (fold.constant_to_batch_norm, "(float[1,1,6,5] x) => (float[1,4,6,5] y) <float[4,1,1] c> { y = Mul(x, c) }"),
    (fold.drop_unit_batch_norm, f"{IMAGE} <{BN}> {{ y = BatchNormalization(x, g, b, m, v) }}"),
    (dense.normalise_gemm, DENSE + "<float[4,6] w, float[4] c> { y = Gemm<transB=1>(x, w, c) }"),
    (dense.matmul_to_gemm, "(float[2,3,6] x) => (float[2,3,4] y) <float[2,6,4] w> { y = MatMul(x, w) }"),
    (fold.unshare_weights, f"{IMAGE} <{CONV}> {{ y = Conv<{PADS}>(x, w, c) }}"),
]


@pytest.mark.parametrize(("apply", "text", "expected"), REWRITTEN, ids=case_id)
def test_folds(apply, text, expected):
    assert_rewrites(text, apply, expected)


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_does_not_fold(apply, text):
    assert_leaves(text, apply)


def test_normal_batch_norm_has_mean_0_variance_1_and_is_rounded_once():
    before = model_of(f"{IMAGE} <{BN}> {{ y = BatchNormalization<epsilon=0.001>(x, g, b, m, v) }}")
    after = fold.normalise_batch_norm(before)
    node = after.graph.nodes[0]
    scale, bias, mean, var = (after.constants[t] for t in node.inputs[1:])
    g, b, m, v = (before.constants[t].astype(np.float64) for t in "gbmv")
    exact = g / np.sqrt(v + np.float64(np.float32(0.001)))
    assert node.attrs.epsilon == 0 and not mean.any() and (var == 1).all()
    np.testing.assert_array_equal(scale, exact.astype(np.float32))
    np.testing.assert_array_equal(bias, (b - m * exact).astype(np.float32))
    assert fold.normalise_batch_norm(after) is after


def test_unit_batch_norm_is_dropped():
    text = IMAGE + "<float c = {0.0}> { t = Add(x, c) y = Relu(t) }"
    assert_rewrites(text, (fold.constant_to_batch_norm, fold.drop_unit_batch_norm), "Relu")


def test_spelled_out_batch_norm_ends_in_the_bias_of_the_convolution():
    text = (
        f"{IMAGE} <{CONV}, float[4,1,1] s, float[4,1,1] o> {{ t = Conv<{PADS}>(x, w, c) u = Mul(t, s) y = Add(u, o) }}"
    )
    passes = (fold.constant_to_batch_norm, fold.merge_batch_norms, fold.batch_norm_into_conv)
    after = assert_rewrites(text, passes, "Conv")
    assert len(after.graph.nodes[0].origin) == 3


def test_matmul_and_add_become_one_gemm():
    text = DENSE + "<float[6,4] w, float[4] c> { t = MatMul(x, w) y = Add(t, c) }"
    assert_rewrites(text, (dense.matmul_to_gemm, fold.constant_to_batch_norm, fold.batch_norm_into_gemm), "Gemm")


def test_shared_weights_are_folded_apart_and_then_unshared():
    text = (
        f"{IMAGE} <{CONV}, {BN}> {{ t = Conv<{PADS}>(x, w, c) u = BatchNormalization(t, g, b, m, v)"
        f" p = Conv<{PADS}>(u, w, c) y = Conv<{PADS}>(p, w, c) }}"
    )
    before = model_of(text)
    after = run_passes(before, (fold.batch_norm_into_conv, fold.unshare_weights))
    assert ops_of(after) == "Conv Conv Conv"
    assert_same_function(before, after)
    weights = [n.inputs[1] for n in after.graph.nodes]
    assert len(set(weights)) == 3
    np.testing.assert_array_equal(after.constants[weights[1]], after.constants[weights[2]])


def test_other_user_of_shared_weights_is_not_changed():
    text = (
        f"(float[1,4,6,5] x) => (float[1,4,6,5] y, float[1,4,6,5] z) <{CONV}, float[4,1,1] s> "
        f"{{ t = Conv<{PADS}>(x, w, c) y = Mul(t, s) z = Conv<{PADS}>(x, w, c) }}"
    )
    assert_rewrites(text, (fold.constant_to_batch_norm, fold.batch_norm_into_conv), "Conv Conv")
