"""Boxes: ranges of indices along every axis of a tensor."""

from collections.abc import Iterator, Sequence
from itertools import product

from knerex_jax.program.primitives import Shape

Range = tuple[int, int]
"""First index and the one behind the last."""

Box = tuple[Range, ...]


def whole(shape: Sequence[int]) -> Box:
    """The box that holds everything."""
    return tuple((0, n) for n in shape)


def extent(box: Box) -> Shape:
    """Lengths of the ranges."""
    return tuple(stop - start for start, stop in box)


def broadcast(box: Box, shape: Sequence[int]) -> Box:
    """What an operand of `shape` contributes to a box of the result, by the rules of ONNX for elementwise operators."""
    last = box[len(box) - len(shape) :]
    return tuple((0, 1) if n == 1 else r for n, r in zip(shape, last, strict=True))


def pieces(shape: Sequence[int], steps: Sequence[int], order: Sequence[int]) -> Iterator[Box]:
    """All boxes of a grid with these steps, the axes of `order` varying from the slowest to the fastest."""
    ranges = [[(i, min(i + step, n)) for i in range(0, n, step)] for n, step in zip(shape, steps, strict=True)]
    for chosen in product(*(ranges[axis] for axis in order)):
        yield tuple(r for _, r in sorted(zip(order, chosen, strict=True)))
