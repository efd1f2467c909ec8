"""table (rule 9): float64 functions, tabulated over every input code."""

import math
from collections.abc import Callable

import numpy as np
import onnx

from .graph import Graph, Step, attributes, expect, float_attribute, label_of
from .integers import quantize

Function = Callable[[np.ndarray], np.ndarray]


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(value) for value in x])


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _hard_swish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x + 3, 0, 6) / 6


def _within(low: float, high: float, function: Function) -> Function:
    """The function on low <= x <= high; outside, its value at the nearest point of that domain."""
    return lambda x: function(np.clip(x, low, high))


def _not_negative(function: Function) -> Function:
    return _within(0.0, np.inf, function)


PLAIN: dict[str, Function] = {
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Log": _not_negative(np.log),
    "Sqrt": _not_negative(np.sqrt),
    "Reciprocal": lambda x: 1 / x,
    "Erf": _erf,
    "HardSwish": _hard_swish,
    "Softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": _within(-1.0, 1.0, np.arcsin),
    "Acos": _within(-1.0, 1.0, np.arccos),
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Asinh": np.arcsinh,
    "Acosh": _within(1.0, np.inf, np.arccosh),
    "Atanh": _within(-1.0, 1.0, np.arctanh),
    "Sign": np.sign,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
}


def _elu(node: onnx.NodeProto) -> Function:
    alpha = float_attribute(node, "alpha", 1.0)
    return lambda x: np.where(x < 0, alpha * np.expm1(x), x)


def _celu(node: onnx.NodeProto) -> Function:
    alpha = float_attribute(node, "alpha", 1.0)
    return lambda x: np.maximum(0, x) + np.minimum(0, alpha * np.expm1(x / alpha))


def _selu(node: onnx.NodeProto) -> Function:
    alpha = float_attribute(node, "alpha", 1.67326319217681884765625)
    gamma = float_attribute(node, "gamma", 1.05070102214813232421875)
    return lambda x: gamma * np.where(x <= 0, alpha * np.expm1(x), x)


def _hard_sigmoid(node: onnx.NodeProto) -> Function:
    alpha, beta = float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5)
    return lambda x: np.clip(alpha * x + beta, 0, 1)


def _gelu(node: onnx.NodeProto) -> Function:
    if attributes(node).get("approximate", "none") == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _swish(node: onnx.NodeProto) -> Function:
    alpha = float_attribute(node, "alpha", 1.0)
    return lambda x: x * _sigmoid(alpha * x)


def _thresholded_relu(node: onnx.NodeProto) -> Function:
    alpha = float_attribute(node, "alpha", 1.0)
    return lambda x: np.where(x > alpha, x, 0.0)


def _shrink(node: onnx.NodeProto) -> Function:
    bias, limit = float_attribute(node, "bias", 0.0), float_attribute(node, "lambd", 0.5)
    return lambda x: np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0.0))


WITH_ATTRIBUTES: dict[str, Callable[[onnx.NodeProto], Function]] = {
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
    "Shrink": _shrink,
}


def _pow(graph: Graph, node: onnx.NodeProto) -> Function:
    exponent = graph.required_constant(node, 1)
    expect(exponent.size == 1, node, "the exponent must be a scalar constant")
    power = float(exponent.reshape(()))
    if power == round(power):
        return lambda x: np.power(x, power)
    return _not_negative(lambda x: np.power(x, power))


TABLES = (*PLAIN, *WITH_ATTRIBUTES, "Pow")


def float_function(graph: Graph, node: onnx.NodeProto) -> Function:
    if node.op_type == "Pow":
        return _pow(graph, node)
    if node.op_type in WITH_ATTRIBUTES:
        return WITH_ATTRIBUTES[node.op_type](node)
    return PLAIN[node.op_type]


def prepare_table(graph: Graph, node: onnx.NodeProto) -> Step:
    """sat_out(rint(f(code / (s_x 2**r_x)) * s_y 2**r_y)) for every code; entry 0 is that of the lowest code."""
    label = label_of(node)
    x, y = graph.format(node.input[0]), graph.format(node.output[0])
    (r_x, s_x), (r_y, s_y) = x.layer(), y.layer()
    codes = np.arange(x.low, x.high + 1, dtype=np.float64)
    with np.errstate(all="ignore"):
        values = float_function(graph, node)(codes / math.ldexp(s_x, r_x))
        table = quantize(np.ldexp(values * s_y, r_y), y.low, y.high, label)

    def run(data: np.ndarray) -> np.ndarray:
        return table[data - x.low]

    return Step(label, (node.input[0],), (node.output[0],), run, {"table": table})
