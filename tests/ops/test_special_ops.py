"""Float rules of sampling, quantizing, spectral and looping operators against ONNX Runtime."""

import jax
import numpy as np
import pytest
from onnx_text import proto_of
from operator_cases import Case, assert_equals_onnx_runtime, assert_written_as_an_equal_model, bound, one

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.read import read_proto
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, bind_node, op_of
from knerex_jax.ops.host import is_host
from knerex_jax.ops.opdef import OpDef
from knerex_jax.passes.fold import evaluate_constants

SAMPLING = [
    Case(
        f"gridsample-{opset}-{mode}-{padding}-{corners}",
        f"(float[2,3,5,6] x, float[2,4,7,2] g) => (float[] y) {{ y = GridSample<mode=\"{mode}\", "
        f'padding_mode="{padding}", align_corners={corners}>(x, g) }}',
        opset, 0.7,
    )
    for opset, mode in ((16, "bilinear"), (20, "nearest"), (20, "cubic"))
    for padding, corners in (("zeros", 0), ("border", 1), ("reflection", 0))
] + [
    Case(
        f"gridsample-volume-{mode}",
        f'(float[1,2,3,4,5] x, float[1,2,3,4,3] g) => (float[] y) {{ y = GridSample<mode="{mode}">(x, g) }}', 20, 0.7,
    )
    for mode in ("linear", "nearest")
] + [
    Case(
        f"roialign-{mode}-{coordinates}",
        "(float[2,3,8,9] x) => (float[] y) <float[3,4] r = {0,0,9,9, 3.5,1,14,12, 6,6,5,7}, int64[3] b = {0,1,1}> "
        f'{{ y = RoiAlign<output_height=3, output_width=2, sampling_ratio=2, spatial_scale=0.5, mode="{mode}", '
        f'coordinate_transformation_mode="{coordinates}">(x, r, b) }}',
        16,
    )
    for mode in ("avg", "max")
    for coordinates in ("half_pixel", "output_half_pixel")
] + [
    one("affine-grid", "y = AffineGrid(x, s)", "2,2,3", extra="int64[4] s = {2, 3, 4, 5}", opset=20),
    one("affine-grid-corners", "y = AffineGrid<align_corners=1>(x, s)", "2,2,3", extra="int64[4] s = {2, 3, 4, 5}",
        opset=20),
    one("col2im", "y = Col2Im<pads=[1,0,1,0], strides=[2,1]>(x, i, k)", "2,12,15",
        extra="int64[2] i = {4, 6}, int64[2] k = {2, 2}", opset=18),
]  # fmt: skip

QUANTIZED = [
    Case(
        f"quantize-{name}",
        f"(float[2,4,6] x) => ({kind}[] q, float[] y) <{constants}> "
        f"{{ q = QuantizeLinear{attrs}(x, s, z) y = DequantizeLinear{attrs}(q, s, z) }}",
        opset, 3.0,
    )
    for name, kind, constants, attrs, opset in (
        ("scalar", "uint8", "float s = {0.05}, uint8 z = {120}", "", 13),
        ("int8", "int8", "float s = {0.05}, int8 z = {3}", "", 13),
        ("axis", "int8", "float[4] s = {0.1, 0.2, 0.03, 0.4}, int8[4] z = {1, 0, -5, 7}", "<axis=1>", 13),
        ("int16", "int16", "float s = {0.001}, int16 z = {100}", "", 21),
        ("blocks", "int8", "float[2,2,6] s = {" + ", ".join(["0.1", "0.2", "0.05"] * 8) + "}, int8[2,2,6] z = {"
         + ", ".join(["1", "-2", "0", "4"] * 6) + "}", "<axis=1, block_size=2>", 21),
    )
] + [
    Case(
        "dynamic-quantize",
        "(float[3,4] x) => (uint8[] y, float[] s, uint8[] z) { y, s, z = DynamicQuantizeLinear(x) }", 11,
    ),
    Case(
        "matmul-integer",
        "(uint8[3,4] a, uint8[4,2] b) => (int32[] y) <uint8 az = {3}, uint8 bz = {1}> "
        "{ y = MatMulInteger(a, b, az, bz) }",
        10, 50.0,
    ),
    Case(
        "qlinear-conv",
        "(uint8[1,2,6,7] x) => (uint8[] y) <float xs = {0.02}, uint8 xz = {9}, int8[4,2,3,3] w = {"
        + ", ".join(str(i % 17 - 8) for i in range(72))
        + "}, float[4] ws = {0.1, 0.2, 0.3, 0.05}, int8[4] wz = {0, 0, 0, 0}, float ys = {0.9}, uint8 yz = {100}, "
        "int32[4] b = {5, -9, 0, 40}> { y = QLinearConv<pads=[1,1,1,1], strides=[2,1]>"
        "(x, xs, xz, w, ws, wz, ys, yz, b) }",
        10, 60.0,
    ),
]  # fmt: skip

SPECTRA = [
    one("dft-17", "y = DFT<axis=2, onesided=1>(x)", "2,3,8,1", opset=17),
    one("dft-20-length", "y = DFT(x, n, a)", "2,6,1", extra="int64 n = {8}, int64 a = {1}", opset=20),
    one("dft-inverse", "y = DFT<inverse=1>(x)", "2,8,2", opset=20),
    one("stft", "y = STFT(x, n, w)", "1,32,1", extra="int64 n = {4}, float[8] w", opset=17),
    *(
        Case(
            f"{op}-{periodic}",
            f"(float[9] x) => (float[] y) <int64 n = {{9}}> {{ w = {op}<periodic={periodic}>(n) y = Mul(x, w) }}", 17,
        )
        for op in ("HannWindow", "HammingWindow", "BlackmanWindow")
        for periodic in (0, 1)
    ),
]  # fmt: skip

LOOP = """(float[2,3] x) => (float[] y, float[] s) <int64 n = {4}, bool c = {1}> {
  y, s = Loop(n, c, x) <body = b (int64 i, bool c_in, float[2,3] v) => (bool c_out, float[2,3] w, float[2] r) {
    c_out = Identity(c_in)
    a = Constant<value_ints = [1]>()
    f = Cast<to = 1>(i)
    w = Sub(v, f)
    r = ReduceSum<keepdims = 0>(w, a)
  }>
}"""

CAPTURING = LOOP.replace("y, s = Loop", "k = Mul(x, x) y, s = Loop").replace("Sub(v, f)", "Sub(k, f)")

CASES = [*SAMPLING, *QUANTIZED, *SPECTRA, Case("loop", LOOP), Case("loop-capturing", CAPTURING)]
REWRITTEN = [c for c in CASES if c.name.startswith(("dft", "roialign", "loop"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_onnx_runtime(case):
    assert_equals_onnx_runtime(case)


@pytest.mark.parametrize("case", REWRITTEN, ids=lambda case: case.name)
def test_the_canonical_form_is_written_as_an_equal_model(case):
    assert_written_as_an_equal_model(case)


def test_a_computed_number_of_samples_is_left_to_the_host():
    text = (
        "(float[1,2,8,9] x) => (float[] y) <float[1,4] r = {0,0,9,9}, int64[1] b = {0}> "
        "{ y = RoiAlign<output_height=2, output_width=2>(x, r, b) }"
    )
    model = bound(Case("roialign", text, 16))
    assert is_host(op_of(model.graph.nodes[0], REGISTRY))


def test_a_loop_may_use_operators_of_the_user():
    """The body knows the registry that the model is bound and run with."""
    twice = OpDef(op_type="Twice", to_float=lambda a, x: 2 * x)
    registry = {**REGISTRY, "custom::Twice": twice}
    text = LOOP.replace("w = Sub(v, f)", "d = Sub(v, f) w = custom.Twice(d)")
    model = bind(read_proto(proto_of(text)).model, registry, 21)
    fn, params = lower_float(model, registry=registry)
    x = np.float32([[1, 2, 3], [-4, 5, 6]])
    expected = x
    for i in range(4):
        expected = 2 * (expected - i)
    np.testing.assert_array_equal(jax.jit(fn)(params, {"x": x})["y"], expected)


CONSTANT = """(float[2] x) => (float[2] y) <float[2] k = {1, 2}, int64 n = {4}, bool c = {1}> {
  z = Loop(n, c, k) <body = b (int64 i, bool c_in, float[2] v) => (bool c_out, float[2] w) {
    c_out = Identity(c_in)
    w = Add(v, v)
  }>
  y = Add(x, z)
}"""


def test_a_loop_of_constants_is_evaluated():
    after = evaluate_constants(bound(Case("loop", CONSTANT)))
    assert [n.op_type for n in after.graph.nodes] == ["Add"]
    assert [v.tolist() for v in after.constants.values()] == [[16, 32]]


def test_a_loop_that_may_end_early_is_left_to_the_host():
    text = LOOP.replace(
        "c_out = Identity(c_in)", "m = ReduceMax<keepdims = 0>(v) t = Constant<value = float {9}>() c_out = Less(m, t)"
    )
    raw = read_proto(proto_of(text)).model
    with pytest.raises(UnsupportedOpError, match="early"):
        bind_node(raw.graph.nodes[0], REGISTRY, 21, {"x": (2, 3)}, raw.constants)
