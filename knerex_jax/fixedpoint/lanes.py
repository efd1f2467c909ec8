"""Elementwise integer operations on `jax.lax` that broadcast as NumPy does.

Tracing one takes a fraction of what its `jnp` form takes (each of those is a compiled function of its own, which vmap
rewrites again), and an emulated network has a dozen of them per instruction. Both operands are of one type; a Python
integer takes the type of the other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array, lax

Operand = Array | np.ndarray | int


def cast(value: Array | np.ndarray, dtype: Any) -> Array:
    """The value as another element type."""
    return value if value.dtype == dtype else lax.convert_element_type(value, dtype)


def spread(value: Array | np.ndarray, shape: tuple[int, ...]) -> Array:
    """An operand in the shape of the result; scalars as they are, fewer axes stand for the last ones."""
    if value.shape in (shape, ()):
        return value
    return lax.broadcast_in_dim(value, shape, tuple(range(len(shape) - value.ndim, len(shape))))


def _filled(value: Array, shape: tuple[int, ...]) -> Array:
    """An operand in the shape of the result, scalars too."""
    return lax.broadcast(value, shape) if value.shape == () else spread(value, shape)


def _lanewise(operation: Callable[[Any, Any], Array]) -> Callable[[Operand, Operand], Array]:
    def run(a: Any, b: Any) -> Array:
        a = np.asarray(a, b.dtype) if isinstance(a, int) else a
        b = np.asarray(b, a.dtype) if isinstance(b, int) else b
        shape = np.broadcast_shapes(a.shape, b.shape)
        return operation(spread(a, shape), spread(b, shape))

    return run


add = _lanewise(lax.add)
multiply = _lanewise(lax.mul)
larger = _lanewise(lax.max)
smaller = _lanewise(lax.min)
both = _lanewise(lax.bitwise_and)
shift_left = _lanewise(lax.shift_left)
shift_right = _lanewise(lax.shift_right_arithmetic)


def clamp(value: Array, low: Operand, high: Operand) -> Array:
    """min(max(value, low), high), in the type of `value`: one operation, and none to spread scalars."""
    ends = [np.asarray(end, value.dtype) if isinstance(end, int) else end for end in (low, high)]
    shape = np.broadcast_shapes(value.shape, *(end.shape for end in ends))
    low, high = (spread(end, shape) for end in ends)
    return lax.clamp(low, _filled(value, shape), high)
