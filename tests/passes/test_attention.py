"""Attention spelled out, and masks in the one operand where fixed point can hold them."""

import numpy as np
import pytest
from helpers import FLOAT_TOLERANCE, relative_error
from onnx.reference import ReferenceEvaluator
from onnx_text import assert_leaves, assert_rewrites, case_id, model_of, ops_of, proto_of

from knerex_jax.passes import attention, fold
from knerex_jax.passes.base import run_passes
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.runtime import FloatModel

HEADS = "(float[1,4,5,3] q, float[1,4,6,3] k, float[1,4,6,3] v"
SHARED = "(float[1,4,5,3] q, float[1,2,6,3] k, float[1,2,6,3] v"
FLAT = "(float[1,5,12] q, float[1,6,6] k, float[1,6,6] v"
OUT, FLAT_OUT = "(float[1,4,5,3] y)", "(float[1,5,12] y)"
PRODUCT = "Mul Transpose MatMul"
SPLIT = "Reshape Transpose"

ATTENTION = {
    "plain": (f"{HEADS}) => {OUT} {{ y = Attention(q, k, v) }}", f"{PRODUCT} Softmax MatMul"),
    "keys of several heads": (
        f"{SHARED}) => {OUT} {{ y = Attention<scale=0.3>(q, k, v) }}",
        f"Gather Gather {PRODUCT} Softmax MatMul",
    ),
    "causal": (f"{HEADS}) => {OUT} {{ y = Attention<is_causal=1>(q, k, v) }}", f"{PRODUCT} Add Softmax MatMul"),
    "float mask": (
        f"{HEADS}, float[5,6] m) => {OUT} {{ y = Attention(q, k, v, m) }}",
        f"{PRODUCT} Add Softmax MatMul",
    ),
    "mask by head": (
        f"{HEADS}, float[1,4,5,6] m) => {OUT} {{ y = Attention(q, k, v, m) }}",
        f"{PRODUCT} Add Softmax MatMul",
    ),
    "boolean mask": (
        f"{HEADS}, bool[5,6] m) => {OUT} {{ y = Attention(q, k, v, m) }}",
        f"{PRODUCT} Where Add Softmax MatMul",
    ),
    "boolean mask and causal": (
        f"{HEADS}, bool[1,1,5,6] m) => {OUT} {{ y = Attention<is_causal=1>(q, k, v, m) }}",
        f"{PRODUCT} Where Add Add Softmax MatMul",
    ),
    "rank 3": (
        f"{FLAT}) => {FLAT_OUT} {{ y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) }}",
        f"{SPLIT} {SPLIT} {SPLIT} Gather Gather {PRODUCT} Softmax MatMul Transpose Reshape",
    ),
}


def inputs_of(model, seed=1):
    """Random inputs; every query sees at least the first key."""
    rng = np.random.default_rng(seed)
    made = {}
    for t in model.graph.inputs:
        held = model.graph.types[t]
        value = (
            rng.normal(size=held.shape)
            if held.real
            else (rng.random(held.shape) < 0.6) | (np.arange(held.shape[-1]) == 0)
        )
        made[t] = value.astype(held.dtype)
    return made


def result_of(model, inputs):
    shapes = {t: model.graph.shape(t) for t in (*inputs, "y")}
    batch = {t: v if shapes[t][0] == 1 else v[None] for t, v in inputs.items()}
    return FloatModel(model).run(batch)["y"].reshape(shapes["y"])


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_is_spelled_out(case):
    text, expected = ATTENTION[case]
    before = model_of(text, opset=23)
    after = run_passes(before, (attention.spell_out_attention,))
    assert ops_of(after) == expected
    inputs = inputs_of(before)
    (reference,) = ReferenceEvaluator(proto_of(text, opset=23)).run(None, inputs)
    for model in (after, decompose_model(before)):
        assert relative_error(reference, result_of(model, inputs)) <= FLOAT_TOLERANCE["runtime"]


KEPT = {
    "softcap": f"{HEADS}) => {OUT} {{ y = Attention<softcap=2.0>(q, k, v) }}",
    "past": (
        f"{HEADS}, float[1,4,2,3] pk, float[1,4,2,3] pv) => "
        "(float[1,4,5,3] y, float[1,4,8,3] nk, float[1,4,8,3] nv) { y, nk, nv = Attention(q, k, v, , pk, pv) }"
    ),
    "scores as an output": (f"{HEADS}) => (float[1,4,5,3] y, float[1,4,5,6] s) {{ y, , , s = Attention(q, k, v) }}"),
    "mask shorter than the keys": f"{HEADS}, float[5,4] m) => {OUT} {{ y = Attention(q, k, v, m) }}",
}


@pytest.mark.parametrize("case", KEPT)
def test_other_attention_is_left(case):
    model = model_of(KEPT[case], opset=24)
    assert attention.spell_out_attention(model) is model


def test_boolean_constant_mask_is_a_constant():
    text = f"{HEADS}) => {OUT} <bool[1,6] m = {{1, 1, 0, 1, 0, 1}}> {{ y = Attention(q, k, v, m) }}"
    after = attention.spell_out_attention(model_of(text, opset=23))
    assert ops_of(after) == f"{PRODUCT} Add Softmax MatMul"
    (mask,) = (v for v in after.constants.values() if v.shape == (1, 6))
    assert mask.dtype == np.float32 and mask.tolist() == [[0, 0, np.float32(-1e9), 0, np.float32(-1e9), 0]]


SCORES = "(float[1,2,3,4] x, int64[1,4] m) => (float[1,2,3,4] y) "
LOW = "float low = {-10000}, float[1] one = {1}, float none = {0}, int64[2] a = {1, 2}"
MASK = "g = Cast<to=9>(m) c = Cast<to=1>(g) h = Sub(one, c) p = Mul(h, low) n = Unsqueeze(p, a)"
FIXED = "float[3,4] f = {0,-1e9,-1e9,-1e9, 0,0,-1e9,-1e9, 0,0,0,-1e9}"
CHAIN = "Cast Cast Sub Mul Unsqueeze"
BIAS = "float[2,3,4] b"

MASKED = [
    (
        attention.where_to_mask,
        f"{SCORES}<{LOW}> {{ k = Cast<to=9>(m) c = Unsqueeze(k, a) w = Where(c, x, low) y = Softmax(w) }}",
        "Cast Unsqueeze Where Add Softmax",
    ),
    (
        attention.where_to_mask,
        f"{SCORES}<{LOW}> {{ k = Cast<to=9>(m) c = Unsqueeze(k, a) w = Where(c, low, x) y = Softmax(w) }}",
        "Cast Unsqueeze Where Add Softmax",
    ),
    (
        attention.where_to_mask,  # a constant choice is a constant mask, and a mask may follow
        f"{SCORES}<{LOW}, bool[3,4] k = {{1,1,1,0, 0,1,1,1, 1,1,1,1}}> "
        f"{{ {MASK} w = Where(k, x, low) t = Add(w, n) y = Softmax(t) }}",
        f"{CHAIN} Add Add Softmax",
    ),
    (
        attention.masks_last,  # both masks in one sum, which integers alone decide
        f"{SCORES}<{LOW}, {FIXED}> {{ {MASK} t = Add(x, f) u = Add(t, n) y = Softmax(u) }}",
        f"{CHAIN} Add Add Softmax",
    ),
    (
        attention.masks_last,  # the mask behind the bias
        f"{SCORES}<{LOW}, {BIAS}> {{ {MASK} t = Add(n, x) u = Add(b, t) y = Softmax(u) }}",
        f"{CHAIN} Add Add Softmax",
    ),
]

UNMASKED = [
    (attention.where_to_mask, f"{SCORES}<{LOW}> {{ k = Cast<to=9>(m) c = Unsqueeze(k, a) y = Where(c, x, low) }}"),
    (
        attention.where_to_mask,  # something else reads the scores
        f"(float[1,2,3,4] x, int64[1,4] m) => (float[1,2,3,4] y, float[1,2,3,4] z) <{LOW}> "
        "{ k = Cast<to=9>(m) c = Unsqueeze(k, a) w = Where(c, x, low) y = Softmax(w) z = Exp(w) }",
    ),
    (
        attention.where_to_mask,  # not low
        f"{SCORES}<{LOW}> {{ k = Cast<to=9>(m) c = Unsqueeze(k, a) w = Where(c, x, none) y = Softmax(w) }}",
    ),
    (
        attention.where_to_mask,  # the choice is wider than the scores
        f"(float[1,1,3,4] x, bool[1,2,3,4] c) => (float[1,2,3,4] y) <{LOW}> {{ w = Where(c, x, low) y = Softmax(w) }}",
    ),
    (attention.masks_last, f"{SCORES}<{LOW}> {{ {MASK} t = Add(x, n) y = Softmax(t) }}"),
    (attention.masks_last, f"{SCORES}<{LOW}, {BIAS}> {{ {MASK} t = Add(x, b) u = Add(t, n) y = Softmax(u) }}"),
    (attention.masks_last, f"{SCORES}<{LOW}, {BIAS}> {{ {MASK} t = Add(n, x) y = Add(b, t) }}"),  # no softmax
    (
        attention.masks_last,  # the inner sum is an output
        f"(float[1,2,3,4] x, int64[1,4] m) => (float[1,2,3,4] y, float[1,2,3,4] t) <{LOW}, {BIAS}> "
        f"{{ {MASK} t = Add(n, x) u = Add(b, t) y = Softmax(u) }}",
    ),
    (attention.finite_masks, f"{SCORES}<{FIXED}> {{ t = Add(x, f) y = Softmax(t) }}"),
    (attention.finite_masks, "(int64[4] x) => (int64[4] y) <int64 k = {-9000000000}> { y = Add(x, k) }"),
]


@pytest.mark.parametrize(("apply", "text", "expected"), MASKED, ids=case_id)
def test_mask_is_moved(apply, text, expected):
    assert_rewrites(text, apply, expected)


@pytest.mark.parametrize(("apply", "text"), UNMASKED, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)


def test_masks_meet_before_the_scores():
    text = f"{SCORES}<{LOW}, {FIXED}> {{ {MASK} t = Add(x, f) u = Add(t, n) y = Softmax(u) }}"
    after = run_passes(model_of(text), (attention.masks_last,))
    together, masked = (n for n in after.graph.nodes if n.op_type == "Add")
    assert set(together.inputs) == {"f", "n"} and masked.inputs == ("x", together.outputs[0])
    assert together.outputs[0] in after.exact


@pytest.mark.parametrize("body", ["t = Add(x, f) y = Softmax(t)", "t = Where(g, x, f) y = Softmax(t)"])
def test_masks_are_finite(body):
    low = "-3.4e38"
    text = (
        "(float[1,4] x) => (float[1,4] y) "
        f"<float[4] f = {{0, {low}, 0, -2e9}}, bool[4] g = {{1, 0, 1, 0}}> {{ {body} }}"
    )
    after = assert_rewrites(text, attention.finite_masks, ops_of(model_of(text)))
    (mask,) = (v for v in after.constants.values() if v.dtype == np.float32)
    assert mask.tolist() == [0, np.float32(attention.HIDDEN), 0, np.float32(attention.HIDDEN)]


def test_constant_that_only_hides_is_no_affine_map():
    """As the bias of a convolution or of a BatchNormalization it would blow the range of the scores up."""
    head = "(float[1,2,3,4] x) => (float[1,2,3,4] y) "
    assert_leaves(head + "<float[4] f = {0, 0, -1e9, -1e9}> { y = Add(x, f) }", fold.constant_to_batch_norm)
    assert_leaves(head + "<float[4] f = {-1e4, 0, 0, 0}> { y = Add(f, x) }", fold.constant_to_batch_norm)
    for values in ("0, 1, -1e9, -1e9", "0, 0, 0, 0", "-9, -9, 0, 0"):
        text = f"{head}<float[4] f = {{{values}}}> {{ y = Add(x, f) }}"
        assert "BatchNormalization" in ops_of(fold.constant_to_batch_norm(model_of(text)))
