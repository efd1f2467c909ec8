"""Comparisons, logic on truth values and on bits, and choice by them."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class IsInfAttrs:
    """Which infinities count."""

    detect_negative: int = 1
    detect_positive: int = 1


@dataclass(frozen=True)
class BitShiftAttrs:
    """direction: "LEFT" or "RIGHT"."""

    direction: str = "LEFT"


def _is_inf(a: IsInfAttrs, x: Array) -> Array:
    positive = jnp.isposinf(x) if a.detect_positive else jnp.zeros(x.shape, bool)
    negative = jnp.isneginf(x) if a.detect_negative else jnp.zeros(x.shape, bool)
    return positive | negative


def _bit_shift(a: BitShiftAttrs, x: Array, y: Array) -> Array:
    return jnp.left_shift(x, y) if a.direction == "LEFT" else jnp.right_shift(x, y)


def _plain(op_type: str, function: Any) -> OpDef:
    return OpDef(op_type=op_type, to_float=lambda a, *xs: function(*xs))


OPS = (
    _plain("Equal", jnp.equal),
    _plain("Greater", jnp.greater),
    _plain("GreaterOrEqual", jnp.greater_equal),
    _plain("Less", jnp.less),
    _plain("LessOrEqual", jnp.less_equal),
    _plain("And", jnp.logical_and),
    _plain("Or", jnp.logical_or),
    _plain("Xor", jnp.logical_xor),
    _plain("Not", jnp.logical_not),
    _plain("BitwiseAnd", jnp.bitwise_and),
    _plain("BitwiseOr", jnp.bitwise_or),
    _plain("BitwiseXor", jnp.bitwise_xor),
    _plain("BitwiseNot", jnp.bitwise_not),
    _plain("Where", jnp.where),
    _plain("IsNaN", jnp.isnan),
    OpDef(op_type="IsInf", attrs=IsInfAttrs, to_float=_is_inf),
    OpDef(op_type="BitShift", attrs=BitShiftAttrs, to_float=_bit_shift),
)
