"""What a part of an instruction's result needs: one rule per primitive, from a box of the result to boxes of operands.

The rules are about geometry alone. An instruction that is cut computes the very same integers, because every rule of
the contract gives an element of the result from elements of the operands, whatever else is computed beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from knerex_jax.compiler.box import Box, Range, broadcast, extent, whole
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Instruction,
    Interp,
    Mac,
    MatMul,
    MaxPool,
    Mul,
    PoolSum,
    Shape,
    Table,
    Window,
)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Cut:
    """A part of an instruction.

    Attributes:
      instruction: with the geometry of the part.
      operands: box of every operand.
      constants: what the part needs of them.
    """

    instruction: Instruction
    operands: tuple[Box, ...]
    constants: Arrays


Shapes = tuple[Shape, ...]
"""Of the operands."""


def cuts(instruction: Instruction) -> bool:
    """Whether there is a rule; without one an instruction runs as a whole."""
    return type(instruction) in _RULES


def cut(instruction: Instruction, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    """The part of an instruction that makes `box` of its result."""
    rule = _RULES.get(type(instruction))
    if rule is None or box == whole(result):
        return Cut(instruction, tuple(whole(s) for s in shapes), constants)
    return rule(instruction, shapes, result, constants, box)


def unsplit(instruction: Instruction, shapes: Shapes, result: Shape) -> frozenset[int]:
    """Axes of the result that no rule divides."""
    if not cuts(instruction):
        return frozenset(range(len(result)))
    if isinstance(instruction, Mac) and instruction.kind == "conv_transpose" and instruction.group > 1:
        return frozenset((0, 1))
    if isinstance(instruction, MatMul) and min(map(len, shapes)) == 1:
        return frozenset(range(len(result)))
    return frozenset()


def channel_step(instruction: Instruction, constants: Arrays) -> int:
    """Channels of the result that a part has at least: whole groups, on both sides in multiples of 16."""
    if not (isinstance(instruction, Mac) and instruction.kind == "conv" and instruction.group > 1):
        return 16
    weight = constants["weight"]
    made, read = weight.shape[0] // instruction.group, weight.shape[1]
    groups = next(g for g in range(1, 17) if g * made % 16 == 0 and g * read % 16 == 0)
    return groups * made


def _elementwise(i: Activate | Table, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    return Cut(i, (box,), constants if isinstance(i, Table) else _channels(constants, i.axis, result, box))


def _combined(i: Align | Mul, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    return Cut(i, tuple(broadcast(box, s) for s in shapes), _channels(constants, i.axis, result, box))


def _product(i: MatMul, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    a, b = shapes
    if min(len(a), len(b)) == 1:
        raise ValueError("vectors are not divided")
    left = (*broadcast(box[:-2], a[:-2]), box[-2], (0, a[-1]))
    right = (*broadcast(box[:-2], b[:-2]), (0, b[-2]), box[-1])
    return Cut(i, (left, right), _channels(constants, i.axis, result, box))


def _mac(i: Mac, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    (x,) = shapes
    axis = {"dense": len(result) - 1, "diagonal": i.axis or 0}.get(i.kind, 1)
    made = _channels({k: v for k, v in constants.items() if k != "weight"}, axis, result, box)
    (start, stop), weight = box[axis], constants["weight"]
    if i.kind == "diagonal":
        return Cut(i, (box,), {**made, "weight": weight[start:stop] if len(weight) > 1 else weight})
    if i.kind == "dense":
        return Cut(i, ((*box[:-1], (0, x[-1])),), {**made, "weight": weight[start:stop]})
    window = i.window
    assert window is not None, "a convolution has a window"
    if i.kind == "conv":
        spatial, local = _windows(window, x[2:], box[2:])
        per_group = weight.shape[0] // i.group
        groups = (start // per_group, -(-stop // per_group)) if i.group > 1 else (0, 1)
        read = (groups[0] * weight.shape[1], groups[1] * weight.shape[1])
        part = msgspec.structs.replace(i, window=local, group=groups[1] - groups[0])
        return Cut(part, ((box[0], read, *spatial),), {**made, "weight": weight[start:stop]})
    spatial, local = _transposed(window, x[2:], box[2:])
    part = msgspec.structs.replace(i, window=local, output_padding=(0,) * len(spatial))
    return Cut(
        part, ((box[0], (0, x[1]), *spatial),), {**made, "weight": weight[:, start:stop] if i.group == 1 else weight}
    )


def _pool(i: PoolSum | MaxPool, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    (x,) = shapes
    made = _channels({k: v for k, v in constants.items() if k == "n"}, i.axis, result, box)
    places = {k: _places(constants[k], result, box) for k in ("m", "e") if k in constants}
    if i.window is None:
        read = tuple((0, n) if axis in i.axes else r for axis, (n, r) in enumerate(zip(x, box, strict=True)))
        return Cut(i, (read,), {**made, **places})
    spatial, local = _windows(i.window, x[2:], box[2:])
    return Cut(msgspec.structs.replace(i, window=local), ((*box[:2], *spatial),), {**made, **places})


def _interp(i: Interp, shapes: Shapes, result: Shape, constants: Arrays, box: Box) -> Cut:
    read, made = list(box), dict(_channels({"n": constants["n"]}, i.axis, result, box))
    for k, axis in enumerate(i.axes):
        rows = slice(*box[axis])
        index = constants[f"index{k}"][rows]
        low, high = int(index.min()), int(index.max()) + 1
        read[axis] = (low, high)
        made |= {f"index{k}": index - low, f"weight{k}": constants[f"weight{k}"][rows]}
    return Cut(i, (tuple(read),), made)


_RULES: dict[type, Callable[..., Cut]] = {
    Activate: _elementwise,
    Table: _elementwise,
    Align: _combined,
    Mul: _combined,
    MatMul: _product,
    Mac: _mac,
    PoolSum: _pool,
    MaxPool: _pool,
    Interp: _interp,
}


def _channels(constants: Arrays, axis: int | None, result: Shape, box: Box) -> dict[str, np.ndarray]:
    """Constants along the channel axis (the last axis of an array that has an entry per operand, too)."""
    if axis is None or box[axis] == (0, result[axis]):
        return dict(constants)
    rows = slice(*box[axis])
    return {k: v[..., rows] if v.ndim and v.shape[-1] == result[axis] else v for k, v in constants.items()}


def _places(array: np.ndarray, result: Shape, box: Box) -> np.ndarray:
    """Counts by position: along the last axes of the result, where they are not the same for all."""
    last = box[len(result) - array.ndim :]
    return array[tuple(slice(*r) if n > 1 else slice(None) for n, r in zip(array.shape, last, strict=True))]


def _windows(window: Window, sizes: Shape, ranges: Box) -> tuple[Box, Window]:
    """What windows read of each spatial axis, and their geometry there."""
    read, pads = zip(
        *(_window(window, k, n, r) for k, (n, r) in enumerate(zip(sizes, ranges, strict=True))), strict=True
    )
    return read, msgspec.structs.replace(window, pads=pads)


def _window(window: Window, k: int, size: int, made: Range) -> tuple[Range, tuple[int, int]]:
    begin, stride = window.pads[k][0], window.strides[k]
    reach = (window.kernel[k] - 1) * window.dilations[k] + 1
    first, behind = made[0] * stride - begin, (made[1] - 1) * stride - begin + reach
    start = min(max(first, 0), size - 1)
    stop = max(min(behind, size), start + 1)
    return (start, stop), (start - first, behind - stop)


def _transposed(window: Window, sizes: Shape, ranges: Box) -> tuple[Box, Window]:
    read, pads = [], []
    for k, (size, (first, behind)) in enumerate(zip(sizes, ranges, strict=True)):
        begin, stride = window.pads[k][0], window.strides[k]
        reach = (window.kernel[k] - 1) * window.dilations[k]
        start = min(max(-(-(first + begin - reach) // stride), 0), size - 1)
        stop = max(min((behind - 1 + begin) // stride + 1, size), start + 1)
        full = (stop - start - 1) * stride + reach + 1
        crop = first + begin - start * stride
        read.append((start, stop))
        pads.append((crop, full - crop - (behind - first)))
    return tuple(read), msgspec.structs.replace(window, pads=tuple(pads))


def size_of(box: Box) -> int:
    """Elements."""
    return int(np.prod(extent(box), dtype=np.int64))
