"""Convolutions with gradients of their own on a CPU: dots and sums tap by tap, and kernels in the order that is fast.

Inside a loop XLA computes a convolution whose operands lie in another order, as in the gradients of one, number by
number (5 GFLOP/s); elsewhere it is slow with them, too (16 channels at 32x32, two samples: 1.7 ms, here 0.4).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.ops.window import padded_sizes, under_taps
from knerex_jax.program.primitives import Window


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolution(w: Window, x: Array, kernel: Array) -> Array:
    """A convolution of x [N, *spatial, C] with a kernel [*kernel, C, O]; float32, [N, *spatial, O]."""
    return convolved(x, kernel, w.strides, w.pads, rhs_dilation=w.dilations)


def convolved(x: Array, kernel: Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...], **more) -> Array:
    """XLA's convolution in its fastest layout: x [N, *spatial, C], kernel [*kernel, C/group, O]."""
    letters = "DHW"[-len(strides) :]
    dims = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=dims, precision=lax.Precision.HIGHEST, **more
    )


def _convolution_bwd(w: Window, held: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(
        *held, g, cpu=lambda x, kernel, g: (_to_input(w, x, kernel, g), _to_kernel(w, x, g)),
        default=lambda x, kernel, g: jax.vjp(partial(convolution.__wrapped__, w), x, kernel)[1](g),
    )  # fmt: skip


convolution.defvjp(lambda w, x, kernel: (convolution(w, x, kernel), (x, kernel)), _convolution_bwd)


def _to_input(w: Window, x: Array, kernel: Array, g: Array) -> Array:
    """The kernel turned over, along the gradients with zeros between them for a stride."""
    turned = lax.rev(jnp.swapaxes(kernel, -1, -2), range(kernel.ndim - 2))
    pads = []
    for size, made, k, s, d, (begin, _) in zip(
        x.shape[1:-1], g.shape[1:-1], w.kernel, w.strides, w.dilations, w.pads, strict=True
    ):
        reach = (k - 1) * d
        before = reach - begin
        pads.append((before, size + reach - ((made - 1) * s + 1) - before))
    # Behind a barrier: turned within the convolution its operands would be in another order.
    return convolved(
        g, lax.optimization_barrier(turned), (1,) * len(pads), tuple(pads), lhs_dilation=w.strides,
        rhs_dilation=w.dilations,
    )  # fmt: skip


def _to_kernel(w: Window, x: Array, g: Array) -> Array:
    """One dot for every tap: all pixels of a channel under it with all gradients of an output channel."""
    first = jnp.moveaxis(jnp.pad(x, [(0, 0), *w.pads, (0, 0)]), -1, 0)
    gradients = g.reshape(-1, g.shape[-1])

    def one(part: Array) -> Array:
        return lax.dot(part.reshape(len(part), -1), gradients, precision=lax.Precision.HIGHEST)

    return _each_tap(w, first, 2, one).reshape(*w.kernel, x.shape[-1], g.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_taps(w: Window, x: Array, weights: Array) -> Array:
    """The sum over all taps of a depthwise window; x [N, *spatial, C], padded, weights [taps, C]."""
    total = None
    for weight, part in zip(weights, under_taps(x, w), strict=True):
        total = part * weight if total is None else total + part * weight
    assert total is not None
    return total


def _weighted_taps_bwd(w: Window, held: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, weights = held
    (to_x,) = jax.linear_transpose(lambda x: weighted_taps.__wrapped__(w, x, weights), x)(g)

    def one(part: Array) -> Array:
        # Products behind a barrier: summed while they are made they take twice the time.
        return jnp.sum(lax.optimization_barrier(part * g), axis=range(g.ndim - 1))

    return to_x, _each_tap(w, x, 1, one)


weighted_taps.defvjp(lambda w, x, weights: (weighted_taps(w, x, weights), (x, weights)), _weighted_taps_bwd)


def _each_tap(w: Window, x: Array, at: int, one: Callable[[Array], Array]) -> Array:
    """What `one` makes of the elements under every tap: [taps, ...].

    In a loop: unrolled, every tap would keep a copy of x and be compiled for itself.

    Args:
      w: the window.
      x: padded; its spatial axes begin at axis `at`.
      at: an axis.
      one: a function of the elements under one tap, like x but with the sizes of the result.
    """
    sizes = padded_sizes(x.shape[at : at + len(w.kernel)], w)
    starts = np.zeros((int(np.prod(w.kernel)), x.ndim), np.int32)
    starts[:, at : at + len(sizes)] = np.array([*np.ndindex(*w.kernel)]) * np.array(w.dilations)
    spans, steps = list(x.shape), [1] * x.ndim
    for k, (o, s) in enumerate(zip(sizes, w.strides, strict=True)):
        spans[at + k], steps[at + k] = (o - 1) * s + 1, s

    def part(start: Array) -> Array:
        under = lax.dynamic_slice(x, list(start), spans)
        return one(lax.slice(under, (0,) * x.ndim, spans, steps))

    return lax.map(part, jnp.asarray(starts))
