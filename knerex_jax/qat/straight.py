"""Straight-through rules: values as the integers have them, gradients as if rounding were the identity.

`code_data` is the rule of data, inside the compiled step; `weight_slopes` is that of weights, on the host.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


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


def weight_slopes(
    slope: np.ndarray,
    weight: np.ndarray,
    clip: np.ndarray,
    profile: np.ndarray,
    factor: np.ndarray,
    step: np.ndarray,
    limit: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients behind the codes of weights, with a learned step (LSQ) for every output channel.

    Every output channel's weights, in units of the input's codes, are limited to +-profile * 2**clip; the largest takes
    the largest code, as in the planner. What the codes stand for: round(w / step) * step.

    Args:
      slope: float32 [O, J, *kernel], with respect to what the codes stand for.
      weight: float32 [O, J, *kernel].
      clip: float32 [O], log2 of the share of `profile` that the weights are limited to.
      profile: float32 [O, J, 1...], where clip = 0 limits them.
      factor: float32 [O, J, 1...], codes per real unit of the input behind each weight.
      step: float32 [O, J, 1...], real units per weight code, as planned.
      limit: largest code.

    Returns:
      Float32, with respect to weight, clip and factor. A weight within the limit has `slope`; one beyond it passes it
      on to `clip`; the step, which follows the largest weight and `factor`, has round(w / step) - w / step times it.
    """
    rest, kernel = tuple(range(1, weight.ndim)), tuple(range(2, weight.ndim))
    bound = limits(clip, profile)
    held = np.clip(weight, -bound, bound)
    codes = held / step
    to_step = (slope * (np.rint(codes) - codes)).sum(axis=kernel, keepdims=True)
    size = np.abs(held / factor)
    largest = size.max(axis=rest, keepdims=True)
    # The step is largest / limit * factor; weights that are equally large share what reaches the largest.
    at = size == largest
    to_largest = (to_step * factor).sum(axis=rest, keepdims=True) / limit / at.sum(axis=rest, keepdims=True)
    to_size = np.where(at, to_largest, 0)
    to_factor = to_step * largest / limit - (to_size * size / factor).sum(axis=kernel, keepdims=True)
    to_held = slope + to_size * np.sign(held) / factor
    beyond = np.abs(weight) > bound
    to_clip = np.log(2) * np.where(beyond, to_held * held, 0).sum(axis=rest)
    return tuple(a.astype(np.float32) for a in (np.where(beyond, 0, to_held), to_clip, to_factor))


def limits(clip: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """The largest |weight| of every output channel and input, float32 [O, J, 1...]."""
    return np.exp2(clip).reshape(-1, *[1] * (profile.ndim - 1)) * profile
