"""The oracle's constants, lookups, plain tensors, islands and tables, by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import OracleError, run_oracle
from oracle.toys import codes_of, fmt, make_model, make_plan, node, run_one


def typed_model(nodes, inputs, outputs, constants):
    """Like make_model, with types: inputs and outputs are name -> (TensorProto type, shape)."""
    sides = [[helper.make_tensor_value_info(t, *held) for t, held in side.items()] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", *sides, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_constant_as_an_operand():
    # k: radices 2 and 4 by channel: 0.625 * 4 = 2.5 -> 2, 0.625 * 16 = 10; 100 saturates. Mul: r_x + r_k - r_y = 2, 4.
    # 8 * 2 = 16: (16 + 2) >> 2 = 4; 8 * 10 = 80: (80 + 8) >> 4 = 5
    constants = {"c": np.float32([[0.625], [0.625]])}
    tensors = {"x": fmt(3), "k": fmt([2, 4], axis=0), "y": fmt(3)}
    result = run_one([node("Identity", "c", "k"), node("Mul", "x k", "y")], {"x": [[[8], [8]]]}, constants, tensors)
    assert codes_of(result, "k") == [2, 10] and codes_of(result) == [4, 5]
    constants = {"c": np.float32([[100], [-100]])}
    result = run_one([node("Identity", "c", "k"), node("Add", "x k", "y")], {"x": [[[0], [0]]]}, constants, tensors)
    assert codes_of(result, "k") == [127, -128]


def test_lookup_picks_rows_of_a_table_in_the_output_s_format():
    # Columns have radix 3 and 5 (scale 1.5): 0.25 * 8 = 2, 0.5 * 8 = 4; 0.25 * 48 = 12, 2.5 * 48 = 120, 5 * 48: 127
    table = np.float32([[0.25, 0.25], [0.5, 2.5], [-0.5, 5]])
    model = typed_model(
        [node("Gather", "t i", "y")],
        {"i": (TensorProto.INT64, (1, 3))},
        {"y": (TensorProto.FLOAT, (1, 3, 2))},
        {"t": table},
    )
    plan = make_plan({"y": fmt([3, 5], [1, 1.5], axis=2)})
    result = run_oracle(model, plan, {"i": np.array([[0, 1, -1], [2, -3, 1]])})
    assert result.codes["y"].tolist() == [[[2, 12], [4, 120], [-4, 127]], [[-4, 127], [2, 12], [4, 120]]]
    assert result.plain["i"].tolist() == [[0, 1, -1], [2, -3, 1]]


def test_plain_tensors_are_exact_and_have_no_format():
    # 2**40 + 1 has no float32; masks are booleans.
    model = typed_model(
        [node("Add", "i one", "j"), node("Less", "i zero", "b"), node("Neg", "x", "y")],
        {"i": (TensorProto.INT64, (1, 2)), "x": (TensorProto.FLOAT, (1, 1))},
        {
            "j": (TensorProto.INT64, (1, 2)),
            "b": (TensorProto.BOOL, (1, 2)),
            "y": (TensorProto.FLOAT, (1, 1)),
        },
        {"one": np.array(1), "zero": np.array(0)},
    )
    inputs = {"i": np.array([[2**40, -7]]), "x": np.float32([[1]])}
    result = run_oracle(model, make_plan({"x": fmt(3), "y": fmt(3)}), inputs)
    assert result.plain["j"].tolist() == [[2**40 + 1, -6]] and result.plain["b"].tolist() == [[False, True]]
    assert codes_of(result) == [-8] and set(result.codes) == {"x", "y"}


def test_integers_of_a_quantized_tensor_need_an_island():
    model = typed_model(
        [node("ArgMax", "x", "k", axis=1)],
        {"x": (TensorProto.FLOAT, (1, 3))},
        {"k": (TensorProto.INT64, (1, 1))},
        {},
    )
    plan = make_plan({"x": fmt(3)})
    x = np.float32([[1, 3, 2]])
    with pytest.raises(OracleError, match="ArgMax_k.*island"):
        run_oracle(model, plan, {"x": x})
    assert run_oracle(model, {**plan, "islands": ["ArgMax_k"]}, {"x": x}).plain["k"].tolist() == [[1]]


def test_island_between_two_boundaries():
    # Codes 3, 5, 7 at radix 1, scale 1.5: inverse float32(1/3). Sums 1, 8/3, 5 in units of 3: 1, 2.67, 5.
    # y: radix 2: 4, 10.67 -> 11, 20.
    nodes = [node("CumSum", "x a", "y")]
    tensors = {"x": fmt(1, 1.5), "y": fmt(2)}
    model = make_model(nodes, {"x": (1, 3)}, "y", {"a": np.array(1)})
    plan = {**make_plan(tensors), "islands": ["CumSum_y"]}
    result = run_oracle(model, plan, {"x": np.float32([[1, 5 / 3, 7 / 3]])})
    assert codes_of(result, "x") == [3, 5, 7] and codes_of(result) == [4, 11, 20]


def test_island_results_that_have_no_code():
    # 0 / 0 -> 0; 1 / 0 and -1 / 0 saturate; float initializers enter as float64
    model = make_model([node("Div", "c x", "y")], {"x": (1, 3)}, "y", {"c": np.float32([[0, 1, -1]])})
    plan = {**make_plan({"x": fmt(1), "y": fmt(2)}), "islands": ["Div_y"]}
    assert codes_of(run_oracle(model, plan, {"x": np.zeros((1, 1, 3), np.float32)})) == [0, 127, -128]


def test_tables_outside_their_domain():
    # x: radix 3: -2, 0, 2. y: radix 4.
    x, tensors = {"x": [[-16, 0, 16]]}, {"x": fmt(3), "y": fmt(4)}

    def table(op, constants=None, **attributes):
        inputs = "x c" if constants else "x"
        return codes_of(run_one([node(op, inputs, "y", **attributes)], x, constants or {}, tensors))

    assert table("Asin") == [-25, 0, 25]  # pi / 2 * 16 = 25.1
    assert table("Acos") == [50, 25, 0]
    assert table("Acosh") == [0, 0, 21]  # arccosh(2) = 1.317
    assert table("Atanh") == [-128, 0, 127]
    assert table("Pow", {"c": np.float32(-0.5)}) == [127, 127, 11]  # 16 / sqrt(2) = 11.3
    assert table("Pow", {"c": np.float32(-1)}) == [-8, 127, 8]
    assert table("Round") == [-32, 0, 32]
    assert table("ThresholdedRelu", alpha=2.0) == [0, 0, 0]
    assert table("Shrink", bias=0.5, lambd=1.0) == [-24, 0, 24]


def test_accumulator_of_a_hard_swish_reaches_minus_three():
    # 520, W = 1, outputs of at most 1: A = 3, not 1: 32767 / 3 = 10922: r_p 13. x = -3: p = -24576: t = 0: y = 0.
    result = run_one(
        [node("Mul", "x c", "t"), node("HardSwish", "t", "y")],
        {"x": [[-96]]},
        {"c": np.float32(1)},
        {"x": fmt(5), "y": fmt(7)},
        platform="520",
        weight_bits={"Mul_t": 8},
        fused={"Mul_t": "HardSwish_y"},
    )
    assert result.constants["Mul_t"]["r_p"] == 13 and codes_of(result) == [0]
