"""Operators that a file spells out, and what only looks like them."""

import pytest
from onnx_text import assert_leaves, assert_rewrites, case_id, model_of, ops_of

from knerex_jax.passes import recognise
from knerex_jax.passes.pipeline import decompose_model

VECTOR = "(float[2,6] x) => (float[2,6] y) "
CLIP = "float three = {3}, float six = {6}, float zero = {0}"
CLIPPED = "{ s = Add(x, three) c = Clip(s, zero, six) "
ERF = "float root = {1.4142135}, float one = {1}, float half = {0.5}"

REWRITTEN = [
    (recognise.spelled_hard_sigmoid, f"{VECTOR}<{CLIP}> {CLIPPED} y = Div(c, six) }}", "HardSigmoid"),
    (
        recognise.spelled_hard_sigmoid,  # three on the left, multiplied instead of divided, in two steps
        f"{VECTOR}<{CLIP}, float k = {{0.33333334}}, float h = {{0.5}}> "
        "{ s = Add(three, x) c = Clip(s, zero, six) t = Mul(k, c) y = Mul(t, h) }",
        "HardSigmoid",
    ),
    (recognise.spelled_hard_swish, f"{VECTOR}<{CLIP}> {CLIPPED} p = Mul(x, c) y = Div(p, six) }}", "HardSwish"),
    (recognise.spelled_hard_swish, f"{VECTOR}<{CLIP}> {CLIPPED} d = Div(c, six) y = Mul(d, x) }}", "HardSwish"),
    (
        recognise.spelled_hard_swish,
        VECTOR + "{ g = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(g, x) }",
        "HardSwish",
    ),
    (
        recognise.spelled_hard_swish,  # inside a larger product that is read elsewhere, too
        f"(float[2,6] x) => (float[2,6] y, float[2,6] z) <{CLIP}> "
        f"{CLIPPED} p = Mul(x, c) y = Div(p, six) z = Exp(y) }}",
        "HardSwish Exp",
    ),
    (
        recognise.spelled_gelu,
        f"{VECTOR}<{ERF}> {{ d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(x, a) y = Mul(p, half) }}",
        "Gelu",
    ),
    (
        recognise.spelled_gelu,  # the other order, and halved first
        f"{VECTOR}<{ERF}, float k = {{0.70710677}}> "
        "{ d = Mul(k, x) e = Erf(d) a = Add(one, e) p = Mul(half, x) y = Mul(a, p) }",
        "Gelu",
    ),
]

LEFT = [
    (recognise.spelled_hard_sigmoid, f"{VECTOR}<{CLIP}, float k = {{5}}> {CLIPPED} y = Div(c, k) }}"),
    (recognise.spelled_hard_sigmoid, f"{VECTOR}<{CLIP}, float k = {{0}}> {CLIPPED} y = Div(c, k) }}"),
    (recognise.spelled_hard_sigmoid, f"{VECTOR}<{CLIP}> {CLIPPED} y = Div(six, c) }}"),
    (
        recognise.spelled_hard_sigmoid,  # another shift
        f"{VECTOR}<{CLIP}, float k = {{2}}> {{ s = Add(x, k) c = Clip(s, zero, six) y = Div(c, six) }}",
    ),
    (
        recognise.spelled_hard_sigmoid,  # another bound
        f"{VECTOR}<{CLIP}, float k = {{5}}> {{ s = Add(x, three) c = Clip(s, zero, k) y = Div(c, six) }}",
    ),
    (recognise.spelled_hard_sigmoid, f"{VECTOR}<{CLIP}> {{ s = Add(x, three) c = Clip(s, zero) y = Div(c, six) }}"),
    (
        recognise.spelled_hard_sigmoid,  # another reader of the clipped sum
        f"(float[2,6] x) => (float[2,6] y, float[2,6] z) <{CLIP}> {CLIPPED} y = Div(c, six) z = Exp(c) }}",
    ),
    (
        recognise.spelled_hard_sigmoid,  # the sum is an output
        f"(float[2,6] x) => (float[2,6] y, float[2,6] s) <{CLIP}> {CLIPPED} y = Div(c, six) }}",
    ),
    (
        recognise.spelled_hard_sigmoid,  # a constant adds an axis
        f"(float[6] x) => (float[1,6] y) <{CLIP}, float[1,1] k = {{6}}> {CLIPPED} y = Div(c, k) }}",
    ),
    (
        recognise.spelled_hard_sigmoid,  # a factor per channel
        f"{VECTOR}<{CLIP}, float[6] k = {{6, 6, 6, 6, 6, 6}}> {CLIPPED} y = Div(c, k) }}",
    ),
    (
        recognise.spelled_hard_swish,  # of something else
        f"(float[2,6] x, float[2,6] z) => (float[2,6] y) <{CLIP}> {CLIPPED} p = Mul(z, c) y = Div(p, six) }}",
    ),
    (
        recognise.spelled_hard_swish,  # broadcasts
        "(float[6] x) => (float[1,6] y) <float[1,1] k = {1}> "
        "{ g = HardSigmoid<alpha=0.16666667, beta=0.5>(x) p = Mul(g, k) y = Mul(p, x) }",
    ),
    (recognise.spelled_hard_swish, VECTOR + "{ g = HardSigmoid(x) y = Mul(g, x) }"),  # alpha 0.2
    (
        recognise.spelled_hard_swish,  # divides by what is computed
        f"{VECTOR}<{CLIP}> {CLIPPED} d = Div(x, c) y = Div(d, six) }}",
    ),
    (
        recognise.spelled_hard_swish,  # the product is an output
        f"(float[2,6] x) => (float[2,6] y, float[2,6] p) <{CLIP}> {CLIPPED} p = Mul(x, c) y = Div(p, six) }}",
    ),
    (
        recognise.spelled_gelu,  # not halved
        f"{VECTOR}<{ERF}> {{ d = Div(x, root) e = Erf(d) a = Add(e, one) y = Mul(x, a) }}",
    ),
    (
        recognise.spelled_gelu,  # of something else
        f"(float[2,6] x, float[2,6] z) => (float[2,6] y) <{ERF}> "
        "{ d = Div(z, root) e = Erf(d) a = Add(e, one) p = Mul(x, a) y = Mul(p, half) }",
    ),
    (
        recognise.spelled_gelu,  # another argument
        f"{VECTOR}<{ERF}> {{ d = Div(x, half) e = Erf(d) a = Add(e, one) p = Mul(x, a) y = Mul(p, half) }}",
    ),
    (
        recognise.spelled_gelu,  # another summand
        f"{VECTOR}<{ERF}> {{ d = Div(x, root) e = Erf(d) a = Add(e, half) p = Mul(x, a) y = Mul(p, half) }}",
    ),
]

DEVIATION = {
    "ReduceMean Sub Mul ReduceMean Sqrt": (
        "{ m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, a) y = Sqrt(v) }"
    ),
    "ReduceMean Sub Pow ReduceMean Add Sqrt": (
        "{ m = ReduceMean(x, a) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, a) e = Add(v, tiny) y = Sqrt(e) }"
    ),
    "Mul ReduceSum Add Sqrt": "{ q = Mul(x, x) v = ReduceSum(q, a) e = Add(tiny, v) y = Sqrt(e) }",
}
NARROW = {
    "no square": "{ v = ReduceMean(x, a) y = Sqrt(v) }",
    "another product": "{ q = Mul(x, z) v = ReduceMean(q, a) y = Sqrt(v) }",
    "another power": "{ q = Pow(x, three) v = ReduceMean(q, a) y = Sqrt(v) }",
    "something between": "{ q = Mul(x, x) v = ReduceMean(q, a) e = Exp(v) y = Sqrt(e) }",
}
ROWS = (
    "(float[2,6] x, float[2,6] z) => (float[2,1] y) "
    "<int64[1] a = {1}, float tiny = {0.001}, float two = {2}, float three = {3}> "
)


@pytest.mark.parametrize(("apply", "text", "expected"), REWRITTEN, ids=case_id)
def test_recognises(apply, text, expected):
    assert_rewrites(text, apply, expected)


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)


@pytest.mark.parametrize("ops", DEVIATION)
def test_inside_of_a_deviation_is_wide(ops):
    before = model_of(ROWS + DEVIATION[ops])
    after = recognise.widen_deviation(before)
    assert ops_of(after) == ops and all(n.wide for n in after.graph.nodes)
    assert recognise.widen_deviation(after) is after


@pytest.mark.parametrize("case", NARROW)
def test_other_roots_stay_narrow(case):
    assert_leaves(ROWS + NARROW[case], recognise.widen_deviation)


def test_gate_is_seen_before_its_sigmoid():
    """x * hard sigmoid(x) ends as one HardSwish, whatever is folded around it."""
    text = f"(float[1,4,3,3] x) => (float[1,4,3,3] y) <float[4,4,1,1] w, float[4] c, {CLIP}> "
    spelled = "{ t = Conv(x, w, c) s = Add(t, three) k = Clip(s, zero, six) d = Div(k, six) y = Mul(t, d) }"
    assert ops_of(decompose_model(model_of(text + spelled))) == "Conv HardSwish"
