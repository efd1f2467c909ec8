"""Every clause of every published condition, on every platform that uses it; the table against the golden file."""

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest
from onnx_text import model_of

from knerex_jax.ops import REGISTRY
from knerex_jax.ops import conditions as c
from knerex_jax.ops import conditions_resize as r
from knerex_jax.ops import conditions_window as w
from knerex_jax.ops.support import REWRITES, SUPPORT

PLATFORMS = ("520", "720", "530", "630", "730")
GOLDEN = Path(__file__).parents[1] / "golden" / "operators.csv"
RULES = {
    None: c.anything, 1: c.at_most_4d, 2: w.average_520, 3: w.average_720, 4: w.average_730, 5: c.relu_n,
    6: w.conv_small_kernel, 7: w.conv_strides, 8: c.at_most_4d, 9: w.stride_2, 10: w.square_stride,
    11: c.depth_to_space_2_of_one_channel, 12: c.block_2_or_4, 14: c.exp_by_power_of_two,
    15: c.expand_rows_or_columns, 16: c.expand_within_a_sample, 17: c.axis_1, 18: c.one_index,
    19: w.global_average_256, 20: w.global_average_16384, 21: w.more_than_3_rows, 22: c.matmul_4d,
    23: c.matmul_3d_to_5d, 24: w.maximum_520, 25: w.maximum_530, 26: c.pad_spatial_zeros, 27: c.pad_zeros,
    29: c.square, 30: c.keeps_axes, 31: c.reduces_within_a_sample, 32: c.reduces_channels, 34: r.resize_520,
    35: r.resize_720, 36: r.resize_530, 37: c.slice_4d_step_1, 38: c.slice_step_1, 40: c.softmax_in_parts,
    41: c.block_2_or_4, 42: c.transpose_neighbours, 43: c.transpose_within_a_sample, 44: r.upsample_4d,
    45: r.upsample_one_direction, 46: r.upsample_4d,
}  # fmt: skip
"""Published number -> predicate."""
ALWAYS_MET = {14, 40}
"""Conditions that tell how the platform computes an operator and turn nothing away."""


def golden() -> dict[str, dict[str, int | None]]:
    """Operator -> platform that runs it -> number of the condition."""
    with GOLDEN.open() as file:
        return {
            row["operator"]: {
                p: int(row[f"{p}_cond"]) if row[f"{p}_cond"] else None for p in PLATFORMS if row[p] == "Y"
            }
            for row in csv.DictReader(file)
        }


TABLE = golden()


@dataclass(frozen=True)
class Case:
    """A node that a condition takes (words empty), or turns away with these words."""

    condition: int
    op: str
    text: str
    words: str = ""
    opset: int = 21

    @property
    def id(self) -> str:
        said = self.words or "fits"
        return f"{self.condition}-{self.op}-{said}".replace(" ", "_")

    @property
    def platforms(self) -> list[str]:
        return [p for p, number in TABLE[self.op].items() if number == self.condition]


def unary(node: str, shape: str = "1,4,8,8", constants: str = "") -> str:
    held = f"<{constants}>" if constants else ""
    return f"(float[{shape}] x) => (float[?] y) {held} {{ y = {node} }}"


def pool(condition: int, op: str, attrs: str, words: str = "", shape: str = "1,2,12,12") -> Case:
    return Case(condition, op, unary(f"{op}<{attrs}>(x)", shape), words)


def conv(condition: int, kernel: str, strides: str, words: str = "", shape: str = "1,2,40,40") -> Case:
    text = f"(float[{shape}] x) => (float[?] y) <float[2,2,{kernel}] w> {{ y = Conv<strides=[{strides}]>(x, w) }}"
    return Case(condition, "Conv", text, words)


def deconv(condition: int, strides: str, words: str = "") -> Case:
    text = f"(float[1,2,4,4] x) => (float[?] y) <float[2,2,4,4] w> {{ y = ConvTranspose<strides=[{strides}]>(x, w) }}"
    return Case(condition, "ConvTranspose", text, words)


def two(condition: int, op: str, shape: str, words: str = "") -> Case:
    return Case(condition, op, f"(float[{shape}] x, float[{shape}] z) => (float[?] y) {{ y = {op}(x, z) }}", words)


def batch_norm(shape: str, words: str = "") -> Case:
    text = unary("BatchNormalization(x, s, s, s, v)", shape, "float[4] s, float[4] v")
    return Case(1, "BatchNormalization", text, words)


def clip(bounds: str, words: str = "") -> Case:
    low, _, high = bounds.partition("..")
    held = ", ".join(f"float {n} = {{{v}}}" for n, v in (("lo", low), ("hi", high)) if v)
    return Case(5, "Clip", unary(f"Clip(x, {'lo' if low else ''}, {'hi' if high else ''})", constants=held), words)


def depth(condition: int, op: str, shape: str, block: int, words: str = "", mode: str = "") -> Case:
    attrs = f'blocksize={block}, mode="{mode}"' if mode else f"blocksize={block}"
    return Case(condition, op, unary(f"{op}<{attrs}>(x)", shape), words)


def expand(condition: int, shape: str, target: str, words: str = "") -> Case:
    count = len(target.split(","))
    return Case(condition, "Expand", unary("Expand(x, t)", shape, f"int64[{count}] t = {{{target}}}"), words)


def gather(indices: str, words: str = "") -> Case:
    count = len(indices.split(","))
    return Case(18, "Gather", unary("Gather<axis=1>(x, i)", constants=f"int64[{count}] i = {{{indices}}}"), words)


def by_constant(condition: int, left: str, right: str, words: str = "") -> Case:
    return Case(condition, "MatMul", unary("MatMul(x, w)", left, f"float[{right}] w"), words)


def pad(condition: int, pads: str, words: str = "", mode: str = "constant", value: int = 0) -> Case:
    held = f"int64[8] p = {{{pads}}}, float v = {{{value}}}"
    return Case(condition, "Pad", unary(f'Pad<mode="{mode}">(x, p, v)', constants=held), words)


def power(exponent: str, words: str = "") -> Case:
    return Case(29, "Pow", unary("Pow(x, e)", constants=f"float e = {{{exponent}}}"), words)


def reduce(condition: int, op: str, axes: str, words: str = "", keepdims: int = 1) -> Case:
    count = len(axes.split(","))
    return Case(
        condition, op, unary(f"{op}<keepdims={keepdims}>(x, a)", constants=f"int64[{count}] a = {{{axes}}}"), words
    )


def resize(condition: int, scales: str, attrs: str, words: str = "", shape: str = "1,2,6,6") -> Case:
    count = len(scales.split(","))
    text = unary(f"Resize<{attrs}>(x, , s)", shape, f"float[{count}] s = {{{scales}}}")
    return Case(condition, "Resize", text, words)


def upsample(condition: int, scales: str, words: str = "", mode: str = "nearest", shape: str = "1,2,6,6") -> Case:
    count = len(scales.split(","))
    text = unary(f'Upsample<mode="{mode}">(x, s)', shape, f"float[{count}] s = {{{scales}}}")
    return Case(condition, "Upsample", text, words, opset=9)


def cut(condition: int, shape: str, steps: str, words: str = "") -> Case:
    held = f"int64[1] b = {{0}}, int64[1] e = {{4}}, int64[1] a = {{2}}, int64[1] s = {{{steps}}}"
    return Case(condition, "Slice", unary("Slice(x, b, e, a, s)", shape, held), words)


def transpose(condition: int, perm: str, words: str = "", shape: str = "1,4,8,8") -> Case:
    return Case(condition, "Transpose", unary(f"Transpose<perm=[{perm}]>(x)", shape), words)


def k(kernel: str, strides: str, more: str = "") -> str:
    return f"kernel_shape=[{kernel}], strides=[{strides}]" + (f", {more}" if more else "")


CEIL, COUNTED = "ceil_mode=1", "pads=[1,1,1,1], count_include_pad=1"
DILATED = "dilations=[2,2]"
FIVE = "1,4,2,3,3"
ASYMMETRIC = 'coordinate_transformation_mode="asymmetric"'
FLOOR = f'mode="nearest", nearest_mode="floor", {ASYMMETRIC}'
CROP = (
    "(float[1,2,6,6] x) => (float[?] y) <float[8] roi = {0,0,0,0,1,1,1,1}, float[4] s = {1,1,1,2}>"
    '{ y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize"%s>(x, roi, s) }'
)

AVERAGE = [
    case
    for n in (2, 3, 4)
    for case in (
        pool(n, "AveragePool", k("4,4", "4,4")),  # (a)
        pool(n, "AveragePool", k("4,4", "4,4", CEIL), "ceil mode"),
        pool(n, "AveragePool", k("4,4", "4,4", COUNTED), "counted padding"),
        pool(n, "AveragePool", k("1,1", "2,2")),  # (b)
        pool(n, "AveragePool", k("1,1", "2,2", DILATED), "dilation 2x2"),
        pool(n, "AveragePool", k("5,3", "4,4")),  # (c)
        pool(n, "AveragePool", k("5,3", "4,5"), "window 5x3 with stride 4x5"),
        pool(n, "AveragePool", k("5,3", "4,4", CEIL), "ceil mode"),
        pool(n, "AveragePool", k("5,3", "4,4", COUNTED), "counted padding"),
        pool(n, "AveragePool", k("3,3", "2,2")),  # (d)
        pool(n, "AveragePool", k("3,3", "2,2", COUNTED)),
        pool(n, "AveragePool", k("3,3", "2,2", CEIL)),
        pool(n, "AveragePool", k("5,5", "1,1"), "window 5x5"),
        pool(n, "AveragePool", k("3,2", "1,1"), "window 3x2"),
        pool(n, "AveragePool", k("3,3", "1,1", DILATED), "dilation 2x2"),
        pool(n, "AveragePool", k("3,3,3", "1,1,1"), "window 3x3x3", shape="1,2,6,6,6"),
    )
] + [
    pool(2, "AveragePool", k("1,1", "2,2", CEIL), "ceil mode"),
    pool(2, "AveragePool", k("2,2", "3,3"), "window 2x2 with stride 3x3"),
    pool(2, "AveragePool", k("3,1", "2,1"), "window 3x1"),
    pool(2, "AveragePool", k("1,3", "1,3"), "window 1x3"),
    pool(3, "AveragePool", k("1,1", "2,2", COUNTED)),
]
AVERAGE_LINES = [
    case
    for n in (3, 4)
    for case in (
        pool(n, "AveragePool", k("2,2", "3,3")),
        pool(n, "AveragePool", k("3,1", "2,1")),
        pool(n, "AveragePool", k("4,1", "2,1"), "window 4x1"),
        pool(n, "AveragePool", k("3,1", "2,2"), "stride 2x2"),
        pool(n, "AveragePool", k("1,3", "1,3")),
        pool(n, "AveragePool", k("1,3", "1,2"), "stride 1x2"),
        pool(n, "AveragePool", k("3,1", "2,1", DILATED), "dilation 2x2"),
    )
] + [
    pool(3, "AveragePool", k("3", "2"), "window 3 with stride 2", shape="1,2,12"),
    pool(4, "AveragePool", k("3", "2"), shape="1,2,12"),
    pool(4, "AveragePool", k("4", "2"), "window 4", shape="1,2,12"),
]
MAXIMUM = [
    case
    for n in (24, 25)
    for case in (
        pool(n, "MaxPool", k("1,1", "2,2")),  # (a)
        pool(n, "MaxPool", k("4,4", "4,4")),  # (b)
        pool(n, "MaxPool", k("4,4", "4,4", CEIL), "ceil mode"),
        pool(n, "MaxPool", k("5,6", "1,2")),  # (c)
        pool(n, "MaxPool", k("5,5", "1,1", CEIL), "ceil mode"),
        pool(n, "MaxPool", k("5,3", "1,1"), "window 5x3"),
        pool(n, "MaxPool", k("2,2", "2,2")),  # (d)
        pool(n, "MaxPool", k("3,3", "2,2", CEIL)),
        pool(n, "MaxPool", k("3,3", "1,1", DILATED), "dilation 2x2"),
        pool(n, "MaxPool", k("3,2", "1,1"), "window 3x2"),
        pool(n, "MaxPool", k("3,3,3", "1,1,1"), "window 3x3x3", shape="1,2,6,6,6"),
    )
] + [
    pool(24, "MaxPool", k("1,1", "2,2", CEIL), "ceil mode"),
    pool(24, "MaxPool", k("1,1", "2,2", DILATED), "dilation 2x2"),
    pool(24, "MaxPool", k("2,2", "3,3"), "stride 3x3"),
    pool(24, "MaxPool", k("3,1", "2,1"), "window 3x1"),
    pool(24, "MaxPool", k("1,3", "1,3"), "window 1x3"),
    pool(25, "MaxPool", k("2,2", "3,3")),
    pool(25, "MaxPool", k("3,1", "2,1")),
    pool(25, "MaxPool", k("3,1", "2,2"), "stride 2x2"),
    pool(25, "MaxPool", k("1,3", "1,3")),
    pool(25, "MaxPool", k("1,3", "1,2"), "stride 1x2"),
]
RESIZE = [
    resize(34, "1,1,2,2", FLOOR),
    resize(34, "1,1,2,2", 'mode="linear", coordinate_transformation_mode="align_corners"'),
    resize(34, "1,1,2,2", f'mode="cubic", {ASYMMETRIC}', "cubic"),
    resize(34, "1,2,2", FLOOR, "3 dimensions", shape="1,6,6"),
    resize(34, "1,1,2,2", 'mode="linear"', "axis 2 starts at position -0.25"),
    resize(34, "1,1,2,2", f'mode="nearest", nearest_mode="ceil", {ASYMMETRIC}', "rounds by ceil"),
    Case(34, "Resize", CROP % "", "tf_crop_and_resize"),
    Case(34, "Resize", CROP % ", extrapolation_value=1.0", "extrapolation value 1"),
    resize(35, "1,1,2,1", f'mode="linear", {ASYMMETRIC}'),
    resize(35, "1,1,1,3", f'mode="nearest", {ASYMMETRIC}'),
    resize(35, "1,1,2,1", f'mode="cubic", {ASYMMETRIC}', "cubic"),
    resize(35, "1,2,1", FLOOR, "3 dimensions", shape="1,6,6"),
    resize(35, "1,1,2,2", FLOOR, "rows and columns are both resized"),
    resize(35, "1,1,2,1", 'mode="linear"', "starts at position -0.25"),
    resize(35, "1,1,1,0.5", f'mode="linear", {ASYMMETRIC}', "steps by 2 input pixels"),
    Case(35, "Resize", CROP % ", extrapolation_value=1.0", "extrapolation value 1"),
    resize(36, "2,2,2", 'mode="linear"', shape="1,6,6"),
    resize(36, "1,1,2,2", 'mode="cubic"', "cubic"),
    Case(36, "Resize", CROP % ", extrapolation_value=1.0", "extrapolation value 1"),
    Case(36, "Resize", CROP % ""),
] + [
    case
    for n in (44, 45, 46)
    for case in (
        upsample(n, "1,1,2,1"),
        upsample(n, "1,1,1,2", mode="linear"),
        upsample(n, "1,2,2", "3 dimensions", shape="1,6,6"),
        upsample(n, "1,2,1,2", "axis 1 is resized"),
        upsample(n, "1,1,1,2", "mode cubic", mode="cubic"),
    )
]  # fmt: skip
CASES = [
    *AVERAGE, *AVERAGE_LINES, *MAXIMUM, *RESIZE,
    *(two(1, op, "1,2,3,4") for op in ("Add", "Mul")),
    *(two(1, op, FIVE, "5 dimensions") for op in ("Add", "Mul")),
    Case(1, "Concat", unary("Concat<axis=1>(x, x)")),
    Case(1, "Concat", unary("Concat<axis=1>(x, x)", FIVE), "5 dimensions"),
    batch_norm("1,4,2,2"), batch_norm(FIVE, "5 dimensions"),
    clip("0..6"), clip("0.."), clip("0..3.4028235e38"), clip("-1..1", "lower bound -1"),
    clip("..6", "lower bound None"), clip("0..-1", "below 0"),
    conv(6, "12,12", "4,16"), conv(6, "13,1", "1,1", "kernel 13 > 12"),
    *(conv(n, "2,2", "1,17", "stride 17 along columns > 16") for n in (6, 7)),
    *(conv(n, "2,2", "5,1", "stride 5 along rows > 4") for n in (6, 7)),
    *(conv(n, "1,1,1", "1,1,1", "5 dimensions", "1,2,4,4,4") for n in (6, 7, 8)),
    *(conv(n, "3", "16", shape="1,2,40") for n in (6, 7, 8)),
    conv(7, "13,13", "4,16"), conv(8, "13,13", "5,17"),
    deconv(9, "2,2"), deconv(9, "3,3", "must be (2, 2)"), deconv(9, "2,1", "strides (2, 1)"),
    deconv(10, "3,3"), deconv(10, "2,1", "strides (2, 1)"),
    depth(11, "DepthToSpace", "1,4,3,3", 2, mode="CRD"),
    depth(11, "DepthToSpace", "1,16,3,3", 4, "block size 4", mode="CRD"),
    depth(11, "DepthToSpace", "1,8,3,3", 2, "1x4xHxW", mode="CRD"),
    depth(11, "DepthToSpace", "1,4,3,3", 2, "mode DCR", mode="DCR"),
    *(depth(12, "DepthToSpace", "1,16,3,3", n) for n in (2, 4)),
    depth(12, "DepthToSpace", "1,9,3,3", 3, "block size 3"),
    *(depth(41, "SpaceToDepth", "1,2,12,12", n) for n in (2, 4)),
    depth(41, "SpaceToDepth", "1,2,12,12", 3, "block size 3"),
    Case(14, "Exp", unary("Exp(x)")),
    expand(15, "1,2,1,3", "1,2,4,3"), expand(15, "1,2,3,1", "1,2,3,4"), expand(15, "1,1,3,3", "1,2,3,3", "axis 1"),
    expand(15, "2,3", "2,2,3", "axis 0"),
    expand(16, "1,1,1,1", "1,2,3,4"), expand(16, "1,2,3,3", "2,2,3,3", "batch axis"),
    Case(17, "Flatten", unary("Flatten<axis=1>(x)")), Case(17, "Flatten", unary("Flatten<axis=2>(x)"), "axis 2"),
    gather("2"), gather("0,2", "2 indices"),
    Case(19, "GlobalAveragePool", unary("GlobalAveragePool(x)", "1,2,16,16")),
    Case(19, "GlobalAveragePool", unary("GlobalAveragePool(x)", "1,2,16,17"), "272 elements"),
    Case(20, "GlobalAveragePool", unary("GlobalAveragePool(x)", "1,2,128,128")),
    Case(20, "GlobalAveragePool", unary("GlobalAveragePool(x)", "1,2,128,129"), "16512 elements"),
    *(Case(n, "GlobalAveragePool", unary("GlobalAveragePool(x)", FIVE), "5 dimensions") for n in (19, 20)),
    Case(21, "GlobalMaxPool", unary("GlobalMaxPool(x)", "1,2,4,4")),
    Case(21, "GlobalMaxPool", unary("GlobalMaxPool(x)", "1,2,3,4"), "3 rows"),
    *(by_constant(n, "1,2,3,4", "4,5") for n in (22, 23)),
    *(by_constant(n, "1,2,3,4", "1,1,4,5") for n in (22, 23)),
    *(by_constant(n, "1,2,3,4", "2,4,5", "shape (2, 4, 5)") for n in (22, 23)),
    two(22, "MatMul", "1,2,3,3"), two(22, "MatMul", "2,3,3", "must be 4"), two(22, "MatMul", "1,1,2,3,3", "must be 4"),
    two(23, "MatMul", "2,3,3"), two(23, "MatMul", "1,1,2,3,3"), two(23, "MatMul", "3,3", "must be 3 to 5"),
    *(pad(n, "0,0,31,0,0,0,0,31") for n in (26, 27)),
    *(pad(n, "0,0,32,0,0,0,0,0", "> 31") for n in (26, 27)),
    *(pad(n, "1,0,0,0,0,0,0,0", "axis 0 is padded") for n in (26, 27)),
    *(pad(n, "0,0,1,0,0,0,0,0", "value 1", value=1) for n in (26, 27)),
    *(pad(n, "0,0,1,0,0,0,0,0", "reflect", mode="reflect") for n in (26, 27)),
    *(pad(n, "0,0,-1,0,0,0,0,0", "crop") for n in (26, 27)),
    pad(26, "0,1,0,0,0,0,0,0", "axis 1 is padded"), pad(27, "0,31,0,0,0,0,0,0"),
    pad(27, "0,32,0,0,0,0,0,0", "> 31"),
    power("2"), power("3", "exponent 3"), two(29, "Pow", "1,2,3,4", "computed"),
    reduce(30, "ReduceMax", "1"), reduce(30, "ReduceMax", "1", "keepdims 0", keepdims=0),
    *(reduce(31, op, "2,3") for op in ("ReduceMean", "ReduceSum")),
    *(reduce(31, op, "2,3", "keepdims 0", keepdims=0) for op in ("ReduceMean", "ReduceSum")),
    *(reduce(31, op, "0,1", "batch axis") for op in ("ReduceMean", "ReduceSum")),
    reduce(32, "ReduceSum", "1"), reduce(32, "ReduceSum", "2", "only channels"),
    reduce(32, "ReduceSum", "1", "keepdims 0", keepdims=0),
    cut(37, "1,2,6,6", "1"), cut(37, "1,2,6,6", "2", "step 2"), cut(37, "1,2,6,6,6", "1", "5 dimensions"),
    cut(38, "1,2,6,6,6", "1"), cut(38, "1,2,6,6", "2", "step 2"),
    Case(40, "Softmax", unary("Softmax<axis=1>(x)")),
    transpose(42, "0,1,3,2"), transpose(42, "0,2,1,3"), transpose(42, "0,2,3,1", "(0, 2, 3, 1)"),
    transpose(42, "1,0", "(1, 0)", shape="2,3"),
    transpose(43, "0,2,3,1"), transpose(43, "1,0,2,3", "moves the batch axis"),
    upsample(44, "1,1,2,2"), upsample(46, "1,1,2,2", mode="linear"), upsample(45, "1,1,2,2", "both resized"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_condition(case):
    model = model_of(case.text, case.opset)
    (node,) = model.graph.nodes
    assert case.platforms, f"no platform uses condition {case.condition} for {case.op}"
    for platform in case.platforms:
        said = REGISTRY[case.op].support[platform](node, model)
        if not case.words:
            assert said is None, platform
            continue
        assert said is not None and case.words in said, platform
        reason, _, suggestion = said.partition(": ")
        assert reason and len(suggestion.split()) > 2, f"no suggestion in {said!r}"


def test_every_condition_has_a_node_that_fits_and_one_that_does_not():
    used = {(op, n) for op, row in TABLE.items() for n in row.values() if n is not None}
    assert {(case.op, case.condition) for case in CASES if not case.words} == used
    turned_away = {(case.op, case.condition) for case in CASES if case.words}
    assert turned_away == {(op, n) for op, n in used if n not in ALWAYS_MET}


@pytest.mark.smoke
def test_the_records_agree_with_the_published_table():
    expected = {op: {p: RULES[n] for p, n in row.items()} for op, row in TABLE.items() if row}
    missing = sorted(set(expected) - set(REGISTRY))
    assert not missing, f"operators of the table without a record: {missing}"
    assert {op: dict(record.support) for op, record in REGISTRY.items() if record.support} == expected


@pytest.mark.smoke
def test_every_rule_says_what_it_is():
    assert set(SUPPORT) <= set(TABLE) and set(REWRITES) <= set(TABLE)
    for row in SUPPORT.values():
        for rule in row.values():
            assert rule.__doc__ and rule.__doc__.strip().endswith(".")
