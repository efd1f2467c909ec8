"""From a data-movement node to the primitive `move`: which codes go where, and where their radix changes."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import Built, ProgramView, channel_ids
from knerex_jax.program.primitives import Move

Kind = Literal["reshape", "transpose", "expand", "concat", "pad", "slice", "gather"]
Args = tuple[tuple[int, ...], ...]


def taken(args: Args, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The places along every axis that a gather of (axes, places along the first, ...) takes."""
    places = [np.arange(n) for n in shape]
    for axis, chosen in zip(args[0], args[1:], strict=True):
        places[axis] = np.asarray(chosen, np.int64)
    return places


def _move(kind: str, args: Args, operands: list[np.ndarray]) -> np.ndarray:
    """The move on host arrays (channel numbers)."""
    x = operands[0]
    moves: dict[str, Callable[[], Any]] = {
        "reshape": lambda: x.reshape(args[0]),
        "transpose": lambda: x.transpose(args[0]),
        "expand": lambda: np.broadcast_to(x, args[0]),
        "concat": lambda: np.concatenate(operands, axis=args[0][0]),
        "pad": lambda: np.asarray(
            jnp.pad(jnp.asarray(x), [(max(b, 0), max(e, 0)) for b, e in zip(*args, strict=True)])
        )[tuple(slice(max(-b, 0), None if e >= 0 else e) for b, e in zip(*args, strict=True))],
        "slice": lambda: x[tuple(slice(b, None if e < 0 else e, s) for b, e, s in zip(*args, strict=True))],
        "gather": lambda: x[np.ix_(*taken(args, x.shape))],
    }
    return moves[kind]()


def move_program(node: Node, view: ProgramView, kind: Kind, args: Args) -> Built:
    """The `move` of a node. Shifts come after it, per output channel, or before it where channels mix.

    Args:
      node: what moves data.
      view: the planned graph.
      kind: of the primitive `Move`.
      args: its arguments.
    """
    y = node.outputs[0]
    inputs = tuple(t for t in node.inputs if t in view.formats)
    fy, formats = view.formats[y], [view.formats[t] for t in inputs]
    counts = [len(f.radix) for f in formats]
    firsts = np.concatenate([[0], np.cumsum(counts)])[: len(counts)] + 1
    ids = [channel_ids(view.shape(t), f.axis, int(i)) for t, f, i in zip(inputs, formats, firsts, strict=True)]
    source = _move(kind, args, ids)
    # Radix by channel number; number 0 is padding, whose code 0 needs no shift.
    x_radix = np.concatenate([[0], *(f.radix.astype(np.int64) for f in formats)])
    out_count = len(fy.radix)
    place = channel_ids(source.shape, fy.axis, 0)
    pairs = np.unique(place.astype(np.int64) * len(x_radix) + source)
    out, src = pairs // len(x_radix), pairs % len(x_radix)
    out, src = out[src > 0], src[src > 0]
    drop = x_radix[src] - fy.radix.astype(np.int64)[out]
    constants: dict[str, np.ndarray]
    in_axes = None
    if (after := _unique_by(out, drop, out_count)) is not None:
        constants = {"n": check_shift(after, node.name, "the output")}
    else:
        before = _unique_by(src, drop, len(x_radix))
        assert before is not None, f"{node.name}: mixed channels differ in radix on both sides"
        in_axes = tuple(f.axis for f in formats)
        rows = [check_shift(before[i : i + c], node.name, "an operand") for i, c in zip(firsts, counts, strict=True)]
        constants = {"n_in": np.stack([np.resize(r, max(counts)) if len(r) == 1 else r for r in rows])}
    instruction = Move(
        name=node.name, inputs=inputs, output=y, nodes=(node.name,), bits=fy.bits, axis=fy.axis, kind=kind, args=args,
        x_bits=tuple(f.bits for f in formats), in_axes=in_axes,
    )  # fmt: skip
    return ((instruction, constants),)


def _unique_by(key: np.ndarray, value: np.ndarray, count: int) -> np.ndarray | None:
    """Value as a function of key (int64 [count], 0 where no key occurs), None if a key has two values."""
    low = np.full(count, np.iinfo(np.int64).max)
    high = np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(low, key, value)
    np.maximum.at(high, key, value)
    seen = low <= high
    return np.where(seen, low, 0) if (low[seen] == high[seen]).all() else None
