"""Operators spelled out in others: the same numbers, in the operators that are stated."""

import numpy as np
import onnx
import pytest
from onnx_text import (
    assert_equal_outputs,
    assert_leaves,
    assert_rewrites,
    assert_same_function,
    case_id,
    model_of,
    ops_of,
    proto_of,
    random_inputs,
    run_on_ort,
)

from knerex_jax.graph.ir import Model
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.passes import decompose, fold, fuse

IMAGE = "(float[1,4,6,5] x) => (float[1,4,6,5] y) "
ROWS = "(float[2,3,5] x) => (float[2,3,5] y) "
AFFINE = "float[4] g, float[4] b, float[4] m, float[4] v"
PURE_SCALE = "float[4] g, float[4] b = {0, 0, 0, 0}, float[4] m = {0, 0, 0, 0}, float[4] v"
NORM = "t = BatchNormalization(x, g, b, m, v)"
SMALLER = "(float[1,4,6,5] x) => (float[1,8,4,3] y) "
SAME_SIZE = "(float[1,4,6,5] x) => (float[1,8,6,5] y) "


def ort_outputs(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_on_ort(to_proto(unbind(model, REGISTRY)), inputs)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ("size=3, alpha=0.3, beta=0.6, bias=2.0", "1,7,4,5"),
        ("size=5, alpha=0.2", "1,6,3,3"),
        ("size=9, alpha=0.5, beta=1.0", "2,4,3,3"),
    ],
)
def test_response_normalisation_is_a_convolution_of_squares(attributes, shape):
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ y = LRN<{attributes}>(x) }}"
    after = assert_rewrites(text, decompose.spell_out_lrn, "Mul Conv Pow Mul")
    assert [n.wide for n in after.graph.nodes] == [True, True, True, False]


def test_log_softmax_keeps_its_difference():
    text = ROWS + "{ y = LogSoftmax<axis=1>(x) }"
    after = assert_rewrites(text, decompose.spell_out_log_softmax, "ReduceMax Sub Exp ReduceSum Log Sub")
    assert [n.wide for n in after.graph.nodes] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("op", "apply", "expected"),
    [
        ("Softmax", decompose.spell_out_softmax, "ReduceMax Sub Exp ReduceSum Reciprocal Mul"),
        ("LogSoftmax", decompose.spell_out_log_softmax, "ReduceMax Sub Exp ReduceSum Log Sub"),
    ],
)
def test_softmax_over_several_axes_at_once(op, apply, expected):
    """Before opset 13 the axes from `axis` on counted as one."""
    text = f"{ROWS} {{ y = {op}<axis=1>(x) }}"
    before = model_of(text, opset=11)
    after = apply(before)
    assert ops_of(after) == expected
    assert [n.attrs.axes for n in after.graph.nodes if n.op_type.startswith("Reduce")] == [(1, 2), (1, 2)]
    assert_same_function(before, after)
    inputs = random_inputs(before)
    assert_equal_outputs(run_on_ort(proto_of(text, opset=11), inputs), ort_outputs(after, inputs))


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, "Sigmoid Mul"), (1.702, "Mul Sigmoid Mul")])
def test_swish(alpha, expected):
    before = model_of(f"{ROWS} {{ y = Swish<alpha={alpha}>(x) }}", opset=24)
    after = decompose.spell_out_swish(before)
    assert ops_of(after) == expected
    inputs = random_inputs(before)
    x = inputs["x"].astype(np.float64)
    assert_equal_outputs({"y": (x / (1 + np.exp(-alpha * x))).astype(np.float32)}, ort_outputs(after, inputs))


@pytest.mark.parametrize("operands", ["x", "x, z", "z, x, x"])
def test_mean_of_operands(operands):
    text = f"(float[2,3,5] x, float[3,1] z) => (float[2,3,5] y) {{ y = Mean({operands}) }}"
    assert_rewrites(text, decompose.mean_to_sum, "Sum Mul")


QUANTIZERS = [
    ("int8", "float s = {0.25}, int8 z = {-3}", "s, z", (-31.25, 32.5)),
    ("uint8", "float s = {0.5}, uint8 z = {128}", "s, z", (-64.0, 63.5)),
    ("uint8", "float[1] s = {0.125}", "s", (0.0, 31.875)),
    ("int16", "float s = {0.001953125}, int16 z = {0}", "s, z", (-64.0, 63.998046875)),
]


@pytest.mark.parametrize(("dtype", "constants", "parameters", "limits"), QUANTIZERS)
def test_quantizers_leave_their_limits(dtype, constants, parameters, limits):
    """On the grid of the quantizer nothing is rounded, so that only the limits act."""
    text = (
        f"(float[1,640] x) => (float[1,640] y) <{constants}> "
        f"{{ q = QuantizeLinear(x, {parameters}) y = DequantizeLinear(q, {parameters}) }}"
    )
    before = model_of(text)
    after = fuse.quantizers_to_clip(before)
    assert ops_of(after) == "Clip" and dtype in {t.dtype for t in before.graph.types.values()}
    (clip,) = after.graph.nodes
    assert (clip.attrs.min, clip.attrs.max) == limits
    grid = {"x": (np.arange(-320, 320, dtype=np.float32) / 4).reshape(1, 640)}
    onnx.checker.check_model(to_proto(unbind(after, REGISTRY)), full_check=True)
    fits = grid["x"] % before.constants["s"].item() == 0
    made, expected = (ort_outputs(m, grid)["y"] for m in (after, before))
    assert fits.sum() > 300 and np.array_equal(made[fits], expected[fits])


FOLDED = [
    (f"{SMALLER} <{AFFINE}, float[8,4,3,3] w, float[8] c> {{ {NORM} y = Conv(t, w, c) }}", "one group"),
    (f"{SMALLER} <{AFFINE}, float[8,2,3,3] w> {{ {NORM} y = Conv<group=2>(t, w) }}", "two groups, no bias"),
    (f"{SMALLER} <{AFFINE}, float[8,1,3,3] w> {{ {NORM} y = Conv<group=4>(t, w) }}", "depthwise"),
    (f"{SAME_SIZE} <{PURE_SCALE}, float[8,4,3,3] w> {{ {NORM} y = Conv<pads=[1,1,1,1]>(t, w) }}", "padded, no shift"),
]


@pytest.mark.parametrize("text", [text for text, _ in FOLDED], ids=[name for _, name in FOLDED])
def test_affine_map_is_folded_into_the_convolution_behind_it(text):
    assert_rewrites(text, fold.batch_norm_into_next_conv, "Conv")


LEFT = [
    (  # padding is 0 behind the map, not before it
        fold.batch_norm_into_next_conv,
        f"{SAME_SIZE} <{AFFINE}, float[8,4,3,3] w> {{ {NORM} y = Conv<pads=[1,1,1,1]>(t, w) }}",
    ),
    (  # two readers
        fold.batch_norm_into_next_conv,
        "(float[1,4,6,5] x) => (float[1,8,4,3] y, float[1,4,6,5] z) "
        f"<{AFFINE}, float[8,4,3,3] w> {{ {NORM} y = Conv(t, w) z = Relu(t) }}",
    ),
    (  # the convolution before it can take it
        fold.batch_norm_into_next_conv,
        f"{SMALLER} <{AFFINE}, float[4,4,1,1] u, float[8,4,3,3] w> "
        "{ s = Conv(x, u) t = BatchNormalization(s, g, b, m, v) y = Conv(t, w) }",
    ),
    (  # computed weights
        fold.batch_norm_into_next_conv,
        f"(float[1,4,6,5] x, float[8,4,3,3] w) => (float[1,8,4,3] y) <{AFFINE}> {{ {NORM} y = Conv(t, w) }}",
    ),
    (  # a scale per channel
        fuse.quantizers_to_clip,
        f"{IMAGE} <float[4] s = {{1, 2, 3, 4}}, int8[4] z = {{0, 0, 0, 0}}> "
        "{ q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z) }",
    ),
    (  # two scales: not only limits
        fuse.quantizers_to_clip,
        f"{IMAGE} <float s = {{0.5}}, float r = {{0.25}}, int8 z = {{0}}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, r, z) }",
    ),
    (decompose.mean_to_sum, "(double[3] x, double[3] z) => (double[3] y) { y = Mean(x, z) }"),
]


@pytest.mark.parametrize(("apply", "text"), LEFT, ids=case_id)
def test_leaves(apply, text):
    assert_leaves(text, apply)
