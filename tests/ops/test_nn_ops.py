"""Float rules of the network operators against ONNX Runtime, in the forms that exporters write."""

from dataclasses import dataclass

import jax
import numpy as np
import onnx
import pytest

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import read_proto
from knerex_jax.graph.write import to_proto
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, bind_node, op_of, unbind
from knerex_jax.ops.host import is_host
from knerex_jax.ops.resize import AxisPlan, ResizeAttrs, axis_nearest, axis_weights
from tests.onnx_text import assert_equal_outputs, proto_of, random_inputs, run_on_ort


@dataclass(frozen=True)
class Case:
    """A model text and the opset it is written in."""

    name: str
    text: str
    opset: int = 21
    scale: float = 1.0


def run_here(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fn, params = lower_float(model)
    with jax.enable_x64(True):
        made = jax.jit(fn)(params, inputs)
    return {t: np.asarray(made[t]) for t in model.graph.outputs}


def check(case: Case) -> None:
    proto = proto_of(case.text, case.opset)
    model = bind(read_proto(proto).model, REGISTRY, case.opset)
    inputs = {t: (v * case.scale).astype(v.dtype) for t, v in random_inputs(model).items()}
    expected = run_on_ort(proto, inputs)
    assert_equal_outputs(expected, run_here(model, inputs))
    for name, array in expected.items():
        assert model.graph.types[name].shape == array.shape and model.graph.types[name].dtype == array.dtype.name


def one(
    name: str, op: str, x: str = "1,3,6,8", y: str = "...", extra: str = "", opset: int = 21, **more: float
) -> Case:
    """A node `op` that maps x to y, with constants named in `extra`; the shape of y is left to be inferred."""
    outputs = "y" if y == "..." else y
    return Case(
        name,
        f"(float[{x}] x) => ({', '.join(f'float[] {t}' for t in outputs.split(','))}) <{extra}> {{ {op} }}",
        opset,
        **more,
    )


RESIZE = [
    one(
        f"resize-{mode}-{coordinates}-{'x'.join(str(s) for s in factors)}",
        f'y = Resize<mode="{mode}", coordinate_transformation_mode="{coordinates}">(x, , s)',
        extra="float[4] s = {1, 1, " + ", ".join(str(s) for s in factors) + "}",
    )
    for mode in ("nearest", "linear", "cubic")
    for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for factors in ((2, 2), (1.5, 0.6))
    # Symmetric half pixels: this version of the runtime knows the adjustment of whole sizes only.
    if coordinates != "half_pixel_symmetric" or factors == (2, 2)
]

SIZES = [
    one(
        f"resize-{mode}-{coordinates}-sizes",
        f'y = Resize<mode="{mode}", coordinate_transformation_mode="{coordinates}">(x, , , s)',
        extra="int64[4] s = {1, 3, 9, 5}",
    )
    for mode in ("nearest", "linear")
    for coordinates in ("half_pixel", "align_corners", "asymmetric")
]

ROUNDINGS = [
    one(
        f"resize-nearest-{rounding}",
        f'y = Resize<mode="nearest", nearest_mode="{rounding}", coordinate_transformation_mode="asymmetric">(x, , s)',
        extra="float[4] s = {1, 1, 2.5, 0.5}",
    )
    for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
]

RESIZE_OTHERS = [
    one(
        f"resize-antialias-{mode}", f'y = Resize<mode="{mode}", antialias=1>(x, , , s)',
        extra="int64[4] s = {1, 3, 3, 5}",
    )
    for mode in ("linear", "cubic")
] + [
    one(
        "resize-crop",
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.5>'
        "(x, r, , s)",
        extra="float[8] r = {0, 0, 0.2, -0.3, 1, 1, 0.9, 1.4}, int64[4] s = {1, 3, 5, 9}",
    ),
    one(
        "resize-axes", 'y = Resize<mode="linear", axes=[3, 2]>(x, , s)', extra="float[2] s = {2, 3}",
    ),
    one(
        "resize-not-larger", 'y = Resize<mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger">(x, , , s)',
        extra="int64[2] s = {9, 10}",
    ),
    one(
        "resize-cubic-excluding", 'y = Resize<mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5>(x, , s)',
        extra="float[4] s = {1, 1, 2, 0.7}",
    ),
    one("resize-10-linear", 'y = Resize<mode="linear">(x, s)', extra="float[4] s = {1, 1, 2, 2}", opset=10),
    one("resize-10-nearest", 'y = Resize<mode="nearest">(x, s)', extra="float[4] s = {1, 1, 2, 3}", opset=10),
    one("upsample-9-linear", 'y = Upsample<mode="linear">(x, s)', extra="float[4] s = {1, 1, 2, 3}", opset=9),
    one("upsample-9-nearest", 'y = Upsample<mode="nearest">(x, s)', extra="float[4] s = {1, 1, 2, 2}", opset=9),
    one("upsample-8-nearest", 'y = Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(x)', opset=8),
]  # fmt: skip

NORMS = [
    *(
        one(f"{op}-{opset}-axis{axis}", f"y = {op}<axis={axis}>(x)", "2,3,4,5", opset=opset)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset, axis in ((11, 1), (11, 2), (11, 3), (11, -2), (13, 1), (13, -1))
    ),
    one("softmax-11-default", "y = Softmax(x)", "2,3,4", opset=11),
    one("softmax-11-singles", "y = Softmax<axis=1>(x)", "2,7,1,1", opset=11),
    *(
        one(
            f"batchnorm-{opset}", "y = BatchNormalization<epsilon=0.01>(x, g, b, m, v)",
            extra="float[3] g, float[3] b, float[3] m, float[3] v", opset=opset,
        )
        for opset in (8, 9, 14, 15)
    ),
    one(
        "layernorm-three-outputs", "y, m, i = LayerNormalization<axis=2>(x, g, b)", y="y,m,i",
        extra="float[6,8] g, float[6,8] b",
    ),
    one("layernorm-no-bias", "y = LayerNormalization(x, g)", extra="float[8] g"),
    one("instancenorm", "y = InstanceNormalization(x, g, b)", extra="float[3] g, float[3] b"),
    one(
        "groupnorm-21", "y = GroupNormalization<num_groups=2>(x, g, b)", "2,4,3,5", extra="float[4] g, float[4] b",
    ),
    one(
        "groupnorm-18", "y = GroupNormalization<num_groups=2>(x, g, b)", "2,4,3,5", extra="float[2] g, float[2] b",
        opset=18,
    ),
    one("rmsnorm", "y = RMSNormalization<axis=-2>(x, g)", extra="float[6,8] g", opset=23),
    one("lpnorm-1", "y = LpNormalization<axis=1, p=1>(x)"),
    one("lpnorm-2", "y = LpNormalization(x)"),
    one("lrn", "y = LRN<size=5, alpha=0.2, beta=0.6, bias=2.0>(x)", "1,7,4,4"),
]  # fmt: skip

TRANSPOSED = [
    one(f"convtranspose-{name}", f"y = ConvTranspose<{attrs}>(x, w{bias})", x, extra=f"float[{w}] w, float[{b}] b")
    for name, attrs, x, w, b, bias in (
        ("plain", "strides=[2,2]", "1,3,6,8", "3,4,2,2", 4, ", b"),
        ("pads", "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]", "1,3,6,8", "3,4,3,3", 4, ", b"),
        ("uneven", "strides=[3,2], pads=[0,1,1,2], dilations=[2,1]", "1,3,6,8", "3,4,3,3", 4, ""),
        ("depthwise", "group=3, strides=[2,2], pads=[1,1,1,1]", "1,3,6,8", "3,1,4,4", 3, ", b"),
        ("grouped", "group=2, strides=[2,1]", "1,4,6,8", "4,3,3,3", 6, ", b"),
        ("upper", 'auto_pad="SAME_UPPER", strides=[2,2]', "1,3,6,8", "3,4,3,3", 4, ", b"),
        ("lower", 'auto_pad="SAME_LOWER", strides=[2,2]', "1,3,6,8", "3,4,3,3", 4, ""),
        ("shape", "output_shape=[12,15], strides=[2,2]", "1,3,6,8", "3,4,3,3", 4, ", b"),
        ("line", "strides=[2]", "1,3,6", "3,4,3", 4, ", b"),
        ("volume", "strides=[1,2,2]", "1,3,3,4,5", "3,2,2,3,2", 2, ", b"),
    )
]

POOLS = [
    one(f"{op}-{name}", f"y = {op}<{attrs}>(x)", x)
    for op in ("MaxPool", "AveragePool", "LpPool")
    for name, attrs, x in (
        ("ceil", "kernel_shape=[3,3], strides=[2,2], ceil_mode=1", "1,3,6,8"),
        ("upper", 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"', "1,3,6,7"),
        ("lower", 'kernel_shape=[2,2], strides=[1,1], auto_pad="SAME_LOWER"', "1,3,6,7"),
        ("dilated", "kernel_shape=[2,3], dilations=[2,2], pads=[1,2,1,2]", "1,3,6,8"),
        ("line", "kernel_shape=[3], strides=[2], pads=[1,1]", "1,3,9"),
        ("volume", "kernel_shape=[2,2,2], strides=[1,2,2]", "1,3,3,4,6"),
    )
] + [
    Case(
        f"maxpool-indices-{order}",
        "(float[2,3,6,8] x) => (float[] y, int64[] i) { y, i = MaxPool<kernel_shape=[3,2], strides=[2,2], "
        f"pads=[1,0,1,0], storage_order={order}>(x) }}",
    )
    for order in (0, 1)
] + [
    one("average-counting-pads", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"),
    one("global-lp", "y = GlobalLpPool<p=3>(x)"),
    one(
        "max-roi-pool", "y = MaxRoiPool<pooled_shape=[2,3], spatial_scale=0.5>(x, r)", "2,3,6,8",
        extra="float[2,5] r = {0, 0, 0, 11, 9, 1, 4, 2, 15, 10}",
    ),
]  # fmt: skip

PRODUCTS = [
    Case(
        f"matmul-{'-'.join(a)}-by-{'-'.join(b)}",
        f"(float[{a}] a, float[{b}] b) => (float[] y) {{ y = MatMul(a, b) }}",
    )
    for a, b in (("4", "4"), ("4", "4,3"), ("2,4", "4"), ("5,2,4", "4,3"), ("5,1,2,4", "3,4,3"))
] + [
    Case(
        "einsum-batch",
        '(float[2,3,4] a, float[2,5,4] b) => (float[] y) { y = Einsum<equation="bij, bkj -> bik">(a, b) }',
    ),
    Case("einsum-implicit", '(float[3,4] a, float[4,5] b) => (float[] y) { y = Einsum<equation="ij,jk">(a, b) }'),
    Case("einsum-dots", '(float[2,3,4] a) => (float[] y) { y = Einsum<equation="...ij->...ji">(a) }'),
    Case("einsum-diagonal", '(float[3,3] a) => (float[] y) { y = Einsum<equation="ii->i">(a) }'),
    one("gemm", "y = Gemm<alpha=0.5, beta=2.0, transA=1, transB=1>(x, w, c)", "4,3", extra="float[5,4] w, float[5] c"),
]


def recurrent(op: str, name: str, attrs: str, directions: int = 1, inputs: str = "w, r, b", opset: int = 21) -> Case:
    gates, states = {"RNN": (1, 1), "GRU": (3, 1), "LSTM": (4, 2)}[op]
    d, h = directions, 5
    outputs = "y, yh, yc" if states == 2 else "y, yh"
    constants = (
        f"float[{d},{gates * h},3] w, float[{d},{gates * h},{h}] r, float[{d},{2 * gates * h}] b, "
        f"float[{d},2,{h}] h, float[{d},2,{h}] c, float[{d},{3 * h}] p, int32[2] n = {{4, 2}}"
    )
    text = f"(float[4,2,3] x) => ({', '.join('float[] ' + t for t in outputs.split(', '))}) <{constants}>"
    return Case(f"{op}-{name}", f"{text} {{ {outputs} = {op}<hidden_size={h}{attrs}>(x, {inputs}) }}", opset)


RECURRENT = [
    *(
        recurrent(op, direction, f', direction="{direction}"', directions, inputs)
        for op in ("RNN", "GRU", "LSTM")
        for direction, directions, inputs in (
            ("forward", 1, "w, r"), ("reverse", 1, "w, r, b, n"), ("bidirectional", 2, "w, r, b, n, h")
        )
    ),
    recurrent("GRU", "linear", ", linear_before_reset=1"),
    recurrent("GRU", "opset7", ", linear_before_reset=1", opset=8),
    recurrent("LSTM", "peepholes", "", inputs="w, r, b, n, h, c, p"),
    recurrent("LSTM", "clip", ", clip=0.4", inputs="w, r, b"),
    recurrent("LSTM", "coupled", ", input_forget=1", inputs="w, r, b"),
    recurrent("LSTM", "functions", ', activations=["HardSigmoid", "Softsign", "Affine"], activation_alpha=[0.3, 1.5], '
              "activation_beta=[0.4, 0.1]"),
    recurrent("RNN", "relu", ', activations=["Relu"]'),
]  # fmt: skip


def attention(name: str, attrs: str = "", q: str = "2,4,3,8", k: str = "2,4,5,8", v: str = "2,4,5,6", extra: str = "",
              inputs: str = "", opset: int = 23) -> Case:  # fmt: skip
    text = f"(float[{q}] q, float[{k}] k, float[{v}] v) => (float[] y) <{extra}>"
    return Case(
        f"attention-{name}", f"{text} {{ y = Attention{f'<{attrs}>' if attrs else ''}(q, k, v{inputs}) }}", opset
    )


ATTENTION = [
    attention("plain"),
    attention("scale-softcap", "scale=0.3, softcap=1.5"),
    attention("causal", "is_causal=1"),
    attention("grouped", q="2,4,3,8", k="2,2,5,8", v="2,2,5,6"),
    attention("rank3", "q_num_heads=4, kv_num_heads=2", "2,3,32", "2,5,16", "2,5,12"),
    attention("mask", extra="float[3,5] m", inputs=", m"),
    attention("mask4", extra="float[2,1,3,5] m", inputs=", m"),
    attention("boolean", extra="bool[3,5] m = {1,0,1,1,0, 1,1,1,1,1, 0,1,0,0,1}", inputs=", m"),
    Case(
        "attention-past",
        "(float[2,4,3,8] q, float[2,4,5,8] k, float[2,4,5,6] v, float[2,4,2,8] pk, float[2,4,2,6] pv) => "
        "(float[] y, float[] nk, float[] nv) { y, nk, nv = Attention(q, k, v, , pk, pv) }",
        23,
    ),
]

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

CASES = [
    *RESIZE, *SIZES, *ROUNDINGS, *RESIZE_OTHERS, *NORMS, *TRANSPOSED, *POOLS, *PRODUCTS, *RECURRENT, *ATTENTION,
    *SAMPLING, *QUANTIZED, *SPECTRA, Case("loop", LOOP), Case("loop-capturing", CAPTURING),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_onnx_runtime(case):
    check(case)


REWRITTEN = {"resize", "upsample", "groupnorm", "batchnorm", "dft", "Softmax", "Hardmax"}
OLD = [c for c in CASES if c.opset < 21 and c.name.split("-")[0] in REWRITTEN]
OLD += [c for c in CASES if c.name.split("-")[0] in {"convtranspose", "roialign", "loop"}]


@pytest.mark.parametrize("case", OLD, ids=lambda case: case.name)
def test_the_canonical_form_is_written_as_an_equal_model(case):
    proto = proto_of(case.text, case.opset)
    model = bind(read_proto(proto).model, REGISTRY, case.opset)
    written = to_proto(unbind(model, REGISTRY))
    onnx.checker.check_model(written, full_check=True)
    inputs = random_inputs(model)
    assert_equal_outputs(run_on_ort(proto, inputs), run_on_ort(written, inputs))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size_out", [3, 7, 20])
def test_resize_weights_are_means(mode, size_out):
    weights = axis_weights(ResizeAttrs(mode=mode), AxisPlan(7, size_out, size_out / 7))
    assert weights.shape == (size_out, 7) and weights.dtype == np.float64
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-15)
    if size_out == 7:
        assert (weights == np.eye(7)).all()


def test_resize_positions_by_hand():
    half_pixel = ResizeAttrs(mode="linear")
    assert axis_weights(half_pixel, AxisPlan(2, 4, 2.0)).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    floor = ResizeAttrs(coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    assert axis_nearest(floor, AxisPlan(3, 6, 2.0)).tolist() == [0, 0, 1, 1, 2, 2]
    corners = ResizeAttrs(coordinate_transformation_mode="align_corners", nearest_mode="round_prefer_floor")
    assert axis_nearest(corners, AxisPlan(5, 3, 0.6)).tolist() == [0, 2, 4]


def test_a_computed_number_of_samples_is_left_to_the_host():
    text = (
        "(float[1,2,8,9] x) => (float[] y) <float[1,4] r = {0,0,9,9}, int64[1] b = {0}> "
        "{ y = RoiAlign<output_height=2, output_width=2>(x, r, b) }"
    )
    model = bind(read_proto(proto_of(text, 16)).model, REGISTRY, 16)
    assert is_host(op_of(model.graph.nodes[0], REGISTRY))


def test_a_loop_that_may_end_early_is_left_to_the_host():
    text = LOOP.replace(
        "c_out = Identity(c_in)", "m = ReduceMax<keepdims = 0>(v) t = Constant<value = float {9}>() c_out = Less(m, t)"
    )
    raw = read_proto(proto_of(text)).model
    with pytest.raises(UnsupportedOpError, match="early"):
        bind_node(raw.graph.nodes[0], REGISTRY, 21, {"x": (2, 3)}, raw.constants)
