"""Straight-through rules: values as the integers have them, gradients as if rounding were the identity.

`carry` lets a value that the planner computed take the place of a differentiable one; `code_data` does so with a value
of the emulator; `code_weights` is the rule of weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.custom_vjp
def carry(surrogate: Array, value: Array) -> Array:
    """`value`, bit for bit; its gradient goes to `surrogate`, unchanged.

    Args:
      surrogate: float32, how the value depends on what is trained, roughly.
      value: float32 of the same shape, what it really is.
    """
    return value


carry.defvjp(lambda surrogate, value: (value, None), lambda _, g: (g, None))


@jax.custom_vjp
def code_data(x: Array, factor: Array, low: Array, high: Array, value: Array) -> Array:
    """`value`, bit for bit: what the emulator's code for x stands for; its gradients are those of a learned step (LSQ).

    Args:
      x: float32, the value before its quantizer, as the simulation has it.
      factor: float32, codes per real unit, broadcastable against x.
      low: least code, a scalar.
      high: largest code.
      value: float32 like x.

    Returns:
      `value`. Gradients: 1 with respect to x where a code exists for it (up to half a step beyond the outermost), 0
      elsewhere. With respect to factor: (x - value) / factor where a code exists, as if rounding added a constant, and
      -value / factor where x saturates.
    """
    return value


def _code_data_fwd(x: Array, factor: Array, low: Array, high: Array, value: Array) -> tuple[Array, Any]:
    return value, (x, factor, low, high, value)


def _code_data_bwd(held: Any, g: Array) -> tuple[Array | None, ...]:
    x, factor, low, high, value = held
    code = x * factor
    inside = (code > low - 0.5) & (code < high + 0.5)  # false for NaN
    passed = jnp.where(inside, g, 0)
    slope = (passed * jnp.where(inside, x, 0) - g * value) / factor
    return passed, _summed(slope, factor), None, None, None


code_data.defvjp(_code_data_fwd, _code_data_bwd)


def _summed(slope: Array, like: Array) -> Array:
    """Summed over the axes that were broadcast."""
    lead = slope.ndim - jnp.ndim(like)
    axes = [k for k in range(slope.ndim) if k < lead or (jnp.shape(like)[k - lead] == 1 and slope.shape[k] > 1)]
    return jnp.sum(slope, axis=axes).reshape(jnp.shape(like))


def code_weights(weight: Array, clip: Array, profile: Array, factor: Array, step: Array, limit: int) -> Array:
    """What the codes of weights stand for, with a learned step (LSQ) for every output channel.

    Every output channel's weights, in units of the input's codes, are limited to +-profile * 2**clip; the largest takes
    the largest code, as in the planner.

    Args:
      weight: float32 [O, J, *kernel].
      clip: float32 [O], log2 of the share of `profile` that the weights are limited to.
      profile: float32 [O, J, 1...], where clip = 0 limits them.
      factor: float32 [O, J, 1...] (or 1 for O), codes per real unit of the input behind each weight.
      step: float32 [O, J, 1...], real units per weight code, as planned.
      limit: largest code.

    Returns:
      Float32 like weight: round(w / step) * step. Gradients: 1 with respect to a weight within the limit, 0 beyond it;
      a weight beyond it passes its gradient on to `clip`; with respect to the step, which follows the largest weight
      and `factor`: round(w / step) - w / step.
    """
    bound = limits(clip, profile)
    held = jnp.where(weight > bound, bound, jnp.where(weight < -bound, -bound, weight))
    rest = tuple(range(1, weight.ndim))
    largest = jnp.max(jnp.abs(held / factor), axis=rest, keepdims=True)
    step = carry(jnp.broadcast_to(largest / limit * factor, step.shape), step)
    codes = held / step
    codes = codes + jax.lax.stop_gradient(jnp.rint(codes) - codes)
    return codes * step


def limits(clip: Array | np.ndarray, profile: Array | np.ndarray) -> Array:
    """The largest |weight| of every output channel and input, float32 [O, J, 1...]."""
    return jnp.exp2(clip).reshape(-1, *[1] * (profile.ndim - 1)) * profile
