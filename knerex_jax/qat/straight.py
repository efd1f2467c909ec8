"""Straight-through rules: values as the integers have them, gradients as if rounding were the identity.

The rule of the data quantizers is `simulate.quantizer.quantize`; here are those of weights, and the one that lets a
value that was computed elsewhere (by the planner, by the emulator) take the place of a differentiable one.
"""

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


carry.defvjp(lambda surrogate, value: (value, None), lambda _, g: (g, jnp.zeros_like(g)))


def code_weights(
    weight: Array, clip: Array, profile: Array, factor: Array, step: Array, limit: int
) -> Array:
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
