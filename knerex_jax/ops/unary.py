"""Functions of one value. In fixed point they are tables, apart from Neg and Abs, which keep scale and channels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import ActSpec, Built, PlanView, ProgramView, softmax_difference
from knerex_jax.ops.constraint import Bound, Constraint, Own, Same
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.sums import radix_drop
from knerex_jax.ops.table import table_facts, table_op
from knerex_jax.program.primitives import Activate


@dataclass(frozen=True)
class AlphaAttrs:
    """One coefficient."""

    alpha: float = 1.0


@dataclass(frozen=True)
class SeluAttrs:
    """gamma * (x, or alpha * (exp(x) - 1) below 0); ONNX states both as float32 numbers."""

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875


@dataclass(frozen=True)
class HardSigmoidAttrs:
    """clip(alpha * x + beta, 0, 1)."""

    alpha: float = 0.2
    beta: float = 0.5


@dataclass(frozen=True)
class GeluAttrs:
    """approximate: "none" (erf) or "tanh"."""

    approximate: str = "none"


@dataclass(frozen=True)
class ShrinkAttrs:
    """0 within lambd of 0, else x drawn towards 0 by bias."""

    bias: float = 0.0
    lambd: float = 0.5


# Facts


def _within(limit: float) -> Callable[[Node, PlanView], tuple[Constraint, ...]]:
    return lambda node, view: (Bound(node.outputs[0], limit),)


def _exp_bounds(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    if not softmax_difference(view.producer(node.inputs[0]), view.model.graph):
        return ()
    # exp(-11) is below half a step of the 15-bit result; a wider range would only waste codes.
    return (Bound(node.inputs[0], 11.0), Bound(node.outputs[0], 1.0))


def _reciprocal_bounds(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    total = view.producer(node.inputs[0])
    exp = view.producer(total.inputs[0]) if total is not None and total.op_type == "ReduceSum" else None
    if exp is None or exp.op_type != "Exp" or not softmax_difference(view.producer(exp.inputs[0]), view.model.graph):
        return ()
    # The largest term of a softmax sum is exp(0), so the sum is at least 1.
    return (Bound(node.outputs[0], 1.0),)


def _hard_swish_facts(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    if node.name in view.fused.values():
        return (Own(node.outputs[0], view.axes[node.inputs[0]]),)
    return table_facts(node, view)


# Functions in float64 that JAX lacks or that need care


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf  # loading it takes half as long as jax: only where a table is made

    return erf(x)


def _gelu(a: GeluAttrs, x: np.ndarray) -> np.ndarray:
    if a.approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def _like(value: float, x: Array) -> Array:
    return jnp.asarray(value, x.dtype)


def _elu(alpha: Any, x: Any, n: Any = np) -> Any:
    return n.where(x > 0, x, alpha * n.expm1(n.minimum(x, 0)))


def _shrink(a: ShrinkAttrs, x: Any, n: Any = np) -> Any:
    bias = n.asarray(a.bias, x.dtype)
    return n.where(x < -a.lambd, x + bias, n.where(x > a.lambd, x - bias, n.zeros_like(x)))


def _same(f: Callable[[Any], Any], g: Callable[[np.ndarray], np.ndarray]) -> tuple[Any, Any]:
    """A function without attributes, for JAX and for float64."""
    return (lambda a, x: f(x)), (lambda a, x: g(x))


_TABLES = (
    table_op("Sigmoid", *_same(jax.nn.sigmoid, _sigmoid), _within(1)),
    table_op("Tanh", *_same(jnp.tanh, np.tanh), _within(1)),
    table_op("Exp", *_same(jnp.exp, np.exp), _exp_bounds),
    table_op("Log", *_same(jnp.log, lambda x: np.log(np.maximum(x, 0)))),
    table_op("Sqrt", *_same(jnp.sqrt, lambda x: np.sqrt(np.maximum(x, 0)))),
    table_op("Reciprocal", *_same(lambda x: 1 / x, lambda x: 1 / x), _reciprocal_bounds),
    table_op("Erf", *_same(jax.scipy.special.erf, _erf), _within(1)),
    table_op("Sign", *_same(jnp.sign, np.sign), _within(1)),
    table_op("Floor", *_same(jnp.floor, np.floor)),
    table_op("Ceil", *_same(jnp.ceil, np.ceil)),
    table_op("Round", *_same(jnp.round, np.rint)),
    table_op("Sin", *_same(jnp.sin, np.sin), _within(1)),
    table_op("Cos", *_same(jnp.cos, np.cos), _within(1)),
    table_op("Tan", *_same(jnp.tan, np.tan)),
    table_op("Asin", *_same(jnp.arcsin, lambda x: np.arcsin(np.clip(x, -1, 1))), _within(np.pi / 2)),
    table_op("Acos", *_same(jnp.arccos, lambda x: np.arccos(np.clip(x, -1, 1))), _within(np.pi)),
    table_op("Atan", *_same(jnp.arctan, np.arctan), _within(np.pi / 2)),
    table_op("Sinh", *_same(jnp.sinh, np.sinh)),
    table_op("Cosh", *_same(jnp.cosh, np.cosh)),
    table_op("Asinh", *_same(jnp.arcsinh, np.arcsinh)),
    table_op("Acosh", *_same(jnp.arccosh, lambda x: np.arccosh(np.maximum(x, 1)))),
    table_op("Atanh", *_same(jnp.arctanh, lambda x: np.arctanh(np.clip(x, -1, 1)))),
    table_op("Softplus", *_same(jax.nn.softplus, _softplus)),
    table_op("Softsign", *_same(lambda x: x / (1 + jnp.abs(x)), lambda x: x / (1 + np.abs(x))), _within(1)),
    table_op("Mish", *_same(lambda x: x * jnp.tanh(jax.nn.softplus(x)), lambda x: x * np.tanh(_softplus(x)))),
    table_op("Elu", lambda a, x: _elu(_like(a.alpha, x), x, jnp), lambda a, x: _elu(a.alpha, x), attrs=AlphaAttrs),
    table_op(
        "Celu",
        lambda a, x: _elu(_like(a.alpha, x), x, jnp) if a.alpha == 1 else jax.nn.celu(x, _like(a.alpha, x)),
        lambda a, x: np.where(x > 0, x, a.alpha * np.expm1(np.minimum(x, 0) / a.alpha)),
        attrs=AlphaAttrs,
    ),
    table_op(
        "Selu",
        lambda a, x: _like(a.gamma, x) * _elu(_like(a.alpha, x), x, jnp),
        lambda a, x: a.gamma * _elu(a.alpha, x),
        attrs=SeluAttrs,
    ),
    table_op(
        "ThresholdedRelu",
        lambda a, x: jnp.where(x > _like(a.alpha, x), x, jnp.zeros_like(x)),
        lambda a, x: np.where(x > a.alpha, x, 0.0),
        attrs=AlphaAttrs,
    ),
    table_op(
        "HardSigmoid",
        lambda a, x: jnp.clip(x * _like(a.alpha, x) + _like(a.beta, x), 0, 1),
        lambda a, x: np.clip(x * a.alpha + a.beta, 0, 1),
        _within(1),
        attrs=HardSigmoidAttrs,
    ),
    table_op("Gelu", lambda a, x: jax.nn.gelu(x, approximate=a.approximate == "tanh"), _gelu, attrs=GeluAttrs),
    table_op(
        "Swish",
        lambda a, x: x * jax.nn.sigmoid(x * _like(a.alpha, x)),
        lambda a, x: x * _sigmoid(a.alpha * x),
        attrs=AlphaAttrs,
    ),
    table_op("Shrink", lambda a, x: _shrink(a, x, jnp), _shrink, attrs=ShrinkAttrs),
)

HARD_SWISH = replace(
    table_op(
        "HardSwish",
        *_same(lambda x: x * (jnp.clip(x + 3, 0, 6) / 6), lambda x: x * (np.clip(x + 3, 0, 6) / 6)),
        activation=lambda node, model: ActSpec("hard_swish"),
    ),
    constrain=_hard_swish_facts,
)


def _signed(op_type: str, act: Literal["neg", "abs"], to_float: Callable[[Any], Any]) -> OpDef:
    def constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
        return (Same(node.outputs[0], node.inputs),)

    def to_program(node: Node, view: ProgramView) -> Built:
        x, y = node.inputs[0], node.outputs[0]
        n = check_shift(radix_drop(node, view), node.name, "the output")
        instruction = Activate(
            name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=view.formats[y].bits,
            axis=view.axis(y, (x,)), x_bits=view.formats[x].bits, act=act,
        )  # fmt: skip
        return ((instruction, {"n": n}),)

    return OpDef(op_type=op_type, to_float=lambda a, x: to_float(x), constrain=constrain, to_program=to_program)


OPS = (*_TABLES, HARD_SWISH, _signed("Neg", "neg", jnp.negative), _signed("Abs", "abs", jnp.abs))
