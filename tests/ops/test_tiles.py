"""Convolutions by tiles against XLA's own, in all the ways that the float model calls them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.ops.tiles import conv_by_tiles, tile_size, tiled_kernel

SAME = ((1, 1), (1, 1))
by_tiles = jax.jit(conv_by_tiles, static_argnums=2)


def reference(x, w, pads):
    """Sums in float64; x [N, H, W, I], w [O, I, 3, 3]."""
    padded = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    high, wide = (s - 2 for s in padded.shape[1:3])
    taps = [padded[:, i : i + high, j : j + wide] @ w[:, :, i, j].astype(np.float64).T for i, j in np.ndindex(3, 3)]
    return np.sum(taps, axis=0)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(
    ("size", "pads"),
    [((9, 8), SAME), ((2, 13), ((0, 2), (1, 0))), ((1, 1), ((2, 2), (1, 1))), ((12, 4), ((0, 0), (0, 0)))],
    ids=["odd and even", "one-sided", "a pixel", "no padding"],
)
def test_tiles_give_the_sums_of_a_convolution(size, pads, m):
    x, w = drawn(2, *size, 5), drawn(7, 5, 3, 3, seed=1)
    expected = reference(x, w, pads)
    found = by_tiles(x, tiled_kernel(w, m), pads)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_rounding_stays_near_that_of_a_convolution(m):
    x, w = np.maximum(drawn(2, 14, 14, 64), 0), drawn(64, 64, 3, 3, seed=1)
    expected = reference(x, w, SAME)
    error = np.asarray(by_tiles(x, tiled_kernel(w, m), SAME)) - expected
    direct = jax.lax.conv_general_dilated(
        x, w.transpose(2, 3, 1, 0), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    assert np.std(error) < 4 * np.std(direct - expected)


def test_samples_join_and_plans_are_looped_over():
    x, w = drawn(3, 2, 6, 7, 5), drawn(4, 5, 3, 3, seed=1)
    kernels = jnp.stack([tiled_kernel(w, 2), tiled_kernel(2 * w, 2)])
    expected = np.stack([reference(sample, w, SAME) for sample in x])

    def conv(x, kernel):
        return by_tiles(x, kernel, SAME)

    by_sample = jax.vmap(conv, (0, None))
    np.testing.assert_allclose(by_sample(x, kernels[0]), expected, atol=3e-5)
    dots = [e for e in jax.make_jaxpr(by_sample)(x, kernels[0]).jaxpr.eqns if "dot_general" in str(e)]
    assert "f32[16,72,5]" in str(dots)  # 16 dots of 3 samples, 2 images and 3 x 4 tiles each
    np.testing.assert_allclose(jax.vmap(conv, (None, 0))(x[0], kernels)[1], 2 * expected[0], atol=6e-5)
    np.testing.assert_allclose(jax.vmap(conv)(x[:2], kernels)[1], 2 * expected[1], atol=6e-5)


@pytest.mark.parametrize("m", [2, 4])
def test_gradients_are_those_of_the_sums(m):
    x, w = drawn(2, 6, 7, 3), drawn(4, 3, 3, 3, seed=1)
    g = drawn(2, 6, 7, 4, seed=2)

    def tiled(x, kernel):
        return jax.vmap(lambda x: conv_by_tiles(x[None], kernel, SAME)[0])(x)

    def direct(x):
        return jax.lax.conv_general_dilated(
            x, w.transpose(2, 3, 1, 0), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )

    kernel = jnp.asarray(tiled_kernel(w, m))
    y, pull = jax.vjp(tiled, jnp.asarray(x), kernel)
    to_x, to_kernel = pull(jnp.asarray(g))
    np.testing.assert_allclose(to_x, jax.vjp(direct, jnp.asarray(x))[1](jnp.asarray(g))[0], atol=1e-4)
    # The sums are linear in the kernel: its gradient times it is what they weigh.
    np.testing.assert_allclose(np.vdot(to_kernel, kernel), np.vdot(g, y), rtol=1e-4)


def test_tile_sizes():
    assert tile_size((56, 56), 64, 64) == 4
    assert tile_size((3, 3), 256, 256) == 3  # one tile
    assert tile_size((7, 7), 512, 512) == 2  # kernels of larger tiles leave the caches
    assert tile_size((56, 56), 12, 24) is None
    assert tile_size((7, 7), 2048, 2048) is None
