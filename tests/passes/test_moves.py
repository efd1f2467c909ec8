"""Movements of data in the few forms that move codes; values must not change at all."""

import numpy as np
import pytest
from onnx_text import assert_leaves, assert_rewrites, case_id, model_of, random_inputs, run_on_ort

from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.passes import layout, moves
from knerex_jax.passes.base import run_passes

PLANE = "(float[1,3,5,4] x) => "
BLOCKS = "Reshape Transpose Reshape"
REWRITTEN = [
    (
        moves.gather_flat,
        PLANE + "(float[1,2,2,5,4] y) <int64[2,2] i = {2, 0, -1, 1}> { y = Gather<axis=1>(x, i) }",
        "Gather Reshape",
    ),
    (
        (moves.gather_flat, moves.gather_to_slice),  # one row of neighbours, but not a vector
        PLANE + "(float[1,3,1,2,4] y) <int64[1,2] i = {1, 2}> { y = Gather<axis=2>(x, i) }",
        "Slice Reshape",
    ),
    (
        moves.tile_to_gather,
        PLANE + "(float[1,6,5,8] y) <int64[4] r = {1, 2, 1, 2}> { y = Tile(x, r) }",
        "Gather Gather",
    ),
    (moves.tile_to_gather, PLANE + "(float[2,3,5,4] y) <int64[4] r = {2, 1, 1, 1}> { y = Tile(x, r) }", "Gather"),
    (
        moves.tile_to_gather,
        PLANE + "(float[1,3,5,4] y) <int64[4] r = {1, 1, 1, 1}> { t = Tile(x, r) y = Relu(t) }",
        "Relu",
    ),
    (
        moves.tile_to_gather,  # integers, too
        "(int64[2,3] x) => (int64[2,6] y) <int64[2] r = {1, 2}> { y = Tile(x, r) }",
        "Gather",
    ),
    (
        moves.pad_to_gather,
        PLANE + '(float[1,3,8,7] y) <int64[8] p = {0,0,1,2,0,0,2,1}> { y = Pad<mode="reflect">(x, p) }',
        "Gather Gather",
    ),
    (
        moves.pad_to_gather,
        PLANE + '(float[1,3,5,9] y) <int64[8] p = {0,0,0,2,0,0,0,3}> { y = Pad<mode="edge">(x, p) }',
        "Gather",
    ),
    (
        moves.pad_to_gather,
        PLANE + '(float[1,3,8,4] y) <int64[8] p = {0,0,1,0,0,0,2,0}> { y = Pad<mode="wrap">(x, p) }',
        "Gather",
    ),
    (
        moves.pad_to_gather,  # crops one side of an axis and repeats the other
        PLANE + '(float[1,3,6,4] y) <int64[8] p = {0,0,-1,0,0,0,2,0}> { y = Pad<mode="edge">(x, p) }',
        "Gather",
    ),
    *(
        (
            moves.blocks_to_transpose,
            f'(float[2,12,2,3] x) => (float[2,3,4,6] y) {{ y = DepthToSpace<blocksize=2, mode="{mode}">(x) }}',
            BLOCKS,
        )
        for mode in ("DCR", "CRD")
    ),
    (
        moves.blocks_to_transpose,
        "(float[1,2,4,6] x) => (float[1,8,2,3] y) { y = SpaceToDepth<blocksize=2>(x) }",
        BLOCKS,
    ),
]

CONV = "float[3,3,1,1] w, float[3] c"
FLAT = "(float[1,3,5,4] x) => (float[1,60] y) "
SHAPE = "int64[2] s = {1, 60}"
ACTIVATIONS = [
    ("", "Relu(r)"),
    ("float k = {0}, float m = {6}", "Clip(r, k, m)"),
    ("", "LeakyRelu<alpha=0.1>(r)"),
    ("", "HardSwish(r)"),
]

LEFT = [
    (moves.gather_flat, PLANE + "(float[1,2,5,4] y) <int64[2] i = {2, 0}> { y = Gather<axis=1>(x, i) }"),
    (moves.gather_flat, "(float[5] x, int64[2,2] i) => (float[2,2] y) { y = Gather(x, i) }"),
    (moves.gather_flat, "(int64[2,2] i) => (float[2,2,4] y) <float[5,4] w> { y = Gather(w, i) }"),
    (moves.pad_to_gather, PLANE + "(float[1,3,6,4] y) <int64[8] p = {0,0,1,0,0,0,0,0}> { y = Pad(x, p) }"),
    (
        moves.pad_to_gather,
        PLANE + '(float[1,3,5,4] y) <int64[8] p = {0,0,0,0,0,0,0,0}> { y = Pad<mode="edge">(x, p) }',
    ),
    (layout.activation_before_reshape, f"{FLAT}<{SHAPE}> {{ r = Reshape(x, s) y = Relu(r) }}"),
    (
        layout.activation_before_reshape,  # the activation has a reader that cannot be moved along
        f"(float[1,3,5,4] x) => (float[1,60] y, float[1,60] r) <{CONV}, {SHAPE}> "
        "{ t = Conv(x, w, c) r = Reshape(t, s) y = Relu(r) }",
    ),
    (
        layout.activation_before_reshape,
        f"(float[1,3,5,4] x) => (float[1,60] y, float[1,3,5,4] t) <{CONV}, {SHAPE}> "
        "{ t = Conv(x, w, c) r = Reshape(t, s) y = Relu(r) }",
    ),
    (
        layout.activation_before_reshape,  # a table is not fused
        f"{FLAT}<{CONV}, {SHAPE}> {{ t = Conv(x, w, c) r = Reshape(t, s) y = Sigmoid(r) }}",
    ),
]


@pytest.mark.parametrize(("apply", "text", "expected"), REWRITTEN, ids=case_id)
def test_moves_the_same_values(apply, text, expected):
    after = assert_rewrites(text, apply, expected)
    before, inputs = model_of(text), random_inputs(after)
    outputs = [run_on_ort(to_proto(unbind(m, REGISTRY)), inputs)["y"] for m in (before, after)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(("constants", "call"), ACTIVATIONS)
def test_activation_moves_before_the_reshape(constants, call):
    held = ", ".join(c for c in (CONV, SHAPE, constants) if c)
    text = f"{FLAT}<{held}> {{ t = Conv(x, w, c) r = Reshape(t, s) y = {call} }}"
    assert_rewrites(text, layout.activation_before_reshape, f"Conv {call.split('(')[0].split('<')[0]} Reshape")


def test_activation_moves_before_the_rows_of_a_dense_layer_are_put_back():
    text = (
        "(float[4,6] x) => (float[2,2,5] y) <float[5,6] w, float[5] c, int64[3] s = {2, 2, 5}> "
        "{ t = Gemm<transB=1>(x, w, c) r = Reshape(t, s) y = Relu(r) }"
    )
    after = run_passes(model_of(text), (layout.activation_before_reshape,))
    gemm, relu, reshape = after.graph.nodes
    assert relu.inputs == gemm.outputs and reshape.inputs == relu.outputs
    assert reshape.name != relu.name and set(relu.origin) == {"Reshape_1", "Relu_2"}


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)
