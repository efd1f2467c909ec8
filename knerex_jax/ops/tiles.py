"""Convolutions of 3 x 3 with stride 1 by tiles: Winograd's minimal filtering, in float32 only.

m x m outputs of a tile need (m + 2)**2 products for each pair of channels instead of 9 m**2: the tile of the input and
the kernel are evaluated as polynomials at m + 1 points and at infinity, multiplied there, and the outputs are read from
the products. Its sums differ from those of a convolution by rounding: root mean square against sums in float64, 3x3,
128 channels: convolution 3.6e-7, m = 2 3.0e-7, m = 3 1.0e-6, m = 4 1.2e-6 of theirs. An infinity or NaN reaches all
outputs of its tiles. Codes are never computed this way (contract, section 4).

Source: Cook-Toom in the transposed form of Winograd, "Arithmetic complexity of computations" (1980); for networks Lavin
and Gray, "Fast algorithms for convolutional neural networks" (2015).
"""

import functools
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.ops.joining import joining

Pads = tuple[tuple[int, int], ...]

KERNEL = 3

# Points with small powers keep the error small; 1/2 and -2 together are better than 2 and -2 (0.9e-6 against 1.4e-6).
_POINTS = {2: (0.0, 1.0, -1.0), 3: (0.0, 1.0, -1.0, 2.0), 4: (0.0, 1.0, -1.0, 0.5, -2.0)}

# Bytes of a transformed kernel up to which it stays in the caches (512 channels, 7x7: m = 4 is slower than m = 2).
_MOST_BYTES = 20 << 20

# Products per evaluated number, inputs * outputs / (inputs + outputs), from which tiles pay (24 -> 24 channels gain
# nothing, 96 -> 24 a tenth).
_LEAST_CHANNELS = 20


def tile_size(out: Sequence[int], inputs: int, outputs: int) -> int | None:
    """The edge m of the tiles that are fastest for [*out] pixels, by products and reading the kernel; None: no gain."""
    if inputs * outputs < _LEAST_CHANNELS * (inputs + outputs):
        return None

    def cost(m: int) -> int:
        return (m + KERNEL - 1) ** 2 * (-(-out[0] // m) * -(-out[1] // m) + 1)

    fitting = [m for m in _POINTS if 4 * (m + KERNEL - 1) ** 2 * inputs * outputs <= _MOST_BYTES]
    return min(fitting, key=cost, default=None)


@functools.cache
def _matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(of the outputs [m, t], of the kernel [t, 3], of the input [t, t]), float64, t = m + 2: exact but for thirds."""
    points = _POINTS[m]
    t = len(points) + 1
    outputs, kernel, inputs = np.zeros((m, t)), np.zeros((t, KERNEL)), np.zeros((t, t))
    outputs[-1, -1] = kernel[-1, -1] = 1  # infinity
    inputs[-1] = np.poly(points)[::-1]
    for k, p in enumerate(points):
        others = [q for q in points if q != p]
        outputs[:, k], kernel[k] = p ** np.arange(m), p ** np.arange(KERNEL) / np.prod(p - np.array(others))
        inputs[k, :-1] = np.poly(others)[::-1]
    return outputs, kernel, inputs


def tiled_kernel(w: np.ndarray, m: int) -> np.ndarray:
    """The kernel [O, I, 3, 3] as tiles of m x m outputs multiply it: float32 [t, t, I, O]."""
    kernel = _matrices(m)[1]
    lines = np.tensordot(kernel, w.astype(np.float64), (1, 2))  # [t, O, I, 3]
    return np.ascontiguousarray(np.tensordot(lines, kernel, (3, 1)).transpose(0, 3, 2, 1), np.float32)


def conv_by_tiles(x: Array, kernel: Array, pads: Pads) -> Array:
    """A 3 x 3 convolution of x [N, H, W, I] with a kernel of `tiled_kernel`, zeros around the input; [N, H', W', O]."""
    return _by_tiles(pads)(x, kernel)


@lru_cache(maxsize=1024)
def _by_tiles(pads: Pads) -> Any:
    plain = functools.partial(_plain, pads)
    # Under vmap the dots would have two axes of rows, of which one has to be turned: 1.4 times the time.
    joined = joining(plain)
    made = jax.custom_vjp(joined)
    made.defvjp(lambda x, kernel: (joined(x, kernel), (x, kernel)), lambda held, g: jax.vjp(plain, *held)[1](g))
    return made


def _plain(pads: Pads, x: Array, kernel: Array) -> Array:
    t = len(kernel)
    m = t - KERNEL + 1
    n, channels = len(x), x.shape[-1]
    of_output, _, of_input = _matrices(m)
    high, wide = (size + sum(p) - KERNEL + 1 for size, p in zip(x.shape[1:3], pads, strict=True))
    down, across = -(-high // m), -(-wide // m)
    # A tile reaches two lines into the next one, so there is one more than there are outputs for.
    config = [
        (begin, (k + 1) * m - begin - size, 0)
        for size, (begin, _), k in zip(x.shape[1:3], pads, (down, across), strict=True)
    ]
    # Behind the barrier what precedes is computed once, not for every line of a tile.
    x = lax.optimization_barrier(lax.pad(x, np.float32(0), [(0, 0, 0), *config, (0, 0, 0)]))
    columns = x.reshape(n, (down + 1) * m, across + 1, m, channels)
    x = jnp.stack(_combined(of_input, [columns[:, :, k // m :][:, :, :across, k % m] for k in range(t)]))
    lines = x.reshape(t, n, down + 1, m, across, channels)
    x = jnp.stack(_combined(of_input, [lines[:, :, k // m :][:, :, :down, k % m] for k in range(t)]))
    y = lax.dot_general(
        x.reshape(t * t, -1, channels), kernel.reshape(t * t, channels, -1), (((2,), (1,)), ((0,), (0,))),
        precision=lax.Precision.HIGHEST,
    ).reshape(t, t, n, down, across, -1)  # fmt: skip
    y = jnp.stack(_combined(of_output, list(y)), axis=3)  # [t, N, down, m, across, O]
    y = jnp.stack(_combined(of_output, list(y)), axis=4)
    return y.reshape(n, down * m, across * m, -1)[:, :high, :wide]


def _combined(rows: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """The sums `rows @ parts`, with no operation for zeros and ones."""
    terms = [[(c, p) for c, p in zip(row, parts, strict=True) if c] for row in rows]
    return [functools.reduce(operator.add, [p if c == 1 else p * np.float32(c) for c, p in held]) for held in terms]
