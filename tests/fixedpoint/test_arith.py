"""The integer steps against Python's unbounded integers, at ties, limits and extreme shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.fixedpoint import arith

EDGES = [0, 1, -1, 2, -2, 3, -3, 127, -128, 2**14, -(2**14), 65535, -65536, 2**30, -(2**30), 2**31 - 1, -(2**31)]
SHIFTS = np.arange(-16, 63)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def shr(a, n):
    return (a + (1 << (n - 1))) >> n if n > 0 else a << -n


def sat(a, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, a))


def grid(values, *others):
    return [np.asarray(a).reshape(-1) for a in np.meshgrid(np.asarray(values, np.int64), *others, indexing="ij")]


def test_shr_of_int32_for_every_shift():
    rng = np.random.default_rng(0)
    v, n = grid([*EDGES, *rng.integers(-(2**31), 2**31, 40), *rng.integers(-300, 300, 40)], SHIFTS)
    got = np.asarray(jax.jit(arith.shr)(v.astype(np.int32), n.astype(np.int32)))
    for bits in (8, 15, 16):
        want = [sat(shr(int(a), int(k)), bits) for a, k in zip(v, n, strict=True)]
        np.testing.assert_array_equal([sat(int(g), bits) for g in got], want)
    fits = np.asarray([-(2**31) <= shr(int(a), int(k)) < 2**31 for a, k in zip(v, n, strict=True)])
    np.testing.assert_array_equal(got[fits], [shr(int(a), int(k)) for a, k in zip(v[fits], n[fits], strict=True)])


def test_shr_of_int64_inside_a_caller_s_step_without_64_bit_types():
    rng = np.random.default_rng(1)
    v, n = grid([2**47 - 1, -(2**47), 2**60, -(2**60) + 1, *rng.integers(-(2**47), 2**47, 60)], SHIFTS)
    high, low = (v >> 30).astype(np.int32), (v & (2**30 - 1)).astype(np.int32)

    @jax.jit
    def step(high, low, n):
        with arith.exact64():
            y = arith.shr((arith.to_int64(high) << 30) + arith.to_int64(low), n)
            return arith.saturate(y, 15), arith.saturate_psum(y, 48) >> 24

    assert not jax.config.jax_enable_x64
    small, wide = step(high, low, n.astype(np.int32))
    want = [shr(int(a), int(k)) for a, k in zip(v, n, strict=True)]
    np.testing.assert_array_equal(small, [sat(y, 15) for y in want])
    np.testing.assert_array_equal(np.asarray(wide), [sat(y, 48) >> 24 for y in want])


def test_int64_outside_its_context_is_refused():
    with pytest.raises(AssertionError, match="exact64"), pytest.warns(UserWarning):
        arith.to_int64(jnp.zeros(3, jnp.int32))


def test_ties_go_toward_plus_infinity():
    np.testing.assert_array_equal(arith.shr(jnp.asarray([-3, -1, 1, 3], jnp.int32), jnp.int32(1)), [-1, 0, 1, 2])


def test_add_shr_is_shr_within_its_bound():
    rng = np.random.default_rng(2)
    v, n = grid([2**30 - 1, 1 - 2**30, 0, -1, 1, *rng.integers(1 - 2**30, 2**30, 60)], np.arange(0, 63))
    c = arith.shift_constants(n)
    got = jax.jit(arith.add_shr)(v.astype(np.int32), c["right"], c["round"])
    np.testing.assert_array_equal(got, [shr(int(a), int(k)) for a, k in zip(v, n, strict=True)])


def near_ties(m, n, rng):
    """Integers p whose product with m lies beside a tie of the shift n, inside and at the ends of 8 and 15 bits."""
    codes = np.concatenate([rng.integers(-130, 130, 8), rng.integers(-16400, 16400, 8)])
    middle = np.clip(np.floor((codes + 0.5) * 2.0**n / max(m, 1)), -(2**32), 2**32).astype(np.int64)
    p = (middle[:, None] + np.arange(-2, 3)).reshape(-1)
    return p[(p >= -(2**31)) & (p < 2**31)]


def test_products_without_64_bits_at_near_ties_and_every_shift():
    rng = np.random.default_rng(3)
    ps, ms, ns = [], [], []
    for n in SHIFTS:
        for m in (1 << 14, (1 << 15) - 1, *rng.integers(1 << 14, 1 << 15, 4), 1, 3, 0):
            p = np.concatenate([EDGES, near_ties(m, max(n, 0), rng)])
            ps.append(p), ms.append(np.full(len(p), m)), ns.append(np.full(len(p), n))
    p, m, n = (np.concatenate(a).astype(np.int64) for a in (ps, ms, ns))
    c = arith.multiplier_constants(m, n)
    assert all(a.dtype == np.int32 for a in c.values())

    @jax.jit
    def step(p, c):
        y = arith.multiply_shr(arith.prescale(p, c["pre"]), c["m"], c["round"], c["right"])
        with arith.exact64():
            wide = arith.multiply_shr64(p, c["m"], c["n"])
            return [(arith.saturate(y, b), arith.saturate(wide, b)) for b in (8, 15)]

    for bits, (narrow, wide) in zip((8, 15), step(p.astype(np.int32), c), strict=True):
        want = [sat(shr(int(a) * int(b), int(k)), bits) for a, b, k in zip(p, m, n, strict=True)]
        np.testing.assert_array_equal(narrow, want)
        np.testing.assert_array_equal(wide, want)
    # Without the shift in advance where no shift is below 17.
    large = n >= 17
    got = arith.multiply_shr(*(a[large].astype(np.int32) for a in (p, c["m"], c["round"], c["right"])))
    want = [sat(shr(int(a) * int(b), int(k)), 15) for a, b, k in zip(p[large], m[large], n[large], strict=True)]
    np.testing.assert_array_equal(arith.saturate(jnp.asarray(got), 15), want)


def test_float32_would_round_some_of_these_products_wrongly():
    """The near ties above are near enough to tell an exact method from a good one."""
    rng = np.random.default_rng(4)
    wrong = 0
    for m in rng.integers(1 << 14, 1 << 15, 50):
        p = near_ties(m, 30, rng)
        exact = np.asarray([shr(int(a) * int(m), 30) for a in p])
        approximate = np.floor(p.astype(np.float32) * np.float32(m * 2.0**-30) + np.float32(0.5))
        wrong += (exact != approximate).sum()
    assert wrong > 0


def test_48_bits_as_pairs():
    v = np.asarray([0, 1, -1, 2**47 - 1, -(2**47), 2**31, -(2**31), 123456789012], np.int64)
    pair = arith.split48(v)
    assert pair.dtype == np.int32
    with arith.exact64():
        np.testing.assert_array_equal(arith.join48(jnp.asarray(pair), True), v)
    narrow = v[np.abs(v) < 2**31]
    np.testing.assert_array_equal(arith.join48(jnp.asarray(arith.split48(narrow)), False), narrow)


def test_exact_shr_on_the_host():
    v, n = grid([*EDGES, 2**45, -(2**45)], SHIFTS)
    np.testing.assert_array_equal(arith.exact_shr(v, n), [shr(int(a), int(k)) for a, k in zip(v, n, strict=True)])


@pytest.mark.parametrize("bits", [8, 15])
def test_saturation_is_idempotent_and_monotonic(bits):
    v = jnp.asarray(np.sort(np.random.default_rng(5).integers(-(2**20), 2**20, 500)), jnp.int32)
    once = arith.saturate(v, bits)
    assert once.dtype == arith.code_dtype(bits)
    np.testing.assert_array_equal(arith.saturate(once.astype(jnp.int32), bits), once)
    assert (np.diff(np.asarray(once, np.int64)) >= 0).all()
