"""Transposed convolutions on the CPU, which has forms of its own, against XLA's dilation of the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.ops.conv_transpose import ConvTransposeAttrs, _transposed, conv_transpose_float

CASES = {
    "side by side": (ConvTransposeAttrs((2, 3), (2, 3), (1, 1), (0, 0, 0, 0)), 6, 5),
    "overlapping, odd pads": (ConvTransposeAttrs((4, 3), (2, 2), (1, 1), (1, 0, 2, 1)), 6, 5),
    "apart": (ConvTransposeAttrs((2, 2), (3, 2), (1, 1), (0, 0, 0, 0), 1, (2, 0)), 6, 5),
    "dilated": (ConvTransposeAttrs((2, 3), (2, 1), (2, 3), (0, 1, 1, 0)), 6, 5),
    "groups": (ConvTransposeAttrs((3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 3), 6, 4),
    "depthwise": (ConvTransposeAttrs((4, 4), (2, 2), (1, 1), (1, 1, 1, 1), 6), 6, 1),
    "cropped": (ConvTransposeAttrs((2, 2), (2, 2), (1, 1), (3, 2, 2, 3)), 6, 5),
    "line": (ConvTransposeAttrs((5,), (5,), (1,), (0, 0)), 6, 5),
    "overlapping line": (ConvTransposeAttrs((5,), (2,), (1,), (2, 1)), 6, 5),
    "volume": (ConvTransposeAttrs((2, 2, 1), (2, 2, 1), (1, 1, 1), (0,) * 6), 6, 5),
}


@pytest.mark.parametrize(("attrs", "inputs", "per_group"), CASES.values(), ids=CASES)
def test_every_form_gives_the_same_and_its_gradients(attrs, inputs, per_group):
    rng = np.random.default_rng(0)
    spatial = (5, 6, 3)[: len(attrs.kernel_shape)]
    x, w = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in ((3, inputs, *spatial), (inputs, per_group, *attrs.kernel_shape))
    )
    b = jnp.asarray(rng.normal(size=attrs.group * per_group), jnp.float32)

    def ours(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: conv_transpose_float(attrs, x[None], w, b)[0])(x)

    def dilated(x: jax.Array, w: jax.Array) -> jax.Array:
        return _transposed(x, w, attrs) + b.reshape(-1, *(1,) * len(spatial))

    def pulled(fn):
        return jax.jit(lambda x, w, g: (fn(x, w), *jax.vjp(fn, x, w)[1](g)))

    g = jnp.asarray(rng.normal(size=jax.eval_shape(dilated, x, w).shape), jnp.float32)
    for found, expected in zip(pulled(ours)(x, w, g), pulled(dilated)(x, w, g), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
