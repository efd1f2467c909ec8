import pytest
from onnx_text import assert_leaves, assert_rewrites, case_id, model_of, ops_of

from knerex_jax.passes import cleanup, decompose, fuse, layout, moves

IMAGE = "(float[1,4,6,6] x) => (float[1,4,6,6] y)"
CONV = "float[4,4,3,3] w, float[4] c"
HALF = "(float[1,4,6,6] x) => (float[1,4,3,3] y)"
SMALL = "(float[1,4,6,6] x) => (float[1,4,1,1] y)"
SPATIAL_PAD = "int64[8] p = {0, 0, 1, 0, 0, 0, 1, 2}"
CHANNEL_PAD = "int64[8] p = {0, 1, 0, 0, 0, 1, 0, 0}"
BIG = "float m = {3.4028235e38}"

REWRITTEN = [
    (fuse.limit_to_clip, IMAGE + "<float k = {1.5}> { y = Min(x, k) }", "Clip"),
    (fuse.limit_to_clip, IMAGE + "<float[1] k = {-0.5}> { y = Max(k, x) }", "Clip"),
    ((fuse.limit_to_clip, fuse.merge_clips), IMAGE + "<float k = {6}> { t = Relu(x) y = Min(t, k) }", "Clip"),
    (
        fuse.merge_clips,
        IMAGE + "<float a={-1}, float b={2}, float c={0}, float d={1}> { t = Clip(x, a, b) y = Clip(t, c, d) }",
        "Clip",
    ),
    (
        fuse.merge_clips,  # disjoint: constant 3
        IMAGE + "<float a={-1}, float b={2}, float c={3}, float d={4}> { t = Clip(x, a, b) y = Clip(t, c, d) }",
        "Clip",
    ),
    (fuse.merge_clips, IMAGE + "{ t = Relu(x) y = Relu(t) }", "Relu"),
    (fuse.merge_clips, IMAGE + "<float k = {-2}> { t = Clip(x, k) y = Relu(t) }", "Relu"),
    (fuse.open_clip_to_relu, IMAGE + f"<float k = {{0}}, {BIG}> {{ y = Clip(x, k, m) }}", "Relu"),
    (fuse.open_clip_to_relu, IMAGE + "<float k = {0}> { y = Clip(x, k) }", "Relu"),
    (fuse.open_clip_to_relu, IMAGE + f"<float k = {{1}}, {BIG}> {{ y = Clip(x, k, m) }}", "Clip"),
    (fuse.open_clip_to_relu, IMAGE + "{ t = Clip(x) y = Relu(t) }", "Relu"),
    (fuse.mean_to_global_pool, SMALL + "<int64[2] a = {2, 3}> { y = ReduceMean(x, a) }", "GlobalAveragePool"),
    (
        fuse.mean_to_global_pool,
        "(float[1,4,6,6] x) => (float[1,4] y) <int64[2] a = {-1, -2}> { y = ReduceMean<keepdims=0>(x, a) }",
        "GlobalAveragePool Reshape",
    ),
    (fuse.whole_average_to_global_pool, SMALL + "{ y = AveragePool<kernel_shape=[6,6]>(x) }", "GlobalAveragePool"),
    (
        fuse.pad_into_conv,
        f"(float[1,4,6,6] x) => (float[1,4,8,8] y) <{CONV}, {SPATIAL_PAD}> "
        "{ t = Pad(x, p) y = Conv<pads=[1,1,1,1]>(t, w, c) }",
        "Conv",
    ),
    (
        fuse.pad_into_average_pool,
        f"(float[1,4,6,6] x) => (float[1,4,2,2] y) <{SPATIAL_PAD}> "
        "{ t = Pad(x, p) y = AveragePool<kernel_shape=[3,3], strides=[3,3]>(t) }",
        "AveragePool",
    ),
    (
        fuse.pad_into_average_pool,
        f"(float[1,4,6,6] x) => (float[1,4,3,3] y) <{SPATIAL_PAD}> "
        "{ t = Pad(x, p) y = AveragePool<kernel_shape=[4,4], strides=[3,3], pads=[1,1,1,1], count_include_pad=1>(t) }",
        "AveragePool",
    ),
    (
        fuse.pad_into_max_pool,
        f"(float[1,4,6,6] x) => (float[1,4,2,2] y) <{SPATIAL_PAD}> "
        "{ r = Relu(x) u = Add(r, r) t = Pad(u, p) y = MaxPool<kernel_shape=[3,3], strides=[3,3]>(t) }",
        "Relu Add MaxPool",
    ),
    (
        fuse.pad_into_max_pool,
        f"(float[1,4,6,6] x) => (float[1,4,2,2] y) <{SPATIAL_PAD}, float k = {{-3.4028235e38}}> "
        "{ t = Pad(x, p, k) y = MaxPool<kernel_shape=[3,3], strides=[3,3]>(t) }",
        "MaxPool",
    ),
    (
        fuse.concat_zeros_to_pad,
        "(float[1,2,2,1] x) => (float[1,5,2,1] y) <float[1,1,2,1] z = {0, 0}, float[1,2,2,1] q = {0, 0, 0, 0}>"
        "{ y = Concat<axis=1>(z, x, q) }",
        "Pad",
    ),
    (
        fuse.concat_zeros_to_pad,
        "(float[1,2,2,1] x) => (float[1,5,2,1] y) <float[1,1,2,1] z = {0, 0}> { y = Concat<axis=-3>(x, x, z) }",
        "Concat Pad",
    ),
    (decompose.sum_to_adds, IMAGE + "{ t = Relu(x) u = Exp(x) y = Sum(x, t, u) }", "Relu Exp Add Add"),
    (decompose.sum_to_adds, IMAGE + "{ t = Sum(x) y = Relu(t) }", "Relu"),
    (
        moves.split_to_slices,
        "(float[1,6,2] x) => (float[1,2,2] p, float[1,4,2] q) <int64[2] s = {2, 4}> { p, q = Split<axis=1>(x, s) }",
        "Slice Slice",
    ),
    (
        moves.split_to_slices,
        "(float[1,7,2] x) => (float[1,4,2] p, float[1,3,2] q) { p, q = Split<axis=-2, num_outputs=2>(x) }",
        "Slice Slice",
    ),
    (
        decompose.spell_out_softmax,
        IMAGE + "{ y = Softmax<axis=-1>(x) }",
        "ReduceMax Sub Exp ReduceSum Reciprocal Mul",
    ),
    (decompose.divide_by_reciprocal, IMAGE + "{ t = Exp(x) y = Div(x, t) }", "Exp Reciprocal Mul"),
    (decompose.divide_by_reciprocal, IMAGE + "<float[1,4,6,6] v> { y = Div(x, v) }", "Mul"),
    (decompose.divide_by_reciprocal, IMAGE + "<float k = {1}> { t = Exp(x) y = Div(k, t) }", "Exp Reciprocal"),
    (
        decompose.keep_reduced_axes,
        "(float[1,4,6,6] x) => (float[1,6] y) <int64[2] a = {1, 3}> { y = ReduceMax<keepdims=0>(x, a) }",
        "ReduceMax Reshape",
    ),
    (
        moves.gather_to_slice,
        "(float[1,4,6] x) => (float[1,6] y) <int64 i = {-2}> { y = Gather<axis=1>(x, i) }",
        "Slice Reshape",
    ),
    (
        moves.gather_to_slice,
        "(float[1,4,6] x) => (float[1,1,6] y) <int64[1] i = {1}> { y = Gather<axis=1>(x, i) }",
        "Slice",
    ),
    (
        moves.gather_to_slice,
        "(float[1,4,6] x) => (float[1,4,3] y) <int64[3] i = {1, 3, 5}> { y = Gather<axis=2>(x, i) }",
        "Slice",
    ),
    (layout.to_plain_reshape, "(float[2,1,6,1] x) => (float[2,6] y) { t = Flatten(x) y = Relu(t) }", "Reshape Relu"),
    (
        layout.to_plain_reshape,
        "(float[2,1,6,1] x) => (float[2,1,6] y) <int64[1] a = {3}> { t = Squeeze(x, a) y = Relu(t) }",
        "Reshape Relu",
    ),
    (
        layout.to_plain_reshape,
        "(float[2,6] x) => (float[2,1,6,1] y) <int64[2] a = {1, -1}> { t = Unsqueeze(x, a) y = Relu(t) }",
        "Reshape Relu",
    ),
    (
        layout.to_plain_reshape,
        "(float[2,6] x) => (float[2,3,2] y) <int64[3] s = {0, -1, 2}> { t = Reshape(x, s) y = Relu(t) }",
        "Reshape Relu",
    ),
    (
        (layout.to_plain_reshape, layout.merge_reshapes),
        "(float[2,6] x) => (float[2,6] y) <int64[1] a = {1}> { t = Unsqueeze(x, a) u = Squeeze(t, a) y = Relu(u) }",
        "Relu",
    ),
    (
        (layout.to_plain_reshape, layout.merge_reshapes),  # the inner one has another reader
        "(float[2,6] x) => (float[12] y, float[2,3,2] z) <int64[1] a = {-1}, int64[3] b = {2, 3, 2}> "
        "{ z = Reshape(x, b) y = Reshape(z, a) }",
        "Reshape Reshape",
    ),
    (
        layout.merge_transposes,
        IMAGE + "{ t = Transpose<perm=[0,2,3,1]>(x) u = Transpose<perm=[0,3,1,2]>(t) y = Relu(u) }",
        "Relu",
    ),
    (
        layout.merge_transposes,
        "(float[2,3,4] x) => (float[3,4,2] y) { t = Transpose<perm=[2,0,1]>(x) y = Transpose<perm=[2,0,1]>(t) }",
        "Transpose",
    ),
    (
        layout.transpose_of_ones_to_reshape,
        "(float[1,4,1,1] x) => (float[1,1,1,4] y) { y = Transpose<perm=[0,2,3,1]>(x) }",
        "Reshape",
    ),
    (
        layout.reduce_before_transpose,
        "(float[1,4,6,5] x) => (float[1,4] y) <int64[2] a = {1, 2}> "
        "{ t = Transpose<perm=[0,2,3,1]>(x) y = ReduceMean<keepdims=0>(t, a) }",
        "ReduceMean",
    ),
    (
        layout.reduce_before_transpose,
        "(float[1,4,6,5] x) => (float[1,1,1,4] y) <int64[2] a = {1, 2}> "
        "{ t = Transpose<perm=[0,2,3,1]>(x) y = ReduceMean(t, a) }",
        "ReduceMean Transpose",
    ),
    (
        cleanup.constants_to_outputs,
        "(float[4] x) => (float[4] y, float[4] p) <float[4] p> { y = Relu(x) }",
        "Identity Relu",
    ),
    (
        cleanup.constants_to_outputs,
        "(float[4] x) => (float[4] y, float[4] p) <float[4] p> { y = Add(x, p) }",
        "Identity Add",
    ),
    (cleanup.remove_identity, IMAGE + "{ t = Identity(x) u = Relu(t) y = Identity(u) }", "Relu"),
    (cleanup.remove_identity, IMAGE + "{ t = Dropout(x) y = Relu(t) }", "Relu"),
    (
        cleanup.remove_slice,
        IMAGE + "<int64[1] s = {0}, int64[1] e = {99}, int64[1] a = {2}> { t = Slice(x, s, e, a) y = Relu(t) }",
        "Relu",
    ),
    (cleanup.remove_pad, IMAGE + "<int64[8] p = {0,0,0,0,0,0,0,0}> { t = Pad(x, p) y = Relu(t) }", "Relu"),
    (cleanup.remove_concat, IMAGE + "{ t = Concat<axis=1>(x) y = Relu(t) }", "Relu"),
    (cleanup.remove_expand, IMAGE + "<int64[4] s = {1, 4, 1, 6}> { t = Expand(x, s) y = Relu(t) }", "Relu"),
    (
        cleanup.remove_expand,
        "(float[1,4,6,6] x, float[1,4,1,1] z) => (float[1,4,6,6] y) <int64[4] s = {1, 4, 6, 6}> "
        "{ t = Expand(z, s) y = Mul(x, t) }",
        "Mul",
    ),
    (cleanup.remove_pool, IMAGE + "{ t = MaxPool<kernel_shape=[1,1]>(x) y = Relu(t) }", "Relu"),
]

LEFT = [
    (fuse.limit_to_clip, "(float[4] x) => (float[4] y) <float[4] k> { y = Min(x, k) }"),
    (fuse.limit_to_clip, "(float[4] x, float[4] z) => (float[4] y) { y = Max(x, z) }"),
    (fuse.limit_to_clip, "(float[4] x) => (float[1,4] y) <float[1,1] k = {1}> { y = Max(x, k) }"),
    (fuse.merge_clips, "(float[4] x) => (float[4] t, float[4] y) { t = Relu(x) y = Relu(t) }"),
    (fuse.open_clip_to_relu, IMAGE + "<float k = {0}, float m = {6}> { y = Clip(x, k, m) }"),
    (fuse.open_clip_to_relu, IMAGE + f"<float k = {{-3.4028235e38}}, {BIG}> {{ y = Clip(x, k, m) }}"),  # in to out
    (fuse.mean_to_global_pool, "(float[1,4,6,6] x) => (float[1,4,1,6] y) <int64[1] a = {2}> { y = ReduceMean(x, a) }"),
    (fuse.mean_to_global_pool, "(float[1,4] x) => (float[1,4] y) <int64[1] a = {0}> { y = ReduceMean(x, a) }"),
    (fuse.mean_to_global_pool, "(float[1,4,6] x) => (float[1,1,1] y) { y = ReduceMean(x) }"),
    (fuse.whole_average_to_global_pool, HALF + "{ y = AveragePool<kernel_shape=[4,4]>(x) }"),
    (
        fuse.pad_into_conv,  # pads channels
        f"(float[1,2,6,6] x) => (float[1,4,4,4] y) <{CONV}, {CHANNEL_PAD}> {{ t = Pad(x, p) y = Conv(t, w, c) }}",
    ),
    (
        fuse.pad_into_conv,  # not with zeros
        f"(float[1,4,6,6] x) => (float[1,4,6,6] y) <{CONV}, {SPATIAL_PAD}, float k = {{1}}> "
        "{ t = Pad(x, p, k) y = Conv(t, w, c) }",
    ),
    (
        fuse.pad_into_conv,  # by reflection
        f"(float[1,4,6,6] x) => (float[1,4,6,6] y) <{CONV}, {SPATIAL_PAD}> "
        '{ t = Pad<mode="reflect">(x, p) y = Conv(t, w, c) }',
    ),
    (
        fuse.pad_into_average_pool,  # own padding is not counted, that of the Pad is
        f"(float[1,4,6,6] x) => (float[1,4,3,3] y) <{SPATIAL_PAD}> "
        "{ t = Pad(x, p) y = AveragePool<kernel_shape=[4,4], strides=[3,3], pads=[1,1,1,1]>(t) }",
    ),
    (
        fuse.pad_into_max_pool,  # a negative maximum would lose against the zeros
        f"(float[1,4,6,6] x) => (float[1,4,2,2] y) <{SPATIAL_PAD}> "
        "{ t = Pad(x, p) y = MaxPool<kernel_shape=[3,3], strides=[3,3]>(t) }",
    ),
    (
        fuse.pad_into_max_pool,  # windows of padding alone
        f"(float[1,4,6,6] x) => (float[1,4,4,4] y) <{SPATIAL_PAD}> "
        "{ r = Relu(x) t = Pad(r, p) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t) }",
    ),
    (fuse.concat_zeros_to_pad, "(float[1,2] x) => (float[1,4] y) <float[1,2] z> { y = Concat<axis=1>(x, z) }"),
    (
        fuse.concat_zeros_to_pad,
        "(float[1,2] x) => (float[1,6] y) <float[1,2] z = {0, 0}> { y = Concat<axis=1>(x, z, x) }",
    ),
    (decompose.divide_by_reciprocal, "(int64[4] x, int64[4] z) => (int64[4] y) { y = Div(x, z) }"),
    (decompose.divide_by_reciprocal, "(float[2] x) => (float[2] y) <float[2] k = {1, 0}> { y = Div(x, k) }"),
    (decompose.keep_reduced_axes, SMALL + "<int64[2] a = {2, 3}> { y = ReduceMax(x, a) }"),
    (moves.gather_to_slice, "(float[1,4] x) => (float[1,3] y) <int64[3] i = {0,1,3}> { y = Gather<axis=1>(x, i) }"),
    (moves.gather_to_slice, "(int64[1] i) => (float[1,4] y) <float[5,4] w> { y = Gather(w, i) }"),
    (layout.merge_reshapes, "(float[2,6] x) => (float[12] y) <int64[1] a = {-1}> { y = Reshape(x, a) }"),
    (layout.merge_reshapes, "(float[2,6] x) => (float[2,6] y) <int64[2] a = {2, 6}> { y = Reshape(x, a) }"),
    (layout.merge_transposes, "(float[2,6] x) => (float[6,2] y) { y = Transpose(x) }"),
    (layout.transpose_of_ones_to_reshape, "(float[1,4,1] x) => (float[4,1,1] y) { y = Transpose<perm=[1,0,2]>(x) }"),
    (
        layout.reduce_before_transpose,  # the order of what is left changes
        "(float[1,4,6,5] x) => (float[1,5,4] y) <int64[1] a = {1}> "
        "{ t = Transpose<perm=[0,2,3,1]>(x) y = ReduceMax<keepdims=0>(t, a) }",
    ),
    (cleanup.remove_identity, "(float[4] x) => (float[4] y) { y = Identity(x) }"),
    (cleanup.remove_identity, "(float[4] x) => (float[4] y, float[4] z) { y = Relu(x) z = Identity(y) }"),
    (
        cleanup.remove_slice,  # reverses
        "(float[4] x) => (float[4] y) <int64[1] s={-1}, int64[1] e={-9}, int64[1] a={0}, int64[1] d={-1}> "
        "{ t = Slice(x, s, e, a, d) y = Relu(t) }",
    ),
    (cleanup.remove_pad, "(float[4] x) => (float[4] y) <int64[2] p = {1, -1}> { t = Pad(x, p) y = Relu(t) }"),
    (cleanup.remove_concat, "(float[1,4] x) => (float[2,4] y) { t = Concat<axis=0>(x, x) y = Relu(t) }"),
    (cleanup.remove_expand, "(float[1,4] x) => (float[3,4] y) <int64[2] s = {3, 4}> { t = Expand(x, s) y = Relu(t) }"),
    (
        cleanup.remove_expand,  # nothing else is that wide
        "(float[1,4] x) => (float[3,4] y) <int64[2] s = {3, 4}> { t = Expand(x, s) y = Mul(t, t) }",
    ),
    (cleanup.remove_pool, HALF + "{ t = MaxPool<kernel_shape=[1,1], strides=[2,2]>(x) y = Relu(t) }"),
    (cleanup.remove_dead, "(float[4] x) => (float[4] y) { y = Relu(x) }"),
    (cleanup.constants_to_outputs, "(float[4] x) => (float[4] y, float[4] x) <float[4] p> { y = Add(x, p) }"),
]


@pytest.mark.parametrize(("apply", "text", "expected"), REWRITTEN, ids=case_id)
def test_rewrites(apply, text, expected):
    assert_rewrites(text, apply, expected)


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)


def test_inside_of_softmax_is_wide():
    after = decompose.spell_out_softmax(model_of(IMAGE + "{ y = Softmax(x) }"))
    assert [n.wide for n in after.graph.nodes] == [True] * 5 + [False]
    assert {n.origin for n in after.graph.nodes} == {("Softmax_0",)}


def test_dead_nodes_and_constants_are_removed():
    model = model_of("(float[4] x) => (float[4] y) <float[4] c> { t = Add(x, c) y = Relu(x) }")
    assert ops_of(model) == "Relu" and not model.constants  # binding removes them already
