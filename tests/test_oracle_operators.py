"""The oracle's operators against float, at 15 bits: what they mean (padding, axes, order), not how they round."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from oracle import run_oracle
from oracle.toys import fmt, make_model, make_plan, node


def _arrays(**shapes):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


IMAGE = (1, 4, 7, 6)
CASES = {
    "Conv": (
        node("Conv", "x w b", "y", pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]),
        _arrays(w=(6, 4, 3, 2), b=6),
    ),
    "Conv grouped": (node("Conv", "x w", "y", group=2), _arrays(w=(6, 2, 1, 1))),
    "Conv depthwise": (node("Conv", "x w b", "y", group=4, pads=[1, 1, 1, 1]), _arrays(w=(8, 1, 3, 3), b=8)),
    "ConvTranspose": (
        node("ConvTranspose", "x w b", "y", strides=[2, 3], pads=[1, 0, 1, 1], output_padding=[1, 0], dilations=[1, 2]),
        _arrays(w=(4, 6, 3, 2), b=6),
    ),
    "MatMul": (node("MatMul", "x w", "y"), _arrays(w=(6, 5))),
    "BatchNormalization": (
        node("BatchNormalization", "x w b zero one", "y", epsilon=0.0),
        {**_arrays(w=4, b=4), "zero": np.zeros(4, np.float32), "one": np.ones(4, np.float32)},
    ),
    "Mul": (node("Mul", "x w", "y"), _arrays(w=(4, 1, 1))),
    "Sub from": (node("Sub", "w x", "y"), _arrays(w=(1, 4, 1, 1))),
    "Add": (node("Add", "x w", "y"), _arrays(w=())),
    "PRelu": (node("PRelu", "x w", "y"), _arrays(w=(4, 1, 1))),
    "AveragePool": (
        node("AveragePool", "x", "y", kernel_shape=[3, 4], strides=[2, 3], pads=[1, 0, 1, 0], ceil_mode=1),
        {},
    ),
    "AveragePool padded": (
        node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1),
        {},
    ),
    "AveragePool same": (node("AveragePool", "x", "y", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"), {}),
    "MaxPool": (
        node("MaxPool", "x", "y", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], dilations=[1, 2]),
        {},
    ),
    "GlobalMaxPool": (node("GlobalMaxPool", "x", "y"), {}),
    "ReduceMean": (node("ReduceMean", "x a", "y", keepdims=0), {"a": np.array([-1, 2])}),
    "ReduceSum": (node("ReduceSum", "x a", "y"), {"a": np.array([3])}),
    "Pad": (node("Pad", "x p", "y"), {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}),
    "Slice": (
        node("Slice", "x s e a t", "y"),
        {"s": np.array([-1, 1]), "e": np.array([-100, 100]), "a": np.array([3, -3]), "t": np.array([-2, 1])},
    ),
    "Transpose": (node("Transpose", "x", "y", perm=[0, 2, 3, 1]), {}),
    "Reshape": (node("Reshape", "x s", "y"), {"s": np.array([0, 2, -1])}),
    "Flatten": (node("Flatten", "x", "y"), {}),
    "Expand": (node("Expand", "x s", "y"), {"s": np.array([2, 1, 1, 1, 1])}),
    "Gather": (node("Gather", "x i", "y", axis=1), {"i": np.array([[3, 0], [-2, 1]])}),
    "DepthToSpace": (node("DepthToSpace", "x", "y", blocksize=2), {}),
    "DepthToSpace CRD": (node("DepthToSpace", "x", "y", blocksize=2, mode="CRD"), {}),
    "Neg": (node("Neg", "x", "y"), {}),
    **{op: (node(op, "x", "y"), {}) for op in ("Sigmoid", "Tanh", "Exp", "Erf", "Elu", "HardSigmoid", "HardSwish")},
    **{op: (node(op, "x", "y"), {}) for op in ("Gelu", "Softplus", "Mish", "Softsign", "Selu", "Celu", "Sin", "Cos")},
    **{op: (node(op, "x", "y"), {}) for op in ("Atan", "Sinh", "Cosh", "Asinh", "ThresholdedRelu", "Abs", "ReduceMin")},
    "Gelu tanh": (node("Gelu", "x", "y", approximate="tanh"), {}),
    "Shrink": (node("Shrink", "x", "y", bias=0.25, lambd=0.25), {}),
    "Tile": (node("Tile", "x r", "y"), {"r": np.array([1, 2, 1, 3])}),
    "GatherElements": (node("GatherElements", "x i", "y", axis=2), {"i": np.arange(48).reshape(1, 4, 2, 6) % 7}),
    "GatherND": (node("GatherND", "x i", "y"), {"i": np.array([[0, 3], [0, 1]])}),
    "Trilu": (node("Trilu", "x k", "y"), {"k": np.array(1)}),
    "CenterCropPad": (node("CenterCropPad", "x s", "y", axes=[2, 3]), {"s": np.array([3, 9])}),
}
for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
    for interpolation, size in (("linear", (12, 5)), ("cubic", (9, 11)), ("nearest", (12, 13))):
        resize = node("Resize", "x none none s", "y", mode=interpolation, coordinate_transformation_mode=coordinates)
        resize.input[1] = resize.input[2] = ""
        CASES[f"Resize {interpolation} {coordinates}"] = (resize, {"s": np.array([1, 4, *size])})
WEIGHTED = ("Conv", "ConvTranspose", "BatchNormalization", "Mul", "Add", "Sub", "MatMul")


def plan_entry(values, axis, scale):
    """A 15-bit format for these values (with their scale), its radix per channel where there is an axis."""
    others = tuple(a for a in range(values.ndim) if a != axis)
    absmax = np.abs(values).max(axis=None if axis is None else others)
    return fmt(np.floor(np.log2(16383 / (absmax * scale))).astype(int), scale, bits=15, axis=axis)


@pytest.mark.parametrize("platform", ["520", "720"])
@pytest.mark.parametrize("name", CASES)
def test_operator_agrees_with_float(name, platform):
    """Per-channel formats for weighted operators, behind an Identity, as inputs are per layer; else per layer."""
    operator, constants = CASES[name]
    first = node("Identity", "input", "x")
    x = np.random.default_rng(2).normal(size=IMAGE).astype(np.float32)
    model = make_model([first, operator], {"input": IMAGE}, "y", constants)
    expected = ReferenceEvaluator(model).run(["y"], {"input": x})[0]
    weighted = operator.op_type in WEIGHTED
    axis = (3 if operator.op_type == "MatMul" else 1) if weighted else None
    scale_y = np.linspace(1, 1.9, expected.shape[axis]) if weighted else 1.0
    tensors = {
        "input": plan_entry(x, None, 1.0),
        "x": plan_entry(x, axis, 1.0),
        "y": plan_entry(expected, axis, np.float32(scale_y)),
    }
    result = run_oracle(model, make_plan(tensors, platform, weight_bits={operator.name: 15}), {"input": x})
    y = tensors["y"]
    factor = np.float64(y["scale"]) * 2.0 ** np.float64(y["radix"])
    if axis is not None:
        factor = factor.reshape([-1 if a == axis else 1 for a in range(expected.ndim)])
    real = result.codes["y"].reshape(expected.shape) / factor
    assert np.abs(real - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("op", ["Add", "Sub", "Sum", "Max", "Min", "Mul"])
def test_two_operands_with_broadcasting_agree_with_float(op):
    """Free scales for Add, Sub, Sum; shared for Max, Min; product for Mul."""
    scales = {"Mul": (1.2, 1.5, 1.8), "Max": (1.3,) * 3, "Min": (1.3,) * 3}.get(op, (1.9, 1.1, 1.4))
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(1, 3, 4, 5)).astype(np.float32), rng.normal(size=(1, 3, 1, 1)).astype(np.float32)
    model = make_model([node(op, "a b", "y")], {"a": a.shape, "b": b.shape}, "y", {})
    expected = ReferenceEvaluator(model).run(["y"], {"a": a, "b": b})[0]
    tensors = {
        name: plan_entry(values, None, np.float32(scale))
        for name, values, scale in zip("aby", (a, b, expected), scales, strict=True)
    }
    result = run_oracle(model, make_plan(tensors), {"a": a, "b": b})
    real = result.codes["y"] / (tensors["y"]["scale"][0] * 2.0 ** tensors["y"]["radix"][0])
    assert np.abs(real - expected).max() < 1e-3 * np.abs(expected).max()
