"""What is data but not yet quantized gets a node of its own; what integers decide stays exact."""

import pytest
from onnx_text import assert_leaves, assert_rewrites, case_id, model_of, ops_of

from knerex_jax.passes import operands
from knerex_jax.passes.pipeline import decompose_model

FULL = "float[2,3,4] c"
ROWS = "(float[2,3,4] x) => (float[2,3,4] y) "

REWRITTEN = [
    *(
        (operands.constants_to_operands, f"{ROWS}<{FULL}> {{ y = {call} }}", f"Identity {call.split('(')[0]}")
        for call in ("Add(x, c)", "Sub(c, x)", "Mul(x, c)", "Max(x, c)", "Min(c, x)")
    ),
    (
        operands.constants_to_operands,
        f"(float[2,3,4] x) => (float[2,9,4] y) <{FULL}, float[2,3,4] d> {{ y = Concat<axis=1>(c, x, d) }}",
        "Identity Identity Concat",
    ),
    (
        operands.constants_to_operands,  # one matrix for each of the batch is no weight
        "(float[2,3,4] x) => (float[2,3,5] y) <float[2,4,5] c> { y = MatMul(x, c) }",
        "Identity MatMul",
    ),
    (
        operands.constants_to_operands,  # a left operand is none, either
        "(float[4,5] x) => (float[3,5] y) <float[3,4] c> { y = MatMul(c, x) }",
        "Identity MatMul",
    ),
    (
        operands.quantize_weighted,  # a picture of bytes: two convolutions read the same codes
        "(uint8[1,3,8,8] x) => (float[1,2,8,8] y, float[1,2,6,6] z) <float[2,3,1,1] w, float[2,3,3,3] v> "
        "{ f = Cast<to=1>(x) y = Conv(f, w) z = Conv(f, v) }",
        "Cast Identity Conv Conv",
    ),
    (
        operands.quantize_weighted,
        "(int64[1,4] x) => (float[1,5] y) <float[4,5] w> { f = Cast<to=1>(x) y = MatMul(f, w) }",
        "Cast Identity MatMul",
    ),
]

LEFT = [
    (
        operands.quantize_weighted,  # frequencies times positions: no sum
        "(int64[1,4,1] x) => (float[1,4,5] y) <float[1,5] w> { f = Cast<to=1>(x) y = MatMul(f, w) }",
    ),
    (
        operands.quantize_weighted,  # a mask from a mask
        "(int64[1,4] x) => (float[1,4] y) <float[1,4] c> { f = Cast<to=1>(x) y = Sub(f, c) }",
    ),
    (operands.quantize_weighted, "(float[1,4] x) => (float[1,5] y) <float[4,5] w> { y = MatMul(x, w) }"),
    (operands.constants_to_operands, "(float[3,4] x) => (float[3,5] y) <float[4,5] c> { y = MatMul(x, c) }"),
    (operands.constants_to_operands, "(float[2,3,4] x) => (float[2,3,5] y) <float[1,4,5] c> { y = MatMul(x, c) }"),
    (operands.constants_to_operands, "(int64[3] x) => (int64[3] y) <int64[3] c = {1, 2, 3}> { y = Add(x, c) }"),
    (
        operands.constants_to_operands,  # what integers alone decide stays exact
        "(int64[3] x) => (float[3] y) <float[3] c> { f = Cast<to=1>(x) y = Mul(f, c) }",
    ),
    (operands.constants_to_operands, f"{ROWS}<{FULL}> {{ d = Div(x, c) y = Relu(d) }}"),  # not among the operators
    (operands.quantize_exact, f"{ROWS}<{FULL}> {{ y = Add(x, c) }}"),
    (operands.quantize_exact, "(int64[3] x) => (float[3] y) <float[3] c> { f = Cast<to=1>(x) y = Mul(f, c) }"),
    (
        operands.quantize_exact,  # indices and conditions are read as they are
        "(float[4,3] x, int64[2] i) => (float[2,3] y) { y = Gather(x, i) }",
    ),
]


@pytest.mark.parametrize(("apply", "text", "expected"), REWRITTEN, ids=case_id)
def test_constant_gets_a_node(apply, text, expected):
    after = assert_rewrites(text, apply, expected)
    assert apply(after) is after


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)


def test_mask_is_quantized_once_for_all_its_readers():
    text = (
        "(float[1,4] x, int64[1,4] m) => (float[1,4] y, float[1,4] z, float[1,4] f) "
        "{ f = Cast<to=1>(m) y = Add(x, f) z = Mul(f, x) }"
    )
    after = assert_rewrites(text, operands.quantize_exact, "Cast Identity Add Mul")
    (identity,) = (n for n in after.graph.nodes if n.op_type == "Identity")
    assert identity.inputs == ("f",) and {n.op_type for n in after.graph.readers[identity.outputs[0]]} == {"Add", "Mul"}
    assert "f" in after.exact and identity.outputs[0] not in after.exact
    assert operands.quantize_exact(after) is after


def test_boundary_of_what_is_exact():
    """Integers of quantized numbers are exact, real numbers made of those are not."""
    text = (
        "(float[1,4] x, int64[1,4] m) => (float[1,4] y, float[1,4] z) "
        "<float[1,4] c> { g = Greater(x, c) f = Cast<to=1>(g) y = Mul(f, x) p = Cast<to=1>(m) z = Mul(p, c) }"
    )
    exact = decompose_model(model_of(text)).exact
    assert {"m", "g", "p", "z"} <= exact and not {"x", "f", "y"} & exact


def test_whole_pipeline_keeps_the_arithmetic_of_masks_exact():
    text = (
        "(float[1,4] x, int64[1,4] m) => (float[1,4] y) <float[1,4] c, float[1,4] d> "
        "{ f = Cast<to=1>(m) g = Mul(f, c) h = Add(g, d) y = Max(x, h) }"
    )
    after = decompose_model(model_of(text))
    assert ops_of(after).split().count("Identity") == 1
    (identity,) = (n for n in after.graph.nodes if n.op_type == "Identity")
    assert identity.inputs[0] in after.exact
