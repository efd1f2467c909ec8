"""Sums of products in float operators that are exact in any order of summation.

A float32 convolution of integers is exact while every sum over a subset of its products stays below 2**24 (in units
of the largest power of two that divides them all). Where it does not, codes and weights are cut into a high and a low
part, or the terms into groups; the parts' sums are added in float64. ONNX Runtime has no float64 convolution, but a
float64 MatMul.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.export.shift import in_type, number
from knerex_jax.export.tape import HOLDS, Tape, Value

Span = tuple[int, int]
"""Least and largest integer."""

Reach = Callable[[np.ndarray], np.ndarray]
"""Non-negative weights -> their sums by output."""

_MOST_GROUPS = 64
_SIZES = sorted(product((1, 2, 3), (1, 2, 3), (1, 2, 4, 8, 16, 32, _MOST_GROUPS)), key=lambda s: (np.prod(s), s))
"""(parts of the codes, parts of the weights, groups of terms), cheapest first."""


def checked(peak: int, where: str) -> int:
    """The bound itself.

    Raises:
      UnsupportedOpError: float64 does not hold such sums.
    """
    if peak < HOLDS["float64"]:
        return peak
    raise UnsupportedOpError(
        "a sum of products can exceed 53 bits, which no operator of ONNX Runtime adds exactly", where=where,
        fix="plan this node at 8 bits, or leave the integer ONNX out",
    )  # fmt: skip


def conv_sums(
    tape: Tape, x: Value, span: Span, weight: np.ndarray, peak: int, reach: Reach, emit: Callable[[str, str], str]
) -> Value:
    """A convolution, exactly.

    Args:
      tape: what the operators are appended to.
      x: codes, float32.
      span: their least and largest value.
      weight: integer weights in any layout.
      peak: bound of the sums.
      reach: sums of weights by output, for this layout.
      emit: (name of the codes, name of the weights) -> name of the sums, by one float32 operator.
    """
    cuts, parts = _parts(span, np.asarray(weight, np.int64), reach, tape.scope)
    names = [tape.integers(part) for part in parts]
    made = [emit(codes, name) for codes in _cut_codes(tape, x.name, cuts) for name in names]
    if len(made) == 1 and peak < HOLDS["float32"]:
        return Value(made[0], peak)
    wide = [tape.cast(name, "float64") for name in made]
    return Value(wide[0] if len(wide) == 1 else tape.emit("Sum", *wide), checked(peak, tape.scope), "float64")


def is_narrow(span: Span, weight: np.ndarray, reach: Reach) -> bool:
    """Whether a single float32 operator gives the sums."""
    return _fits(_code_spans(span, ()), [weight], reach)


def product_sums(tape: Tape, a: Value, b: Value, peak: int) -> Value:
    """A MatMul, exactly, in float32 or float64."""
    dtype = "float32" if peak < HOLDS["float32"] else "float64"
    a, b = in_type(tape, a, dtype), in_type(tape, b, dtype)
    return Value(tape.emit("MatMul", a.name, b.name), checked(peak, tape.scope), dtype)


def _parts(span: Span, weight: np.ndarray, reach: Reach, where: str) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Where to cut the codes (powers of two, from the top), and weights that add up to `weight`."""
    for codes, weights, groups in _SIZES:
        cuts = _cuts(span, codes)
        parts = [
            p for plane in _cut(weight, _cuts((0, int(np.abs(weight).max())), weights)) for p in _deal(plane, groups)
        ]
        parts = [p for p in parts if p.any()] or [weight]
        if _fits(_code_spans(span, cuts), parts, reach):
            return cuts, parts
    raise UnsupportedOpError(
        "the sums of this convolution are too long for exact float32 parts", where=where,
        fix="plan this node at 8 bits, or leave the integer ONNX out",
    )  # fmt: skip


def _fits(spans: list[tuple[Span, int]], weights: list[np.ndarray], reach: Reach) -> bool:
    return all(_largest_sum(s, u, w, reach) < HOLDS["float32"] for s, u in spans for w in weights)


def _largest_sum(span: Span, unit: int, weight: np.ndarray, reach: Reach) -> int:
    """Largest |sum| over any subset of the products, in units of what divides them all."""
    low, high = -min(span[0], 0), max(span[1], 0)
    up, down = reach(np.maximum(weight, 0)), reach(np.maximum(-weight, 0))
    most = int(np.maximum(up * high + down * low, up * low + down * high).max())
    return most // (unit * _divisor(weight))


def _divisor(weight: np.ndarray) -> int:
    """The largest power of two that divides all weights."""
    together = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    return together & -together or 1


def _cuts(span: Span, parts: int) -> tuple[int, ...]:
    """Bits at which integers of this span are cut into parts."""
    width = -(-max(-span[0], span[1]).bit_length() // parts)
    return tuple(width * k for k in reversed(range(1, parts)))


def _cut(values: np.ndarray, cuts: tuple[int, ...]) -> Iterator[np.ndarray]:
    for cut in cuts:
        high = (values + (1 << (cut - 1))) >> cut << cut
        yield high
        values = values - high
    yield values


def _deal(weight: np.ndarray, groups: int) -> Iterator[np.ndarray]:
    """Weights that add up to these, each with what has its sum of indices in one residue class."""
    if groups == 1:
        yield weight
        return
    place = np.arange(weight[0, 0].size).reshape(1, 1, *weight.shape[2:])
    place = place + sum(np.arange(n).reshape([-1 if a == k else 1 for a in range(weight.ndim)])
                        for k, n in enumerate(weight.shape[:2]))  # fmt: skip
    for group in range(groups):
        yield np.where(place % groups == group, weight, 0)


def _code_spans(span: Span, cuts: tuple[int, ...]) -> list[tuple[Span, int]]:
    """(span, unit) of every part of the codes."""
    made = []
    for cut in cuts:
        unit, half = 1 << cut, 1 << (cut - 1)
        made.append(((span[0] // unit * unit, -(-span[1] // unit) * unit), unit))
        span = (-half, half)
    return [*made, (span, 1)]


def _cut_codes(tape: Tape, name: str, cuts: tuple[int, ...]) -> list[str]:
    """Parts that add up to the codes; where a half is rounded to does not matter."""
    made = []
    for cut in cuts:
        down, up = (number(tape, 2.0**k, "float32") for k in (-cut, cut))
        made.append(tape.emit("Mul", tape.emit("Round", tape.emit("Mul", name, down)), up))
        name = tape.emit("Sub", name, made[-1])
    return [*made, name]
