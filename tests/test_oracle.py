"""Tests of the oracle itself: numbers worked by hand for each primitive, and what it may import."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import OracleError, compare, run_oracle
from oracle.activations import slope_code
from oracle.formats import own_format
from oracle.integers import floor_log2, mantissa, saturate, shr
from oracle.interpolation import integer_weights
from oracle.toys import codes_of, fmt, make_model, make_plan, node, run_one

# Steps of the arithmetic.


def test_shr_rounds_half_up_and_saturates_to_the_left():
    # (3 + 1) >> 1 = 2; (-3 + 1) >> 1 = -1; (5 + 2) >> 2 = 1; (-6 + 2) >> 2 = -1; (-7 + 2) >> 2 = floor(-1.25) = -2
    values, shifts = [3, -3, 5, -6, -7, 3, -3, 2**61], [1, 1, 2, 2, 2, 0, -2, -16]
    result = shr(np.array(values), np.array(shifts))
    assert result[:7].tolist() == [2, -1, 1, -1, -2, 3, -12]
    assert saturate(result, 48)[7] == 2**47 - 1
    assert shr(np.array(2**62), 62) == 1  # (2**62 + 2**61) >> 62
    for shift in (63, -17):
        with pytest.raises(OracleError, match="outside"):
            shr(np.array(1), shift)


def test_saturate():
    assert saturate(np.array([-200, -128, 127, 128]), 8).tolist() == [-128, -128, 127, 127]
    assert saturate(np.array([-20000, 20000]), 15).tolist() == [-16384, 16383]


def test_floor_log2_and_mantissa():
    assert [floor_log2(v) for v in (1.0, 2.0, 1.9999999999999998, 0.25, 127.0)] == [0, 1, 0, -2, 6]
    # 1 = 0.5 * 2**1; 5/6 = 0.8333 * 2**0: rint(27306.67); 1 - 2**-20 rounds to 2**15, so it is written as 1
    m, e = mantissa(np.array([1.0, 5 / 6, 1 - 2.0**-20]))
    assert m.tolist() == [16384, 27307, 16384]
    assert e.tolist() == [1, 0, 1]


def test_own_format():
    assert own_format(1.0, 8) == (6, 127 / 64)  # 127 = 1.984 * 2**6
    assert own_format(127 / 64, 8) == (6, 1.0)
    assert own_format(7.0, 4) == (0, 1.0)
    assert own_format(0.0, 15) == (14, 1.0)
    assert own_format(127 / 128 * (1 + 1e-12), 8) == (7, 1.0)  # 1.999999999998 is 2 in float32
    assert own_format(1e-9, 8) == (31, float(np.nextafter(np.float32(2), np.float32(0))))  # 127e9 = 2**36.9
    assert own_format(127 * 2.0**17, 8) == (-16, 0.5)


def test_input_is_one_float32_product_rounded_to_even():
    # radix 2, scale 1: 0.125 * 4 = 0.5 -> 0, 0.375 * 4 = 1.5 -> 2, -0.125 -> -0.5 -> 0; 100 and -100 saturate
    model = make_model([node("Identity", "x", "y")], {"x": (1, 5)}, "y", {})
    plan = make_plan({"x": fmt(2), "y": fmt(2)})
    x = np.float32([[0.125, 0.375, -0.125, 100, -100]])
    assert codes_of(run_oracle(model, plan, {"x": x})) == [0, 2, 0, 127, -128]
    x[0, 1] = np.nan
    with pytest.raises(OracleError, match="input x holds NaN"):
        run_oracle(model, plan, {"x": x})


# Primitives.

GEMM = {"w": np.float32([[0.5], [0.25]]), "b": np.float32([0.125])}


def test_mac_with_post_multiplier():
    # W~ = 0.5, 0.25; 127 / 0.5 = 254 = 1.984375 * 2**7: r_w 7. A = 128/32 + 1/8; the bound on r_w is 22: no effect.
    # w = rint(0.5 * 1.984375 * 128) = 127 and rint(63.5) = 64; r_p = 7 + 4; bias = 0.125 * 1.984375 * 2048 = 508.
    # 1 / s_w = 0.503937: m = rint(16513.008), e = 0; n2 = 15 - 0 + 11 - 5 = 21.
    # acc = 127 * 16 - 64 * 8 = 1520; p = 2028; (2028 * 16513 + 2**20) >> 21 = 16.47 -> 16, i.e. 0.5
    result = run_one(
        [node("Gemm", "x w b", "y")],
        {"x": [[16, -8]]},
        GEMM,
        {"x": fmt(4), "y": fmt(5)},
        weight_bits={"Gemm_y": 8},
    )
    assert codes_of(result) == [16]
    c = {name: value.reshape(-1).tolist() for name, value in result.constants["Gemm_y"].items()}
    assert c["weight"] == [127, 64] and c["bias"] == [508] and c["m"] == [16513] and c["s_w"] == [1.984375]
    assert (c["r_ref"], c["r_w"], c["r_p"], c["n1"], c["n2"]) == ([4], [7], [11], [0], [21])


def test_mac_on_520_with_input_formats_per_channel():
    # z has radix 4, 6 and the imposed scale 2: r_ref 4; W~ = 0.25, 0.125; U = 0.25, 0.125 / 4.
    # 127 / 0.25 = 508: r_w 8; w = 64, 8. A = 4 + 1/8: 32767 / 4.125 = 7943: r_p 12; n1 = 8 + 4 - 12 = 0; n2 = 12 - 5.
    # z = 8, -16 (a move shifts by the radix alone): acc = 512 - 128 = 384; bias = 512; (896 + 64) >> 7 = 7.5 -> 7
    model = make_model([node("Identity", "x", "z"), node("Gemm", "z w b", "y")], {"x": (1, 2)}, "y", GEMM)
    tensors = {"x": fmt(5), "z": fmt([4, 6], [2, 2], axis=1), "y": fmt(5)}
    plan = make_plan(tensors, platform="520", weight_bits={"Gemm_y": 8})
    result = run_oracle(model, plan, {"x": np.float32([[0.5, -0.25]])})
    assert codes_of(result, "x") == [16, -8] and codes_of(result, "z") == [8, -16]
    c = {name: value.reshape(-1).tolist() for name, value in result.constants["Gemm_y"].items()}
    assert c["weight"] == [64, 8] and c["bias"] == [512] and c["m"] == [1]
    assert (c["r_ref"], c["r_w"], c["r_p"], c["n1"], c["n2"]) == ([4], [8], [12], [0], [7])
    assert codes_of(result) == [7]


def test_mac_reads_the_formats_of_its_own_group():
    # Two groups of one channel: r_ref is each channel's own radix. W = 1: r_w 6, w = 64; y at radix 5.
    # Channel 0: radix 4, code 8 (0.5) -> 16; channel 1: radix 6, code 32 (0.5) -> 16.
    model = make_model(
        [node("Identity", "x", "z"), node("Conv", "z w", "y", group=2)],
        {"x": (1, 2, 1)},
        "y",
        {"w": np.ones((2, 1, 1), np.float32)},
    )
    tensors = {"x": fmt(5), "z": fmt([4, 6], axis=1), "y": fmt(5)}
    plan = make_plan(tensors, platform="520", weight_bits={"Conv_y": 8})
    result = run_oracle(model, plan, {"x": np.full((1, 2, 1), 0.5, np.float32)})
    assert codes_of(result, "z") == [8, 32] and codes_of(result) == [16, 16]
    assert result.constants["Conv_y"]["r_ref"].tolist() == [4, 6]
    assert result.constants["Conv_y"]["weight"].reshape(-1).tolist() == [64, 64]


def test_grouped_transposed_convolution_is_the_block_diagonal_one():
    weight = np.random.default_rng(4).normal(size=(4, 3, 2, 3)).astype(np.float32)
    dense = np.zeros((4, 6, 2, 3), np.float32)
    dense[:2, :3], dense[2:, 3:] = weight[:2], weight[2:]
    codes = []
    for group, values in ((2, weight), (1, dense)):
        operator = node("ConvTranspose", "x w", "y", group=group, strides=[2, 1], pads=[0, 1, 1, 0])
        model = make_model([operator], {"x": (1, 4, 3, 4)}, "y", {"w": values})
        plan = make_plan({"x": fmt(4), "y": fmt(3)}, weight_bits={"ConvTranspose_y": 8})
        x = np.random.default_rng(5).normal(size=(1, 4, 3, 4)).astype(np.float32)
        result = run_oracle(model, plan, {"x": x})
        assert result.constants["ConvTranspose_y"]["weight"].shape == values.shape
        codes.append(result.codes)
    assert compare(*codes) == []


def test_mac_small_weights_yield_to_the_partial_sum():
    # W = 2**-28, b = 0.75: 127 * 2**28 = 1.98 * 2**34, clamped to 31, s_w capped below 2.
    # A = 1 + 0.75; 2**30 / (2 * 1.75) = 2**28.2: r_w = 28 - 0. w = rint(2**-28 * 2 * 2**28) = 2.
    result = run_one(
        [node("Gemm", "x w b", "y")],
        {"x": [[1]]},
        {"w": np.float32([[2.0**-28]]), "b": np.float32([0.75])},
        {"x": fmt(0), "y": fmt(7)},
        weight_bits={"Gemm_y": 8},
    )
    c = result.constants["Gemm_y"]
    assert (c["r_w"], c["weight"], c["r_p"]) == (28, 2, 28)
    assert codes_of(result) == [96]  # 0.75 * 128


def test_fused_clip_narrows_the_working_radix():
    # 520, W = 0.5, 0.25: r_w 7, w = 64, 32. A = min(4, 1) + 1/8: 32767 / 1.125 = 29126: r_p 14; n1 = 11 - 14 = -3.
    # acc = 64 * 16 - 32 * 8 = 768 -> 6144; bias 2048; p = 8192 <= hi = 2**14; n2 = 9: 16. With x = 127, 127: hi: 32.
    for x, expected in (([[16, -8]], 16), ([[127, 127]], 32), ([[-128, 0]], 0)):
        result = run_one(
            [node("Gemm", "x w b", "t"), node("Clip", "t lo hi", "y")],
            {"x": x},
            {**GEMM, "lo": np.float32(0), "hi": np.float32(1)},
            {"x": fmt(4), "y": fmt(5)},
            platform="520",
            weight_bits={"Gemm_t": 8},
            fused={"Gemm_t": "Clip_y"},
        )
        c = result.constants["Gemm_t"]
        assert (c["r_p"], c["n1"], c["n2"], c["lo"], c["hi"]) == (14, -3, 9, 0, 16384)
        assert codes_of(result) == [expected]


def test_fused_hard_swish():
    # 520, W = 1: r_w 6, w = 64. A = 4: r_p 12, n1 = -1: x = 32 (1.0) gives p = 4096, t = clip(4096 + 12288) = 16384.
    # 2**5 / (6 * 2**24) = 2/3 * 2**-21: m = 21845, n2 = 36: 2**26 * 21845 / 2**36 = 21.33 -> 21 (1 * 4 / 6 * 32).
    # x = -128 (-4.0): t = 0. x = 127 (3.97): t = 24576: 127 * 128 = 16256; 16256 * 24576 * 21845 / 2**36 = 126.998.
    result = run_one(
        [node("Mul", "x c", "t"), node("HardSwish", "t", "y")],
        {"x": [[32, -128, 127]]},
        {"c": np.float32(1)},
        {"x": fmt(5), "y": fmt(5)},
        platform="520",
        weight_bits={"Mul_t": 8},
        fused={"Mul_t": "HardSwish_y"},
    )
    assert codes_of(result) == [21, 0, 127]


def test_diagonal_add_and_sub():
    # W = 1: r_w = 6, s_w = 127/64, w = 127; r_p = 10. bias = rint(-0.5 * 127/64 * 1024) = -1016.
    # x = 20: acc - bias ... p = 2540 - 1016 = 1524 = 0.75 in units of 2032: y = 0.75 * 16 = 12
    result = run_one(
        [node("Sub", "x c", "y")],
        {"x": [[20]]},
        {"c": np.float32([0.5])},
        {"x": fmt(4), "y": fmt(4)},
        weight_bits={"Sub_y": 8},
    )
    assert result.constants["Sub_y"]["bias"] == -1016
    assert codes_of(result) == [12]


def test_slope_codes():
    assert slope_code(0.1, 8, "") == (102, 10)  # 102.4; one more bit would be 205
    assert slope_code(0.1, 15, "") == (13107, 17)
    assert slope_code(0.0, 8, "") == (0, 30)
    assert slope_code(1.0, 8, "") == (64, 6)
    assert slope_code(-200.0, 8, "") == (-100, -1)


def test_activations_alone():
    # LeakyRelu 0.1: (-100 * 102 + 512) >> 10 = -10 (-9.46); then radix 4 to 3: (-10 + 1) >> 1 = -5 (-4.5); 7 -> 4
    tensors = {"x": fmt(4), "y": fmt(3)}
    x = {"x": [[-100, 7, -128]]}
    assert codes_of(run_one([node("LeakyRelu", "x", "y", alpha=0.1)], x, {}, tensors)) == [-5, 4, -6]
    assert codes_of(run_one([node("Relu", "x", "y")], x, {}, tensors)) == [0, 4, 0]
    bounds = {"lo": np.float32(-1.03125), "hi": np.float32(0.25)}  # -16.5 -> -16, 4
    assert codes_of(run_one([node("Clip", "x lo hi", "y")], x, bounds, tensors)) == [-8, 2, -8]
    tensors["y"] = fmt(4)
    assert codes_of(run_one([node("Neg", "x", "y")], x, {}, tensors)) == [100, -7, 127]
    assert codes_of(run_one([node("Abs", "x", "y")], x, {}, tensors)) == [100, 7, 127]


def test_align_with_shared_scales():
    # radices 4, 6 -> 3: 10 << 2 = 40; Add 47: (47 + 4) >> 3 = 6; Sub 33: 4; Max 40: 5; Min 7: 1
    tensors = {"a": fmt(4), "b": fmt(6), "y": fmt(3)}
    for op, expected in {"Add": 6, "Sub": 4, "Sum": 6, "Max": 5, "Min": 1}.items():
        result = run_one([node(op, "a b", "y")], {"a": [[10]], "b": [[7]]}, {}, tensors, platform="520")
        assert codes_of(result) == [expected], op


def test_align_with_free_scales():
    # y: scale 1.25, radix 5; operands meet at radix 13. a: 1.25 = 0.625 * 2: m = 20480, n = 14 + 4 - 13 = 5:
    # (10 * 20480 + 16) >> 5 = 6400. b: 1.25 / 1.5: m = 27307, n = 15 + 5 - 13 = 7: (7 * 27307 + 64) >> 7 = 1493.
    # (7893 + 128) >> 8 = 31: 10/16 + 7/48 = 0.7708 = 30.8 / 40
    tensors = {"a": fmt(4), "b": fmt(5, 1.5), "y": fmt(5, 1.25)}
    result = run_one([node("Add", "a b", "y")], {"a": [[10]], "b": [[7]]}, {}, tensors)
    assert codes_of(result) == [31]
    result = run_one([node("Sub", "a b", "y")], {"a": [[10]], "b": [[7]]}, {}, tensors)
    assert codes_of(result) == [19]  # (4907 + 128) >> 8


def test_mul_and_matmul():
    tensors = {"a": fmt(4), "b": fmt(5), "y": fmt(6)}  # shift 3
    result = run_one([node("Mul", "a b", "y")], {"a": [[10, -10]], "b": [[7, 7]]}, {}, tensors)
    assert codes_of(result) == [9, -9]  # (70 + 4) >> 3; (-70 + 4) >> 3 = -8.25
    result = run_one([node("MatMul", "a b", "y")], {"a": [[10, 3]], "b": [[[7], [-2]]]}, {}, tensors)
    assert codes_of(result) == [8]  # (64 + 4) >> 3


def test_poolsum():
    # count 9: e = 3, m = rint(2**18 / 9) = 29127, k = 18: (46 * 29127 + 2**17) >> 18 = 5 (5.11)
    x = {"x": np.arange(1, 10).reshape(1, 1, 3, 3) + np.eye(3, dtype=int)[0]}
    result = run_one([node("GlobalAveragePool", "x", "y")], x, {}, {"x": fmt(4), "y": fmt(4)})
    assert codes_of(result) == [5] and result.constants["GlobalAveragePool_y"]["m"] == 29127
    # Corners of a 2 x 2 window with padding hold one value, edges two, the middle four; counts 1, 2, 4 halve up.
    x = {"x": [[[[1, 2], [3, 5]]]]}
    kernel = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}
    result = run_one([node("AveragePool", "x", "y", **kernel)], x, {}, {"x": fmt(4), "y": fmt(4)})
    assert codes_of(result) == [1, 2, 2, 2, 3, 4, 3, 4, 5]  # 1.5 -> 2, 11/4 -> 3, 3.5 -> 4
    pool = node("AveragePool", "x", "y", count_include_pad=1, **kernel)
    result = run_one([pool], x, {}, {"x": fmt(4), "y": fmt(4)})
    assert codes_of(result) == [0, 1, 1, 1, 3, 2, 1, 2, 1]  # sums / 4: 1, 3, 2, 4, 11, 7, 3, 8, 5
    total = node("ReduceSum", "x axes", "y", keepdims=0)
    result = run_one([total], x, {"axes": np.array([3])}, {"x": fmt(4), "y": fmt(3)})
    assert codes_of(result) == [2, 4]  # (3 + 1) >> 1, (8 + 1) >> 1


def test_maximum_ignores_padding():
    x = {"x": [[[[-5, -7], [-9, -6]]]]}
    pool = node("MaxPool", "x", "y", kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    assert codes_of(run_one([pool], x, {}, {"x": fmt(4), "y": fmt(4)})) == [-5, -5, -5, -5]
    result = run_one([node("ReduceMax", "x", "y", keepdims=0)], x, {}, {"x": fmt(4), "y": fmt(3)})
    assert codes_of(result) == [-2]  # (-5 + 1) >> 1


def test_move_uses_the_radix_of_source_and_destination_channel():
    # Concat of radices 4 and 6 to 4: 7, 8 -> (7 + 2) >> 2 = 2, (8 + 2) >> 2 = 2
    tensors = {"a": fmt(4), "b": fmt(6), "y": fmt(4)}
    result = run_one([node("Concat", "a b", "y", axis=1)], {"a": [[9]], "b": [[7, 8]]}, {}, tensors)
    assert codes_of(result) == [9, 2, 2]
    # x -> z with radices 4, 5, 6 by channel; the Transpose moves them to axis 0; then all go to radix 5.
    nodes = [node("Identity", "x", "z"), node("Transpose", "z", "y", perm=[1, 0])]
    tensors = {"x": fmt(4), "z": fmt([4, 5, 6], axis=1), "y": fmt([5, 5, 4], axis=0)}
    result = run_one(nodes, {"x": [[3, 3, 40]]}, {}, tensors)
    assert codes_of(result, "z") == [3, 6, 127] and codes_of(result) == [6, 6, 32]  # 40 * 4 saturates; 127.. / 4
    pad = node("Pad", "x pads", "y")
    result = run_one([pad], {"x": [[3]]}, {"pads": np.array([0, 1, 0, 2])}, {"x": fmt(4), "y": fmt(5)})
    assert codes_of(result) == [0, 6, 0, 0]
    x = {"x": [[1, 2, 3, 4]]}
    result = run_one([pad], x, {"pads": np.array([0, -1, 0, -2])}, {"x": fmt(4), "y": fmt(4)})
    assert codes_of(result) == [2]  # a negative pad cuts


def test_space_to_depth_undoes_depth_to_space():
    nodes = [node("DepthToSpace", "x", "z", blocksize=2), node("SpaceToDepth", "z", "y", blocksize=2)]
    x = {"x": np.arange(24).reshape(1, 4, 2, 3)}
    result = run_one(nodes, x, {}, {name: fmt(4) for name in "xzy"})
    assert codes_of(result) == list(range(24))
    # Element 6 k + p of channel k is position k of block p: the first row of z is 0 6 1 7 2 8, the second 12 18 ...
    assert result.codes["z"][0, 0, :2].tolist() == [[0, 6, 1, 7, 2, 8], [12, 18, 13, 19, 14, 20]]


def test_interp():
    # Factor 2, half_pixel: positions -1/4, 1/4, 3/4, 5/4: weights 96, 32 and the edge. (128 * v + 2**13) >> 14.
    constants = {"scales": np.float32([1, 1, 2])}
    resize = node("Resize", "x roi scales", "y", mode="linear")
    resize.input[1] = ""
    result = run_one([resize], {"x": [[[0, 101]]]}, constants, {"x": fmt(4), "y": fmt(4)})
    assert codes_of(result) == [0, 25, 76, 101]  # 25.25, 75.75
    # 0.3, 0.3, 0.4 of 128: 38.4, 38.4, 51.2: 38 + 38 + 51 = 127: the largest becomes 52
    assert integer_weights(np.array([[0.3, 0.3, 0.4]]), 128).tolist() == [[38, 38, 52]]


def test_table():
    x = {"x": [[0, 16, -16, 127]]}
    # Sigmoid(0) * 1 * 2**7 = 64; sigmoid(1) = 0.7311: 93.6; sigmoid(-1): 34.4; sigmoid(7.9) = 0.99963: 127.95 -> 127
    assert codes_of(run_one([node("Sigmoid", "x", "y")], x, {}, {"x": fmt(4), "y": fmt(7)})) == [64, 94, 34, 127]
    # 1/0 is infinite: 127; 1/1 = 16; -16; 16/127 = 0.126 -> 2
    assert codes_of(run_one([node("Reciprocal", "x", "y")], x, {}, {"x": fmt(4), "y": fmt(4)})) == [127, 16, -16, 2]
    # log at 0 and below: minus infinity; log(1) = 0; log(7.94) = 2.0716: 33.1
    assert codes_of(run_one([node("Log", "x", "y")], x, {}, {"x": fmt(4), "y": fmt(4)})) == [-128, 0, -128, 33]
    power = run_one([node("Pow", "x c", "y")], x, {"c": np.float32(2)}, {"x": fmt(4), "y": fmt(1)})
    assert codes_of(power) == [0, 2, 2, 126]  # 63.004 * 2
    assert len(power.constants["Pow_y"]["table"]) == 256


def test_codes_are_stacked_over_samples_without_the_batch_axis():
    model = make_model([node("Relu", "x", "y")], {"x": (1, 2, 3)}, "y", {})
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    result = run_oracle(model, make_plan({"x": fmt(4), "y": fmt(4)}), {"x": x})
    assert result.codes["y"].shape == (4, 2, 3) and result.codes["y"].dtype == np.int64
    single = run_oracle(model, make_plan({"x": fmt(4), "y": fmt(4)}), {"x": x[2:3]})
    np.testing.assert_array_equal(single.codes["y"][0], result.codes["y"][2])


def test_errors_name_the_node():
    model = make_model([node("Hardmax", "x", "y")], {"x": (1, 2)}, "y", {})
    with pytest.raises(OracleError, match="Hardmax_y"):
        run_oracle(model, make_plan({"x": fmt(4), "y": fmt(4)}), {"x": np.zeros((1, 2), np.float32)})
    model = make_model([node("Relu", "x", "y")], {"x": (1, 2)}, "y", {})
    with pytest.raises(OracleError, match="Relu_y: shift -20"):
        run_oracle(model, make_plan({"x": fmt(4), "y": fmt(24)}), {"x": np.zeros((1, 2), np.float32)})


def test_compare():
    a = {"p": np.array([1, 2, 3]), "q": np.zeros((1, 2)), "r": np.zeros(1)}
    b = {"p": np.array([1, 0, 7]), "q": np.zeros((2, 1)), "s": np.zeros(1)}
    assert compare(a, a) == []
    assert compare(a, b) == [
        "p: 2 of 3 codes differ, by up to 4; first at (1,): 2 and 0",
        "r: missing in the second set",
        "s: missing in the first set",
    ]
    assert compare({"p": np.zeros(2)}, {"p": np.zeros(3)}) == ["p: shapes (2,) and (3,)"]


def test_oracle_imports_only_stdlib_numpy_and_onnx():
    files = sorted((Path(__file__).parent / "oracle").glob("*.py"))
    assert files
    allowed = {*sys.stdlib_module_names, "numpy", "onnx"}
    for file in files:
        for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(item, ast.Import):
                names = [alias.name for alias in item.names]
            elif isinstance(item, ast.ImportFrom):
                assert item.level <= 1, file  # no further up than the oracle itself
                names = [] if item.level else [item.module]
            else:
                called = item.func if isinstance(item, ast.Call) else None
                assert getattr(called, "id", getattr(called, "attr", "")) not in ("__import__", "import_module"), file
                continue
            assert {name.split(".")[0] for name in names} <= allowed, file
