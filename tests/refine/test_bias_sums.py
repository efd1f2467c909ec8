"""Exact sums against Python's integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.refine.bias_sums import Totals, exact_limit, fixed_sums, float_sums
from knerex_jax.refine.spool import open_spool

HELD = np.arange(8) % 4 == 3


def totals_of(stats, positions, limit):
    totals = Totals(positions, limit)
    totals.add({k: np.asarray(v) for k, v in stats.items()}, HELD)
    return totals


@pytest.mark.parametrize(("shape", "axis"), [((8, 1, 3, 5, 7), 1), ((8, 1, 9, 3), 2), ((8, 1, 3), 1)])
def test_means_are_those_of_exact_integers(shape, axis):
    rng = np.random.default_rng(0)
    p = rng.integers(-(2**47), 2**47, shape)
    p[0] = 2**47 - 1  # sums far beyond 53 bits
    x = (rng.normal(size=shape) * 10.0 ** rng.integers(-9, 6, shape)).astype(np.float32)
    with jax.enable_x64(True):
        stats = jax.vmap(lambda p, x: fixed_sums(p, axis, 48) | float_sums(x, axis))(jnp.asarray(p), jnp.asarray(x))
    positions = int(np.prod(shape[1:])) // 3
    totals = totals_of(stats, positions, exact_limit(shape[1:], axis))
    assert totals.exact and list(totals.samples) == [6, 2]
    unit = np.array([1.5, 2.0**30, 3e-5])
    for group, chosen in ((0,), ~HELD), ((1,), HELD), ((0, 1), HELD | True):
        rows = [np.moveaxis(v[chosen], axis + 1, 0).reshape(3, -1) for v in (p, x)]
        fixed = [sum(map(int, row)) / rows[0].shape[1] for row in rows[0]]
        floats = [sum(int(np.rint(np.float64(v) * 2**24)) for v in row) / (len(row) << 24) for row in rows[1]]
        np.testing.assert_array_equal(totals.mean_error(group, unit), np.array(floats) - np.array(fixed) / unit)


def test_values_of_32_bits_take_one_part():
    p = np.random.default_rng(1).integers(-(2**31), 2**31, (8, 1, 2, 3, 3)).astype(np.int32)
    stats = jax.vmap(lambda p: fixed_sums(p, 1, 48))(p)
    assert stats["fixed"].shape == (8, 1, 3, 2) and stats["fixed"].dtype == jnp.int32
    limbs = np.asarray(stats["fixed"], np.int64)[:, 0]
    np.testing.assert_array_equal(limbs[:, 0] + (limbs[:, 1] << 24) + (limbs[:, 2] << 48), p.sum(axis=(1, 3, 4)))


@pytest.mark.parametrize("bad", [np.inf, np.nan, 2.0**28])
def test_what_cannot_be_summed_exactly_is_noticed(bad):
    x = np.ones((8, 1, 2, 2, 4), np.float32)
    x[5, 0, 1, 0, 2] = bad
    stats = jax.vmap(lambda x: fixed_sums(jnp.int32(x), 1, 32) | float_sums(x, 1))(jnp.asarray(x))
    assert not totals_of(stats, 8, exact_limit(x.shape[1:], 1)).exact


def test_a_spool_keeps_and_forgets():
    with open_spool(on_disk=True) as spool:
        spool.put("a", 0, jnp.arange(6).reshape(2, 3))
        spool.put("a", 1, np.zeros(4, np.int8))
        assert isinstance(spool.get("a", 0), np.memmap) and spool.tensors(1) == ["a"]
        np.testing.assert_array_equal(spool.get("a", 0), [[0, 1, 2], [3, 4, 5]])
        spool.drop("a", 0)
        assert (spool.size, spool.peak) == (4, 28) and len(list(spool.folder.iterdir())) == 1
        folder = spool.folder
    assert not folder.exists()
