"""A data format as a float operation with straight-through gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.simulate.params import Quantizer


def quantize(
    x: Array, q: Quantizer, clip: Array | float = 1.0, round: Array | float = 1.0, *, half_up: bool = False
) -> Array:
    """The value of the nearest code: limited(rint(x * factor)) / factor.

    Args:
      x: float32, finite or not (NaN counts as 0).
      q: the format.
      clip: switch of the saturation, 0 to 1.
      round: switch of the rounding, 0 to 1.
      half_up: ties go toward +infinity, as in a shift of integers, instead of to even codes.

    Returns:
      Float32 like x. With both switches at 0 x itself. Gradients: 1 with respect to x where a code exists for x (up to
      half a step beyond the outermost), 0 elsewhere; with respect to factor as if rounding added a constant.
    """
    x = limit(x, q, clip)
    return _blend(x, _whole(x * q.factor, half_up) / q.factor, round)


def limit(x: Array, q: Quantizer, clip: Array | float = 1.0) -> Array:
    """The saturation of `quantize` alone, with the same arguments."""
    x = _finite(x, q)
    scaled = x * q.factor
    limited = jnp.where(scaled >= q.high + 0.5, q.high / q.factor, x)
    limited = jnp.where(scaled <= q.low - 0.5, q.low / q.factor, limited)
    return _blend(x, limited, clip)


@jax.custom_jvp
def _blend(off: Array, on: Array, switch: Array | float) -> Array:
    """From `off` to `on`, exact at both ends however far apart they are."""
    return (1 - switch) * off + switch * on


@_blend.defjvp
def _blend_slope(values: tuple, slopes: tuple) -> tuple[Array, Array]:
    # The derivative in the switch is one difference here; two large sums would have to cancel otherwise.
    (off, on, switch), (d_off, d_on, d_switch) = values, slopes
    return _blend(off, on, switch), (1 - switch) * d_off + switch * d_on + d_switch * (on - off)


def _whole(x: Array, half_up: bool) -> Array:
    """The nearest integer, with the gradient of x."""
    # What integers shift is a tie exactly; float32 may have lost a hair of it.
    nearest = jnp.floor(x + (0.5 + _HAIR)) if half_up else jnp.rint(x)
    return x + lax.stop_gradient(nearest - x)


_HAIR = 2.0**-8
"""Float32 at the largest codes of 15 bits, with a margin of two bits."""


def _finite(x: Array, q: Quantizer) -> Array:
    """Infinities at the outermost codes, as tables and islands have them, and no infinite gradient through them."""
    x = jnp.where(jnp.isnan(x), 0, jnp.clip(x, -_LARGEST, _LARGEST))
    beyond = jnp.abs(x) == _LARGEST
    return finite_gradient(jnp.where(beyond, jnp.where(x > 0, q.high, q.low) / q.factor, x))


_LARGEST = float(np.finfo(np.float32).max)


@jax.custom_vjp
def finite_gradient(x: Array) -> Array:
    """Passes x on; infinities and NaN of its gradient become 0."""
    return x


finite_gradient.defvjp(lambda x: (x, None), lambda _, g: (jnp.where(jnp.isfinite(g), g, 0),))
