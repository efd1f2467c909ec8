"""Float rules of the network operators against ONNX Runtime, in the forms that exporters write."""

import pytest
from operator_cases import Case, assert_equals_onnx_runtime, assert_written_as_an_equal_model, one

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
        ("wide", "kernel_shape=[5,4], strides=[2,1], dilations=[1,2], pads=[2,1,2,1], ceil_mode=1", "1,3,12,11"),
        ("long", "kernel_shape=[17,2], strides=[3,2], pads=[8,0,8,0]", "1,3,24,6"),
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

CASES = [*NORMS, *TRANSPOSED, *POOLS, *PRODUCTS, *RECURRENT, *ATTENTION]
OLDER = ("groupnorm", "batchnorm", "Softmax", "Hardmax")
REWRITTEN = [*(c for c in NORMS if c.opset < 21 and c.name.startswith(OLDER)), *TRANSPOSED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees_with_onnx_runtime(case):
    assert_equals_onnx_runtime(case)


@pytest.mark.parametrize("case", REWRITTEN, ids=lambda case: case.name)
def test_the_canonical_form_is_written_as_an_equal_model(case):
    assert_written_as_an_equal_model(case)
