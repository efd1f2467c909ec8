"""Products whose samples join the batch axis under `vmap`, instead of adding an axis of their own."""

from collections.abc import Callable, Sequence

from jax import Array, lax
from jax.custom_batching import custom_vmap


def joining(product: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Gives product(x [N, ...], weight) its rule under vmap: samples join N, weights of several plans are looped over.

    A convolution whose weights are batched would otherwise become a grouped one, which is many times slower, and a dot
    over more than two axes would be turned. A gradient needs a rule of its own.
    """
    mapped = custom_vmap(product)

    @mapped.def_vmap
    def _rule(size: int, batched: Sequence[bool], x: Array, weight: Array) -> tuple[Array, bool]:
        if not batched[1]:
            y = mapped(x.reshape(-1, *x.shape[2:]), weight)
            return y.reshape(size, -1, *y.shape[1:]), True
        if not batched[0]:
            return lax.map(lambda w: mapped(x, w), weight), True
        return lax.map(lambda both: mapped(*both), (x, weight)), True

    return mapped
