"""Exact sums against Python's integers."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knerex_jax.emulator.methods import Method
from knerex_jax.program.primitives import Mac, Window
from knerex_jax.refine.bias_sums import (
    LARGEST,
    accumulator_sums,
    code_sums,
    float_sums,
    group_sums,
    is_linear,
    largest_sum,
    piece_bits,
    piece_products,
    weight_rows,
)
from knerex_jax.refine.bias_totals import Totals, joined, products, whole, with_bias
from knerex_jax.refine.spool import open_spool

HELD = np.arange(8) % 3 == 1
GROUPS = np.stack([~HELD, HELD]).astype(np.int32)


def by_group(fn, *arrays):
    """Sums of 8 samples by group, as a pass makes them."""
    return whole(np.asarray(jax.jit(lambda *a: group_sums(jax.vmap(fn)(*a), GROUPS))(*arrays)))


def python_sums(values, axis, group):
    """Sums of the group's samples over everything but `axis` of a sample, Python's integers."""
    rows = np.moveaxis(values[group], axis + 1, 0).reshape(values.shape[axis + 1], -1)
    return [sum(map(int, row)) for row in rows]


@pytest.mark.parametrize(("shape", "axis"), [((8, 1, 3, 5, 7), 1), ((8, 1, 9, 3), 2), ((8, 1, 3), 1)])
def test_means_are_those_of_exact_integers(shape, axis):
    rng = np.random.default_rng(0)
    p = rng.integers(-(2**47), 2**47, shape)
    p[0] = 2**47 - 1  # sums beyond 53 bits
    x = (rng.normal(size=shape) * 10.0 ** rng.integers(-9, 6, shape)).astype(np.float32)
    x = np.where(np.abs(x) < LARGEST, x, np.float32(-LARGEST / 2))
    with jax.enable_x64(True):
        fixed = by_group(lambda p: accumulator_sums(p, axis), p)
    floats = by_group(lambda x: float_sums(x, axis), x)
    assert not fixed[:, -1].any() and not floats[:, -1].any()
    each = int(np.prod(shape[1:])) // 3
    found = [(joined(v[0, :-1]), joined(v[1, :-1])) for v in (fixed, floats)]
    totals = Totals((5 * each, 3 * each), *found)
    unit = np.array([1.5, 2.0**30, 3e-5])
    codes = np.rint(x.astype(np.float64) * 2**24).astype(np.int64)
    for group, chosen in ((0,), ~HELD), ((1,), HELD), ((0, 1), HELD | True):
        count = int(chosen.sum()) * each
        real = np.array([s / (count << 24) for s in python_sums(codes, axis, chosen)])
        integer = np.array([s / count for s in python_sums(p, axis, chosen)])
        np.testing.assert_array_equal(totals.mean_error(group, unit), real - integer / unit)


def test_floats_are_clipped_to_what_partial_sums_hold():
    x = np.random.default_rng(1).normal(size=(8, 1, 2, 3, 5)).astype(np.float32)
    reach = np.float32([[-0.5, -2.0], [0.25, 0.75]])
    floats = by_group(lambda x: float_sums(x, 1, reach), x)
    held = np.clip(x, *reach.reshape(2, 1, 2, 1, 1))
    codes = np.rint(held.astype(np.float64) * 2**24).astype(np.int64)
    for k, chosen in enumerate((~HELD, HELD)):
        assert list(joined(floats[k, :-1])) == python_sums(codes, 1, chosen)


def test_what_cannot_be_summed_exactly_is_noticed():
    x = np.ones((8, 1, 6, 2, 4), np.float32)
    for channel, bad in enumerate([np.inf, -np.inf, np.nan, LARGEST, -LARGEST]):
        x[5, 0, channel, 0, 2] = bad
    floats = by_group(lambda x: float_sums(x, 1), x)
    assert list(floats[:, -1].sum(axis=0)) == [1] * 5 + [0]
    assert joined(floats[int(HELD[5]), :-1])[5] == int(GROUPS[int(HELD[5])].sum()) * 8 << 24


def mac(kind, window=None, group=1, axis=1, bits=8):
    return Mac(
        name="m", inputs=("x",), output="y", nodes=("m",), bits=8, axis=axis, kind=kind, window=window, group=group,
        x_bits=bits, weight_bits=bits, psum_bits=32, post_multiplier=True,
    )  # fmt: skip


def convolved_totals(x, weight, bias, window, group):
    """Sums of p over positions, int64 [O], by a loop over every product; x [C, H, W]."""
    sizes = [
        (n + b + e - (k - 1) * d - 1) // s + 1
        for n, k, s, d, (b, e) in zip(
            x.shape[1:], window.kernel, window.strides, window.dilations, window.pads, strict=True
        )
    ]
    per, taken = len(weight) // group, weight.shape[1]
    found = bias.astype(np.int64) * int(np.prod(sizes))
    for place in product(*map(range, sizes)):
        for tap in product(*map(range, window.kernel)):
            at = [
                p * s + t * d - b
                for p, s, t, d, (b, _) in zip(place, window.strides, tap, window.dilations, window.pads, strict=True)
            ]
            if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
                for o in range(len(weight)):
                    first = o // per * taken
                    found[o] += weight[(o, slice(None), *tap)].astype(np.int64) @ x[(slice(first, first + taken), *at)]
    return found


WINDOWS = [
    (Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), 1),
    (Window((3, 2), (2, 3), (1, 2), ((0, 1), (2, 0))), 4),
    (Window((1, 1), (2, 2), (1, 1), ((0, 0), (0, 0))), 2),
    (Window((5, 3), (4, 1), (3, 5), ((6, 7), (4, 3))), 1),
]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(("window", "group"), WINDOWS)
def test_sums_of_codes_give_those_of_accumulators(window, group, images):
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 128, (8, images, 4, 9, 7)).astype(np.int8)
    weight = rng.integers(-127, 128, (8, 4 // group, *window.kernel)).astype(np.int8)
    bias = rng.integers(-(2**30), 2**30, 8).astype(np.int32)
    i = mac("conv", window, group)
    sums = by_group(lambda x: code_sums(x, i), x)
    each = [sum(convolved_totals(v.astype(np.int64), weight, bias, window, group) for v in sample) for sample in x]
    positions = images * (convolved_totals(x[0, 0] * 0, weight, bias, window, group) // bias)[0]
    counts = [int(positions * g.sum()) for g in GROUPS]
    for total, chosen in zip(with_bias(products(i, weight, sums), bias, counts), (~HELD, HELD), strict=True):
        np.testing.assert_array_equal(total, np.sum(each, axis=0, where=chosen[:, None]))


def test_sums_of_codes_of_dense_and_diagonal_nodes():
    rng = np.random.default_rng(3)
    x = rng.integers(-128, 128, (8, 1, 11, 5)).astype(np.int8)
    bias = rng.integers(-(2**40), 2**40, 5)
    counts = [int(g.sum()) * 11 for g in GROUPS]
    for i, weight in (
        (mac("dense", axis=2), rng.integers(-127, 128, (5, 5)).astype(np.int8)),
        (mac("diagonal", axis=2), rng.integers(-127, 128, 5).astype(np.int8)),
    ):
        sums = by_group(lambda x, i=i: code_sums(x, i), x)
        matrix = weight.astype(np.int64) if i.kind == "dense" else np.diag(weight.astype(np.int64))
        p = x[:, 0].astype(np.int64) @ matrix.T + bias
        for total, chosen in zip(with_bias(products(i, weight, sums), bias, counts), (~HELD, HELD), strict=True):
            np.testing.assert_array_equal(total, p[chosen].sum(axis=(0, 1)))


@pytest.mark.parametrize("bits", [8, 15])
@pytest.mark.parametrize(
    ("kind", "shape", "group"), [("conv", (6, 5, 3, 3), 2), ("dense", (7, 300), 1), ("diagonal", (5,), 1)]
)
def test_products_in_pieces_are_exact(bits, kind, shape, group):
    rng = np.random.default_rng(4)
    window = Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0))) if kind == "conv" else None
    i, top = mac(kind, window, group, axis=1, bits=bits), 2 ** (bits - 1)
    weight = rng.choice([-top, top - 1, 3], shape).astype(np.int8 if bits == 8 else np.int16)
    taken = shape if kind == "diagonal" else (shape[1] * group, *shape[2:])
    largest = 8 * largest_sum(i, (1, taken[0], 64, 64) if window else (1, taken[0]))
    sums = rng.choice([-largest, largest, -1, 0, largest // 3], (2, *taken))
    halves = np.stack([sums & 0xFFFF, sums >> 16]).astype(np.int32)
    rows = weight_rows(i, weight)
    pieces = jax.jit(lambda w, h: piece_products(i, w, h, largest))(rows, halves)
    assert piece_bits(i, rows) > 0 and pieces.dtype == np.int32
    matrix = np.diag(weight) if kind == "diagonal" else weight.reshape(len(weight), -1)
    for g in range(2):
        parts = sums[g].reshape(group, -1)
        read = [parts[o * group // len(weight)] for o in range(len(weight))]
        expected = [sum(int(a) * int(b) for a, b in zip(*rows, strict=True)) for rows in zip(matrix, read, strict=True)]
        assert list(joined(np.asarray(pieces, np.int64)[g], piece_bits(i, rows))) == expected
        assert list(products(i, weight, sums)[g]) == expected


def test_totals_beyond_64_bits_stay_exact():
    sums = np.full((1, 3), 2**45)
    weight, bias = np.full((2, 3), -16383, np.int16), np.full(2, 2**46)
    (total,) = with_bias(products(mac("dense", bits=15), weight, sums), bias, [2**30])
    assert list(total) == [3 * 2**45 * -16383 + 2**76] * 2
    assert Totals((2**30, 0), (total, total), (total, total)).mean_error((0,), np.ones(2))[0] == (
        int(total[0]) / 2**54 - int(total[0]) / 2**30
    )


@pytest.mark.parametrize(
    ("method", "kind", "size", "linear"),
    [
        (Method(), "conv", 200, True),
        (Method(saturates=True), "conv", 200, False),
        (Method(entry="add"), "conv", 200, False),
        (Method(), "conv_transpose", 200, False),
        (Method(), "conv", 400, False),
    ],
)
def test_only_plain_sums_of_products_are_linear(method, kind, size, linear):
    window = Window((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))
    assert is_linear(mac(kind, window, bits=15), method, (1, 64, size, size)) == linear


def test_a_spool_keeps_and_forgets():
    with open_spool(on_disk=True) as spool:
        spool.put("a", 0, jnp.arange(6).reshape(2, 3))
        spool.put("a", 1, np.zeros(4, np.int8))
        assert isinstance(spool.get("a", 0), np.memmap)
        np.testing.assert_array_equal(spool.get("a", 0), [[0, 1, 2], [3, 4, 5]])
        spool.drop("a", 0)
        assert (spool.size, spool.peak) == (4, 28) and len(list(spool.folder.iterdir())) == 1
        folder = spool.folder
    assert not folder.exists()
