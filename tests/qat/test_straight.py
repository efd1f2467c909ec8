"""Straight-through rules against central differences of what they stand for: rounding adds a constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.qat.straight import code_data, weight_slopes

LOW, HIGH = -8, 7


def differences(fn, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient of a scalar function by central differences, float64."""
    slope = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = [at.copy(), at.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        slope[place] = (fn(moved[0]) - fn(moved[1])) / (2 * step)
    return slope


def data_case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values far beyond, just inside and just outside both ends, and a gradient; per-channel factors."""
    rng = np.random.default_rng(0)
    factor = np.array([[1.7], [0.4], [5.0]])
    codes = np.concatenate([rng.uniform(-12, 12, (3, 40)), np.full((3, 1), 7.4), np.full((3, 1), -8.6)], axis=1)
    x = codes / factor
    value = np.clip(np.rint(codes), LOW, HIGH) / factor
    return x, factor, value, rng.normal(size=x.shape)


def test_data_rule_is_the_gradient_with_constant_rounding():
    x, factor, value, g = data_case()
    codes, final = x * factor, value * factor
    inside = (codes > LOW - 0.5) & (codes < HIGH + 0.5)
    assert 0 < inside.sum() < inside.size

    def stands_for(x: np.ndarray, factor: np.ndarray) -> float:
        made = np.where(inside, (x * factor + (final - codes)) / factor, final / factor)
        return float((g * made).sum())

    low, high = jnp.float32(LOW), jnp.float32(HIGH)
    args = [jnp.asarray(a, jnp.float32) for a in (x, factor)]
    made, back = jax.vjp(lambda x, f: code_data(x, f, low, high, jnp.asarray(value, jnp.float32)), *args)
    np.testing.assert_array_equal(made, value.astype(np.float32))
    to_x, to_factor = back(jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(to_x, differences(lambda v: stands_for(v, factor), x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_factor, differences(lambda v: stands_for(x, v), factor), rtol=1e-4, atol=1e-4)


def test_data_rule_is_the_same_inside_vmap():
    x, factor, value, g = (a.astype(np.float32) for a in data_case())

    def total(factor: jax.Array, mapped: bool) -> jax.Array:
        def one(x, value):
            return code_data(x, factor[:, 0], jnp.float32(LOW), jnp.float32(HIGH), value)

        if mapped:
            made = jax.vmap(one, (1, 1), 1)(x, value)
        else:
            made = code_data(x, factor, jnp.float32(LOW), jnp.float32(HIGH), value)
        return jnp.sum(g * made)

    mapped, whole = (jax.grad(total)(jnp.asarray(factor), flag) for flag in (True, False))
    np.testing.assert_allclose(mapped, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_data_rule_gives_finite_gradients_for_values_that_are_not(bad):
    x = jnp.array([bad, 1.0], jnp.float32)
    slopes = jax.grad(
        lambda x, f: code_data(x, f, jnp.float32(LOW), jnp.float32(HIGH), jnp.array([7.0, 1.0])).sum(), (0, 1)
    )(x, jnp.array([1.0, 1.0], jnp.float32))
    assert all(np.isfinite(s).all() for s in slopes)
    assert slopes[0][0] == 0 and slopes[0][1] == 1


def test_weight_rule_is_the_gradient_with_constant_rounding():
    rng = np.random.default_rng(1)
    weight, g = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 2))
    factor = rng.uniform(0.5, 2, (3, 4, 1))
    largest = np.abs(weight / factor).max(axis=(1, 2), keepdims=True)
    profile, limit = largest * factor, 7
    # The first channel clips a lot, the second a little, the third nothing: there the largest weight sets the step.
    clip = np.array([-1.0, -0.2, 0.3])

    def parts(weight: np.ndarray, clip: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bound = np.exp2(clip)[:, None, None] * profile
        held = np.clip(weight, -bound, bound)
        return held, np.abs(held / factor).max(axis=(1, 2), keepdims=True) / limit * factor

    held, step = parts(weight, clip, factor)
    assert (np.abs(weight) > np.abs(held)).any(axis=(1, 2)).tolist() == [True, True, False]
    rounding = np.rint(held / step) - held / step

    def stands_for(weight: np.ndarray, clip: np.ndarray, factor: np.ndarray) -> float:
        held, step = parts(weight, clip, factor)
        return float((g * (held / step + rounding) * step).sum())

    args = [a.astype(np.float32) for a in (g, weight, clip, profile, factor, step)]
    slopes = weight_slopes(*args, limit)
    places = [weight, clip, factor]
    for k, slope in enumerate(slopes):
        wanted = differences(lambda v, k=k: stands_for(*(v if j == k else p for j, p in enumerate(places))), places[k])
        # Where several weights are clipped, all of them set the step: it has no slope in the factor of one alone.
        chosen = slice(2, None) if k == 2 else slice(None)
        np.testing.assert_allclose(slope[chosen], wanted[chosen], rtol=2e-3, atol=2e-3)
    assert np.abs(slopes[1][:2]).min() > 0 and slopes[1][2] == 0
