"""Gradients of convolutions on the CPU, whose own forms have rules of their own, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.ops.conv import ConvAttrs, conv_float


@pytest.mark.parametrize(
    ("window", "multiple"),
    [
        (ConvAttrs((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 5), 1),
        (ConvAttrs((3, 3), (2, 2), (1, 1), (0, 0, 1, 1), 5), 1),
        (ConvAttrs((2, 3), (1, 2), (2, 1), (1, 0, 0, 2), 5), 2),
        (ConvAttrs((4,), (3,), (1,), (1, 1), 5), 1),
    ],
    ids=["plain", "strided", "dilated, two each", "line"],
)
def test_depthwise_gradients_are_those_of_a_grouped_convolution(window, multiple):
    agree_with_xla(window, (3, 5, *(9, 8)[: len(window.kernel_shape)]), (5 * multiple, 1, *window.kernel_shape))


@pytest.mark.parametrize(
    "window",
    [
        ConvAttrs((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ConvAttrs((3, 2), (2, 3), (1, 1), (0, 1, 2, 0)),
        ConvAttrs((2, 3), (1, 2), (3, 2), (4, 0, 0, 5)),
        ConvAttrs((1, 1), (2, 2), (1, 1), (2, 0, 1, 0)),
        ConvAttrs((5,), (2,), (1,), (2, 2)),
        ConvAttrs((2, 2, 3), (1, 2, 1), (1, 1, 2), (0, 1, 0, 1, 0, 2)),
        ConvAttrs((3, 3), (1, 2), (1, 1), (1, 1, 1, 1), 2),
    ],
    ids=["plain", "strided", "dilated", "pads beyond the kernel", "line", "volume", "two groups"],
)
def test_gradients_are_those_of_a_convolution(window):
    channels = 6 // window.group
    # More pixels than those that are computed as one dot over patches.
    spatial = {1: (150,), 2: (21, 19), 3: (11, 9, 8)}[len(window.kernel_shape)]
    agree_with_xla(window, (3, 6, *spatial), (4, channels, *window.kernel_shape))


def agree_with_xla(window: ConvAttrs, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    """Results and both gradients, of samples under `vmap` on our side."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (x_shape, w_shape))

    def xla(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, w, window.strides, window.window.pads, rhs_dilation=window.dilations,
            feature_group_count=window.group, precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip

    def ours(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: conv_float(window, x[None], w)[0])(x)

    def pulled(fn):
        return jax.jit(lambda x, w, g: (fn(x, w), *jax.vjp(fn, x, w)[1](g)))

    g = jnp.asarray(rng.normal(size=jax.eval_shape(xla, x, w).shape), jnp.float32)
    for found, expected in zip(pulled(ours)(x, w, g), pulled(xla)(x, w, g), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
