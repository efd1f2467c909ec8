"""Images with their channels last, as convolutions of a CPU read them, and what is computed once."""

from jax import Array, lax


def channels_last(x: Array) -> Array:
    """[N, C, *spatial] -> [N, *spatial, C]."""
    return lax.transpose(x, (0, *range(2, x.ndim), 1))


def channels_first(x: Array) -> Array:
    """[N, *spatial, C] -> [N, C, *spatial]."""
    return lax.transpose(x, (0, x.ndim - 1, *range(1, x.ndim - 1)))


def stored(x: Array) -> Array:
    """Values behind a barrier: what makes them is computed once, however many others read them.

    Without it the compiler would compute them again for each reader, along a chain of residual sums again and again.
    A barrier fixes the layout: channels last, like the operands of convolutions.
    """
    return channels_first(lax.optimization_barrier(channels_last(x))) if x.ndim > 2 else lax.optimization_barrier(x)
