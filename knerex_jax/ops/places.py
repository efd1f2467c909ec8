"""Elements at places that are known beforehand, as nearest-neighbour resizing takes them."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.ops.layout import stored


def taken(x: Array, places: Sequence[Sequence[int] | np.ndarray], axes: Sequence[int]) -> Array:
    """The elements of x at `places[k]` along `axes[k]`, which lie within it.

    What is enlarged is computed once before, on images channels last; elements that repeat in order are spread, which
    other operations fuse with, and only others are gathered.
    """
    grows = any(len(p) > x.shape[axis] for p, axis in zip(places, axes, strict=True))
    x = stored(x) if grows else x
    for p, axis in zip(places, axes, strict=True):
        size = x.shape[axis]
        times = max(len(p) // size, 1)
        if np.array_equal(p, np.repeat(np.arange(size), times)):
            x = jnp.repeat(x, times, axis)
        else:
            x = jnp.take(x, np.asarray(p, np.int32), axis=axis, mode="clip")
    return x
