"""The simulator against the contract's rules 2 to 13: integers by hand, or by loops written from its text alone."""

from itertools import product
from math import floor, log2

import numpy as np
import onnx
import pytest
from contract_words import base, random, sat, shr
from one_command import execute

from knerex_jax.csim.machine import dequantize, quantize
from knerex_jax.errors import SimulationError
from knerex_jax.npu.isa import Port
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Interp,
    Island,
    Lookup,
    MatMul,
    MaxPool,
    Move,
    Mul,
    PoolSum,
    Table,
    Window,
)

# Rule 2: activations alone


@pytest.mark.parametrize(
    ("act", "x", "constants", "y"),
    [
        ("relu", [-128, -1, 0, 3, 127], {"n": [1]}, [0, 0, 0, 2, 64]),
        ("relu", [-128, 5, 127], {"n": [-2]}, [0, 20, 127]),
        ("clip", [-128, -3, 0, 127], {"n": [1], "lo": [-3], "hi": [101]}, [-1, -1, 0, 51]),
        ("leaky", [-128, -5, -1, 9], {"n": [0], "slope": [77], "slope_shift": [8]}, [-38, -2, 0, 9]),
        ("neg", [-128, -1, 0, 127], {"n": [0]}, [127, 1, 0, -127]),
        ("neg", [-3, 3, -127], {"n": [1]}, [2, -1, 64]),
        ("abs", [-128, -5, 5], {"n": [0]}, [127, 5, 5]),
    ],
)
def test_activations_alone(act, x, constants, y):
    assert execute(Activate(**base(), x_bits=8, act=act), [(x, 8)], constants, (len(x),)) == y


def test_activations_alone_between_widths_and_by_channel():
    i = Activate(**base(bits=8, axis=1), x_bits=15, act="leaky")
    held = {"n": [7, 0], "slope": [8192, 16383], "slope_shift": [15, -3]}
    # -16384 / 4 / 2**7 = -32; -1 * 16383 * 8 saturates
    assert execute(i, [([[-16384, -1]], 15)], held, (1, 2)) == [[-32, -128]]
    assert execute(i, [([[16383, 1]], 15)], held, (1, 2)) == [[127, 1]]
    wide = Activate(**base(bits=15), x_bits=8, act="abs")
    assert execute(wide, [([-128, 3], 8)], {"n": [-7]}, (2,)) == [16383, 384]


# Rule 3: align


def align(op: str = "add", signs=(1, 1), *, free=False, bits=8, x_bits=None, psum=32, axis=None) -> Align:
    x_bits = x_bits or (8,) * len(signs)
    return Align(**base(len(signs), bits=bits, axis=axis), op=op, signs=signs, free=free, x_bits=x_bits, psum_bits=psum)


def test_operands_at_the_largest_radix():
    held = {"n": [[-2], [0]], "n_out": [2]}  # radices 3 and 5, result 3
    x = [([31, -31, 127, -128], 8), ([-50, 50, 127, -128], 8)]
    assert execute(align(), x, held, (4,)) == [19, -18, 127, -128]
    assert execute(align(signs=(1, -1)), x, held, (4,)) == [44, -43, 95, -96]
    assert execute(align("max"), x, held, (4,)) == [31, 13, 127, -32]
    assert execute(align("min"), x, held, (4,)) == [-12, -31, 32, -128]


def test_an_operand_beyond_the_largest_radix_is_rounded():
    held = {"n": [[-16], [1]], "n_out": [16]}  # (-3 + 1) / 2 = -1, 5 / 2 = 3
    assert execute(align(), [([1, -1], 8), ([-3, 5], 8)], held, (2,)) == [1, -1]
    assert execute(align(), [([0, 0], 8), ([-3, 5], 8)], {"n": [[0], [1]], "n_out": [0]}, (2,)) == [-1, 3]


def test_three_operands_that_repeat_along_axes():
    held = {"n": [[0], [0], [-1]], "n_out": [0]}
    x = [([[1], [2]], 8), ([10, 20, 30], 8), ([[5]], 8)]
    assert execute(align(signs=(1, 1, 1)), x, held, (2, 3)) == [[21, 31, 41], [22, 32, 42]]


def test_shifts_by_channel_of_the_result():
    held = {"n": [[0, -1], [-2, 0]], "n_out": [0, 3]}
    x = [([[[1, 2], [3, 4]]], 8), ([[[5, 5], [6, 6]]], 8)]
    # 1 + 20, 2 + 20; (6 + 6) / 8 = 1.5, (8 + 6) / 8 = 1.75
    assert execute(align(axis=1), x, held, (1, 2, 2)) == [[[21, 22], [2, 2]]]


def test_operands_with_scales_of_their_own():
    held = {"m": [[2**14], [24576]], "n": [[14 - 8], [15 - 8]], "n_out": [8]}  # 1 and 3/4
    x = [([10, -10, 100, -128, 1], 8), ([3, -3, 100, -128, -2], 8)]
    # 2.25 -> 12, -2.25 -> -12 (not -12.25 rounded away), 1.0 - 1.5 = -0.5 -> 0
    assert execute(align(free=True), x, held, (5,)) == [12, -12, 127, -128, 0]


def test_values_in_between_saturate():
    held = {"m": [[32767], [2**14]], "n": [[-16], [-16]], "n_out": [24]}
    # 127 * 32767 * 2**16 becomes 2**31 - 1, less 2**30, over 2**24
    assert execute(align(free=True), [([127], 8), ([-1], 8)], held, (1,)) == [64]
    wide = {"m": [[32767], [2**14]], "n": [[-16], [-16]], "n_out": [33]}
    i = align(free=True, bits=15, x_bits=(15, 8), psum=48)
    # 16383 * 32767 * 2**16 = 3.5e13 is within 48 bits: (16383 * 32767 - 2**14) / 2**17 = 4095.5
    assert execute(i, [([16383], 15), ([-1], 8)], wide, (1,)) == [(16383 * 32767 - 2**14 + 2**16) >> 17]


# Rule 4: products


def test_products_of_two_activations():
    i = Mul(**base(2), x_bits=(8, 8))
    x = [([-3, 3, -1, -128, -128, 127], 8), ([1, 1, 1, -128, 127, 127], 8)]
    assert execute(i, x, {"n": [1]}, (6,)) == [-1, 2, 0, 127, -128, 127]
    assert execute(i, x, {"n": [7]}, (6,)) == [0, 0, 0, 127, -127, 126]
    assert execute(i, [([100, -100, 0], 8), ([2], 8)], {"n": [-3]}, (3,)) == [127, -128, 0]
    wide = Mul(**base(2, bits=15, axis=1), x_bits=(15, 15))
    x = [([[-16384, -16384]], 15), ([[-16384, 16383]], 15)]
    assert execute(wide, x, {"n": [14, 15]}, (1, 2)) == [[16383, -8191]]  # -8191.5 goes up


def test_matrix_products_of_two_activations():
    i = MatMul(**base(2), x_bits=(8, 8))
    a, b = random(2, 3, 5, seed=1), random(5, 4, seed=2)
    wanted = [
        [
            [sat(shr(sum(int(u) * int(v) for u, v in zip(row, column, strict=True)), 8), 8) for column in b.T]
            for row in m
        ]
        for m in a
    ]
    assert len(np.unique(wanted)) > 8 and execute(i, [(a, 8), (b, 8)], {"n": [8]}, (2, 3, 4)) == wanted
    assert execute(i, [([[3, -4], [-4, 3]], 8), ([[1], [2]], 8)], {"n": [1]}, (2, 1)) == [[-2], [1]]
    wide = MatMul(**base(2, bits=15), x_bits=(15, 15))
    column = [[-16384]] * 12
    assert execute(wide, [([[-16384] * 12], 15), (column, 15)], {"n": [18]}, (1, 1)) == [[12288]]  # 12 * 2**28


# Rule 5: sums


def mean_constants(counts: np.ndarray) -> dict[str, np.ndarray]:
    """M and 15 + e of every count, as the contract writes them."""
    m, e = np.zeros_like(counts), np.zeros_like(counts)
    for at, count in np.ndenumerate(counts):
        power = floor(log2(count))
        m[at], e[at] = round(2 ** (15 + power) / count), 15 + power
        if m[at] == 2**15:
            m[at], e[at] = 2**14, e[at] - 1
    return {"m": m, "e": e}


def test_means_round_half_up():
    held = mean_constants(np.array([[4]]))
    assert held["m"].item() == 2**14 and held["e"].item() == 16
    i = PoolSum(**base(axis=1), window=Window((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0))), x_bits=8)
    x = [[[[-1, -2], [-3, -4]], [[1, 2], [3, 4]]]]  # -2.5 and 2.5
    assert execute(i, [(x, 8)], {"n": [0], **held}, (1, 2, 1, 1)) == [[[[-2]], [[3]]]]
    assert execute(i, [(x, 8)], {"n": [1, -2], **held}, (1, 2, 1, 1)) == [[[[-1]], [[10]]]]


def test_means_count_what_each_window_sees():
    counts = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    window = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    i = PoolSum(**base(axis=1), window=window, x_bits=8)
    full = np.full((1, 1, 3, 3), 127)
    assert execute(i, [(full, 8)], {"n": [0], **mean_constants(counts)}, (1, 1, 3, 3)) == full.tolist()
    included = {"m": [[29127]], "e": [[18]]}  # 2**18 / 9
    corner, edge = 4 * 127 / 9, 6 * 127 / 9
    wanted = [[round(v) for v in row] for row in ([corner, edge, corner], [edge, 127, edge], [corner, edge, corner])]
    assert execute(i, [(full, 8)], {"n": [0], **included}, (1, 1, 3, 3)) == [[wanted]]


def test_means_and_sums_over_whole_axes():
    x = np.arange(-6, 6).reshape(1, 2, 2, 3)
    mean = PoolSum(**base(axis=1), axes=(2, 3), x_bits=8)
    # -21 / 6 = -3.5, by 21845 / 2**17 a little more; 15 / 6 = 2.5, a little less
    held = {"n": [0], **mean_constants(np.array([[6]]))}
    assert held["m"].item() == 21845 and held["e"].item() == 17
    assert execute(mean, [(x, 8)], held, (1, 2, 1, 1)) == [[[[-3]], [[2]]]]
    channels = PoolSum(**base(), axes=(1,), mean=False, x_bits=8)
    assert execute(channels, [(x, 8)], {"n": [1]}, (1, 1, 2, 3)) == [[[[-3, -2, -1], [0, 1, 2]]]]
    wide = PoolSum(**base(bits=15), axes=(1,), mean=False, x_bits=15)
    assert execute(wide, [([[16383] * 3, [-16384] * 3], 15)], {"n": [2]}, (2, 1)) == [[12287], [-12288]]


# Rule 6: the largest


def test_padding_never_wins():
    i = MaxPool(**base(axis=1), window=Window((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))), x_bits=8)
    x = [[[[-100, -101, -102], [-103, -104, -105], [-128, -128, -128]]]]
    assert execute(i, [(x, 8)], {"n": [0]}, (1, 1, 2, 2)) == [[[[-100, -101], [-103, -104]]]]
    assert execute(i, [(x, 8)], {"n": [1]}, (1, 1, 2, 2)) == [[[[-50, -50], [-51, -52]]]]
    assert execute(i, [(x, 8)], {"n": [-1]}, (1, 1, 2, 2)) == [[[[-128, -128], [-128, -128]]]]
    least = np.full((1, 1, 3, 3), -128)
    assert execute(i, [(least, 8)], {"n": [0]}, (1, 1, 2, 2)) == [[[[-128] * 2] * 2]]


def test_largest_and_least_over_whole_axes():
    x = [[[5, -7, 3], [-1, -2, -9]]]
    assert execute(MaxPool(**base(axis=1), axes=(2,), x_bits=8), [(x, 8)], {"n": [0, 1]}, (1, 2, 1)) == [[[5], [0]]]
    least = MaxPool(**base(), axes=(1, 2), least=True, x_bits=8)
    assert execute(least, [(x, 8)], {"n": [1]}, (1, 1, 1)) == [[[-4]]]


def test_largest_of_a_dilated_window_by_loops():
    x = random(1, 2, 7, 8, seed=5)
    window = Window((2, 3), (2, 1), (3, 2), ((1, 0), (1, 2)))
    wanted = np.zeros((1, 2, 3, 7), np.int64)
    for c, h, w in product(range(2), range(3), range(7)):
        seen = [(h * 2 + a * 3 - 1, w + b * 2 - 1) for a in range(2) for b in range(3)]
        wanted[0, c, h, w] = max(x[0, c, p, q] for p, q in seen if 0 <= p < 7 and 0 <= q < 8)
    i = MaxPool(**base(axis=1), window=window, x_bits=8)
    assert execute(i, [(x, 8)], {"n": [0]}, wanted.shape) == wanted.tolist()


# Rule 7: codes change place


def move(kind: str, *args, inputs: int = 1, bits: int = 8, x_bits: int = 8, axis=None, in_axes=None) -> Move:
    held = (x_bits,) * inputs
    return Move(**base(inputs, bits=bits, axis=axis), kind=kind, args=args, x_bits=held, in_axes=in_axes)


X = [[1, 2, 3], [-4, -5, -6]]


@pytest.mark.parametrize(
    ("i", "y"),
    [
        (move("reshape", (3, 2)), [[1, 2], [3, -4], [-5, -6]]),
        (move("transpose", (1, 0)), [[1, -4], [2, -5], [3, -6]]),
        (move("expand", (2, 1, 3)), [X, X]),
        (move("pad", (0, 1), (1, 0)), [[0, 1, 2, 3], [0, -4, -5, -6], [0, 0, 0, 0]]),
        (move("pad", (1, -1), (-1, 1)), [[0, 0, 0], [2, 3, 0]]),
        (move("slice", (0, 1), (2, 3), (1, 1)), [[2, 3], [-5, -6]]),
        (move("slice", (1, 2), (-1, -1), (-1, -2)), [[-6, -4], [3, 1]]),
        (move("gather", (1, 0), (2, 0, 0), (1,)), [[-6, -4, -4]]),
    ],
)
def test_codes_change_place(i, y):
    assert execute(i, [(X, 8)], {"n": [0]}, np.shape(y)) == y


def test_the_radix_changes_behind_a_move_or_before_it():
    assert execute(move("reshape", (6,)), [(X, 8)], {"n": [1]}, (6,)) == [1, 1, 2, -2, -2, -3]
    assert execute(move("reshape", (6,)), [(X, 8)], {"n": [-5]}, (6,)) == [32, 64, 96, -128, -128, -128]
    behind = move("transpose", (1, 0), axis=0)
    assert execute(behind, [(X, 8)], {"n": [0, 1, 2]}, (3, 2)) == [[1, -4], [1, -2], [1, -1]]
    before = move("transpose", (1, 0), in_axes=(0,))
    assert execute(before, [(X, 8)], {"n_in": [[0, 1]]}, (3, 2)) == [[1, -2], [2, -2], [3, -3]]


def test_joined_operands_come_to_one_radix():
    i = move("concat", (1,), inputs=2, in_axes=(1, None))
    x = [(X, 8), ([[7], [-7]], 8)]
    held = {"n_in": [[0, 1, -6], [2, 9, 9]]}  # the second operand has one radix: the rest of its row means nothing
    # 7 / 4 = 1.75, -7 / 4 = -1.75
    assert execute(i, x, held, (2, 4)) == [[1, 1, 127, 2], [-4, -2, -128, -2]]


def test_a_move_between_widths():
    assert execute(move("reshape", (2,), bits=8, x_bits=15), [([16383, -16320], 15)], {"n": [7]}, (2,)) == [127, -127]
    assert execute(move("reshape", (2,), bits=15), [([127, -128], 8)], {"n": [-7]}, (2,)) == [16256, -16384]


# Rule 8: interpolation


def test_one_sum_over_both_axes_and_one_shift():
    i = Interp(**base(), axes=(2, 3), x_bits=8)
    half = {"index0": [[0, 1]], "weight0": [[64, 64]], "index1": [[0, 1]], "weight1": [[64, 64]], "n": [14]}
    assert execute(i, [([[[[1, 0], [0, 0]]]], 8)], half, (1, 1, 1, 1)) == [[[[0]]]]  # rounded twice it would be 1
    assert execute(i, [([[[[-1, -2], [-1, -2]]]], 8)], half, (1, 1, 1, 1)) == [[[[-1]]]]  # -1.5
    assert execute(i, [([[[[1, 2], [1, 2]]]], 8)], {**half, "n": [13]}, (1, 1, 1, 1)) == [[[[3]]]]


def test_taps_by_position_and_weights_below_zero():
    i = Interp(**base(axis=1), axes=(2,), x_bits=8)
    held = {"index0": [[0, 0, 1], [0, 1, 2]], "weight0": [[-12, 100, 40], [-12, 70, 70]], "n": [7, 6]}
    x = [[[10, 20, 127], [-128, -128, -128]]]
    # (-120 + 1000 + 800) / 128 = 13.1, (-120 + 1400 + 8890) / 128 = 79.45; twice -128 saturates
    assert execute(i, [(x, 8)], held, (1, 2, 2)) == [[[13, 79], [-128, -128]]]


def test_interpolation_of_15_bits():
    i = Interp(**base(bits=15), axes=(0, 1), x_bits=15)
    held = {"index0": [[0, 1]], "weight0": [[8192, 8192]], "index1": [[1, 0]], "weight1": [[12288, 4096]], "n": [28]}
    # (3 * 16383 - 16384 - 3 * 16384 + 5) / 8 = -2047.75
    assert execute(i, [([[-16384, 16383], [5, -16384]], 15)], held, (1, 1)) == [[-2048]]


# Rule 9: tables


def test_tables_begin_with_the_lowest_code():
    falling = [127 - k for k in range(256)]
    assert execute(Table(**base(), x_bits=8), [([-128, -1, 0, 127], 8)], {"table": falling}, (4,)) == [127, 0, -1, -128]
    wide = [(k * 7) % 32768 - 16384 for k in range(32768)]
    x = [-16384, -1, 0, 1, 16383]
    wanted = [-16384, (16383 * 7) % 32768 - 16384, (16384 * 7) % 32768 - 16384, (16385 * 7) % 32768 - 16384, 16377]
    assert execute(Table(**base(bits=15), x_bits=15), [(x, 15)], {"table": wide}, (5,)) == wanted
    narrow = [k // 128 - 128 for k in range(32768)]
    assert execute(Table(**base(), x_bits=15), [(x, 15)], {"table": narrow}, (5,)) == [-128, -1, 0, 0, 127]


# Rules 11 and 12: the host


def test_rows_of_a_table_by_index():
    i = Lookup(**base(), at=0)
    rows = {"codes": [[1, 2], [3, 4], [-5, -128]]}
    assert execute(i, [np.array([2, 0, -1, -3])], rows, (4, 2)) == [[-5, -128], [1, 2], [-5, -128], [1, 2]]
    with pytest.raises(SimulationError, match="index 3") as error:
        execute(i, [np.array([3])], rows, (1, 2))
    assert "command 0, lookup of node" in error.value.where


def island(op: str) -> Island:
    node = onnx.helper.make_node(op, ["x0"], ["y"]).SerializeToString()
    return Island(**base(), node=node, opset=17, digest="")


def float32(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def test_operators_in_float_between_two_boundaries():
    held = {"inverse:x0": float32(0.25), "factor:y": float32(2)}
    x = [([-6, -5, 1, 3, 5, 7, 127, -128], 8)]
    # x / 4 * 2, half to even
    assert execute(island("Identity"), x, held, (8,)) == [-3, -2, 0, 2, 2, 4, 64, -64]
    assert execute(island("Sqrt"), [([-4, 16], 8)], held, (2,)) == [0, 4]  # no number becomes 0
    assert execute(island("Reciprocal"), [([0, 4], 8)], held, (2,)) == [127, 2]
    assert execute(island("Exp"), [([80, 0], 8)], held, (2,)) == [127, 2]


# Rule 13: the boundary


def test_inputs_are_rounded_to_even_and_saturate():
    x = [-0.25, 0.25, 0.75, -0.75, 1.25, -1.25, 63.25, 63.75, 64.0, -64.25, -65.0, 1e30, -3e38]
    port = Port("x", 0, factor=2.0)
    assert quantize(port, np.array(x), 8).tolist() == [0, 0, 2, -2, 2, -2, 126, 127, 127, -128, -128, 127, -128]
    assert quantize(port, np.array([8191.75, -8192.0, 1e9]), 15).tolist() == [16383, -16384, 16383]
    assert quantize(Port("x", 0, factor=1e38), np.array([10.0, -10.0]), 8).tolist() == [127, -128]


def test_inputs_are_one_product_of_float32():
    x = np.float32(0.1)
    assert float(x) * 25 > 2.5  # in float64 it would become 3
    assert quantize(Port("x", 0, factor=25.0), np.array([x]), 8).tolist() == [2]
    factor = float(np.float32(128 / 3))
    assert quantize(Port("x", 0, factor=factor), np.array([0.1]), 8).tolist() == [4]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_inputs_that_are_no_numbers(value):
    with pytest.raises(SimulationError, match="no number or infinite") as error:
        quantize(Port("picture", 0), np.array([1.0, value]), 8)
    assert error.value.where == "picture"


def test_outputs_are_one_product_of_float32():
    inverse = float(np.float32(1 / 3))
    made = dequantize(Port("y", 0, inverse=inverse), np.array([-7, 0, 16383]))
    assert made.dtype == np.float32
    assert made.tolist() == [float(np.float32(v * np.float64(inverse))) for v in (-7, 0, 16383)]


def test_the_oracles_shift():
    assert [shr(-3, 1), shr(3, 1), shr(-1, 1), shr(5, -2), sat(300, 8), sat(-300, 8)] == [-1, 2, 0, 20, 127, -128]
