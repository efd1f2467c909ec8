"""The simulator against the contract's rule 1, mac: integers by hand, or by loops written from its text alone."""

from itertools import product

import numpy as np
import pytest
from contract_words import MOST_32, MOST_48, base, random, sat, shr
from one_command import execute

from knerex_jax.program.primitives import (
    Mac,
    Window,
)


def mac(kind: str = "diagonal", *, bits: int = 8, psum: int = 32, x_bits: int = 8, axis: int | None = 1, **more) -> Mac:
    held = {"act": "none", "post_multiplier": False, "weight_bits": 8} | more
    return Mac(**base(bits=bits, axis=axis), kind=kind, psum_bits=psum, x_bits=x_bits, **held)


def diagonal(x, *, weight=1, bias=0, n1=0, n2=0, i: Mac | None = None, **constants) -> list[int]:
    """Channel by channel; constants of length 1, or one each."""
    i = i or mac()
    one = {"weight": weight, "bias": bias, "n1": n1, "n2": n2, **constants}
    return execute(i, [([x], i.x_bits)], {k: np.ravel(v) for k, v in one.items()}, (1, len(x)))[0]


def dense(x, weight, i: Mac, *, bias=0, n1=0, n2=0, **constants) -> list[int]:
    one = {"bias": bias, "n1": n1, "n2": n2, **constants}
    held = {"weight": np.array(weight), **{k: np.ravel(v) for k, v in one.items()}}
    return execute(i, [([x], i.x_bits)], held, (1, len(weight)))[0]


@pytest.mark.parametrize(
    ("n2", "x", "y"),
    [
        (1, [-7, -6, -5, -3, -2, -1, 1, 2, 3, 5], [-3, -3, -2, -1, -1, 0, 1, 1, 2, 3]),
        (2, [-7, -6, -3, -2, 1, 2, 5, 6], [-2, -1, -1, 0, 0, 1, 1, 2]),
        (0, [-128, -1, 0, 127], [-128, -1, 0, 127]),
        (-1, [-128, -65, -64, 63, 64, 127], [-128, -128, -128, 126, 127, 127]),
        (-16, [-1, 0, 1], [-128, 0, 127]),
        (62, [-128, -1, 0, 127], [0, 0, 0, 0]),
    ],
)
def test_the_last_shift_rounds_half_up_and_saturates(n2, x, y):
    assert diagonal(x, n2=n2) == y


def test_partial_sums_of_16_bits_saturate_before_and_behind_the_bias():
    i = mac("dense", psum=16)
    assert dense([127, 127, 127], [[105] * 3], i, bias=-32767) == [0]  # 40005 becomes 32767 first
    assert dense([127], [[127]], i, n1=-8, bias=-32768) == [-1]
    assert dense([-128], [[127]], i, n1=-8, bias=-1, n2=9) == [-64]  # -32768 stays, and half of 2**9 is added to it
    assert dense([5, 2], [[3, -8]], i, n1=1, bias=10) == [10]  # -1 / 2 is 0


def test_partial_sums_of_32_bits():
    i = mac("dense")
    assert dense([127] * 3, [[127] * 3], i, n1=-16, bias=-MOST_32 + 3) == [3]  # 48387 * 2**16 becomes 2**31 - 1
    assert dense([-128] * 3, [[127] * 3], i, n1=-16, bias=MOST_32, n2=0) == [-1]
    assert dense([1], [[1]], i, bias=MOST_32, n2=24) == [127]


def test_partial_sums_of_48_bits():
    i = mac("dense", bits=15, psum=48, x_bits=15)
    x, w = [16383] * 9, [[16383] * 9]
    assert dense(x, w, i, bias=-9 * 16383**2 + 7) == [7]  # beyond 32 bits
    assert dense(x, w, i, n1=-16, bias=-MOST_48 + 5) == [5]
    assert dense([-16384] * 9, w, i, n1=-16, bias=MOST_48) == [-1]
    assert dense([1], [[1]], i, bias=MOST_48, n2=33) == [16383]
    # (2**47 - 1) * 32767 + 2**47 = 2**62 - 32767
    multiplied = mac("dense", bits=15, psum=48, x_bits=15, post_multiplier=True)
    assert dense([0], [[1]], multiplied, bias=MOST_48, m=32767, n2=48) == [16383]


def test_multiplier_behind_the_sum():
    i = mac(post_multiplier=True)
    assert diagonal([3, -3, 1, -1], i=i, m=2**14, n2=15) == [2, -1, 1, 0]
    assert diagonal([5, -128, 127], i=i, m=2**14, n2=14) == [5, -128, 127]  # 1, for which 2**15 is never written
    assert diagonal([127, -128, 1], i=i, m=32767, n2=15) == [127, -128, 1]
    assert diagonal([100, -100, 64], i=i, m=[2**14, 2**14 + 1, 20000], n2=[13, 15, 16]) == [127, -50, 20]


def test_fused_activations():
    assert diagonal([-5, 4, -1], i=mac(act="relu"), bias=1, n2=0) == [0, 5, 0]
    clip = mac(act="clip")
    assert diagonal([-50, -2, 90], i=clip, lo=[-10, -1, -10], hi=[7, 6, 41], n2=[0, 0, 1]) == [-10, -1, 21]
    leaky = mac(act="leaky")
    assert diagonal([-5, -1, -100, 5], i=leaky, slope=77, slope_shift=8) == [-2, 0, -30, 5]
    assert diagonal([-3, -1, 3], i=leaky, slope=64, slope_shift=7) == [-1, 0, 3]
    # slopes of a PRelu: 1000, -0.5 and 0.25; (-2000 + 8) / 16 = -124.5
    prelu = {"slope": [125, -64, 64], "slope_shift": [-3, 7, 8]}
    assert diagonal([-2, -7, -6], i=leaky, n2=[4, 0, 0], **prelu) == [-125, 4, -1]
    # -20000 * 127 saturates to -2**15 first
    assert diagonal([0], i=mac(act="leaky", psum=16), bias=-20000, slope=127, slope_shift=0, n2=9) == [-64]


def test_fused_hard_swish():
    """S = 32; m / 2**22 is 1 / 192 within half a code."""
    i = mac(act="hard_swish", post_multiplier=True)
    held = {"three": 96, "six": 192, "m": 21845}
    assert diagonal([96, 100, 48, -48, -96, -100, 0], i=i, n2=22, **held) == [96, 100, 36, -12, 0, 0, 0]
    # p has 16 bits, whatever psum_bits says: 16129 + 32767 becomes 32767; 32767 * 192 * 21845 / 2**31 = 64.0
    assert diagonal([127], i=i, weight=127, bias=32767, n2=31, **held) == [64]
    shift_only = mac(act="hard_swish", psum=16)
    assert diagonal([96, -48], i=shift_only, n2=22, **held) == [96, -12]


def test_a_convolution_at_the_border_by_hand():
    window = Window(kernel=(3, 3), strides=(1, 1), dilations=(1, 1), pads=((1, 1), (1, 1)))
    held = {"weight": np.ones((1, 1, 3, 3)), "bias": [0], "n1": [0], "n2": [0]}
    x = [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]
    made = execute(mac("conv", window=window), [(x, 8)], held, (1, 1, 3, 3))
    assert made == [[[[12, 21, 16], [27, 45, 33], [24, 39, 28]]]]


CONVOLUTIONS = {
    "plain": (4, 3, 1, Window((3, 2), (1, 1), (1, 1), ((1, 1), (0, 1))), (6, 5)),
    "strided, dilated": (3, 2, 1, Window((2, 3), (2, 1), (2, 1), ((0, 1), (2, 0))), (7, 6)),
    "groups": (4, 6, 2, Window((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))), (6, 7)),
    "depthwise, two each": (3, 6, 3, Window((3, 3), (1, 2), (1, 1), ((1, 0), (1, 1))), (5, 6)),
    "rows taken away": (2, 3, 1, Window((3, 3), (1, 1), (1, 1), ((-1, 1), (1, -2))), (8, 8)),
    "one axis": (3, 4, 1, Window((3,), (2,), (1,), ((1, 1),)), (9,)),
    "three axes": (2, 2, 1, Window((2, 1, 2), (1, 2, 1), (1, 1, 2), ((1, 0), (0, 0), (0, 1))), (3, 4, 5)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_by_loops(name):
    inside, outside, group, window, size = CONVOLUTIONS[name]
    x, w = random(1, inside, *size, seed=1), random(outside, inside // group, *window.kernel, seed=2, most=7)
    spatial = [
        (n + a + b - (k - 1) * d - 1) // s + 1
        for n, (a, b), k, d, s in zip(size, window.pads, window.kernel, window.dilations, window.strides, strict=True)
    ]
    bias, n1, m, n2 = random(outside, seed=3, most=900), [1], 16384 + random(outside, seed=4), 19 + random(outside) % 3
    wanted = np.zeros((1, outside, *spatial), np.int64)
    for o, *at in product(range(outside), *map(range, spatial)):
        total = 0
        for c, *tap in product(range(inside // group), *map(range, window.kernel)):
            place = [
                p * s + t * d - a
                for p, s, t, d, (a, _) in zip(at, window.strides, tap, window.dilations, window.pads, strict=True)
            ]
            if all(0 <= q < n for q, n in zip(place, size, strict=True)):
                channel = o // (outside // group) * (inside // group) + c
                total += int(w[o, c, *tap]) * int(x[0, channel, *place])
        p = sat(sat(shr(total, 1), 32) + int(bias[o]), 32)
        wanted[0, o, *at] = sat(shr(p * int(m[o]), int(n2[o])), 8)
    i = mac("conv", window=window, group=group, post_multiplier=True)
    held = {"weight": w, "bias": bias, "n1": n1, "m": m, "n2": n2}
    made = execute(i, [(x, 8)], held, wanted.shape)
    assert len(np.unique(wanted)) > 8 and made == wanted.tolist()


TRANSPOSED = {
    "stride 2": (3, 4, 1, Window((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))), (4, 3), (1, 0)),
    "groups, dilated": (4, 6, 2, Window((2, 3), (1, 3), (2, 1), ((0, 1), (0, 2))), (3, 4), (0, 0)),
    "gaps": (2, 2, 1, Window((1, 2), (3, 2), (1, 1), ((0, 0), (-1, 0))), (3, 3), (2, 1)),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions_by_loops(name):
    inside, outside, group, window, size, more = TRANSPOSED[name]
    x, w = random(1, inside, *size, seed=1), random(inside, outside // group, *window.kernel, seed=2, most=7)
    spatial = [
        (n - 1) * s + (k - 1) * d + 1 - a - b + e
        for n, s, k, d, (a, b), e in zip(
            size, window.strides, window.kernel, window.dilations, window.pads, more, strict=True
        )
    ]
    wanted = np.zeros((1, outside, *spatial), np.int64)
    for c, o, *rest in product(range(inside), range(outside // group), *map(range, (*size, *window.kernel))):
        at, tap = rest[: len(size)], rest[len(size) :]
        place = [
            p * s + t * d - a
            for p, s, t, d, (a, _) in zip(at, window.strides, tap, window.dilations, window.pads, strict=True)
        ]
        if all(0 <= q < n for q, n in zip(place, spatial, strict=True)):
            channel = c // (inside // group) * (outside // group) + o
            wanted[0, channel, *place] += int(x[0, c, *at]) * int(w[c, o, *tap])
    wanted = np.vectorize(lambda a: sat(shr(sat(a + 3, 32), 4), 8))(wanted)
    i = mac("conv_transpose", window=window, group=group, output_padding=more)
    made = execute(i, [(x, 8)], {"weight": w, "bias": [3], "n1": [0], "n2": [4]}, wanted.shape)
    assert len(np.unique(wanted)) > 8 and made == wanted.tolist()


def test_products_with_a_constant_along_the_last_axis():
    x, w = [[[1, -2], [3, 4]]], [[1, 1], [5, -3], [-128 + 1, 0]]
    held = {"weight": np.array(w), "bias": [0, 1, 2], "n1": [0], "n2": [0, 1, 0]}
    # 1*5 + 2*3 + 1 = 12, halved; 3*5 - 4*3 + 1 = 4, halved
    assert execute(mac("dense", axis=2), [(x, 8)], held, (1, 2, 3)) == [[[-1, 6, -125], [7, 2, -128]]]


def test_channels_of_a_diagonal_product_are_those_of_its_axis():
    x = [[[[1, 2]], [[3, 4]]]]
    held = {"weight": [10, -10], "bias": [1, 0], "n1": [0], "n2": [0, 1]}
    assert execute(mac(), [(x, 8)], held, (1, 2, 1, 2)) == [[[[11, 21]], [[-15, -20]]]]
    assert execute(mac(axis=3), [(x, 8)], held, (1, 2, 1, 2)) == [[[[11, -10]], [[31, -20]]]]
