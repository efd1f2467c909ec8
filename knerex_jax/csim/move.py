"""Codes that change place."""

from collections.abc import Mapping, Sequence

import numpy as np

from knerex_jax.csim.arithmetic import along, saturate, shift_right
from knerex_jax.errors import SimulationError
from knerex_jax.program.primitives import Move


def move(i: Move, operands: Sequence[np.ndarray], constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rule 7: the radix changes before the move where channels mix, else behind it."""
    if "n_in" in constants:
        axes = i.in_axes or (None,) * len(operands)
        entered = []
        for x, axis, n in zip(operands, axes, constants["n_in"], strict=True):
            own = n[:1] if axis is None else n[: x.shape[axis]]
            entered.append(saturate(shift_right(x, along(own, axis, x.ndim), i.bits), i.bits))
        return _moved(i, entered)
    made = _moved(i, operands)
    return saturate(shift_right(made, along(constants["n"], i.axis, made.ndim), i.bits), i.bits)


def _moved(i: Move, operands: Sequence[np.ndarray]) -> np.ndarray:
    x, args = operands[0], i.args
    match i.kind:
        case "reshape":
            return x.reshape(args[0])
        case "transpose":
            return x.transpose(args[0])
        case "expand":
            return np.broadcast_to(x, np.broadcast_shapes(x.shape, args[0]))
        case "concat":
            return np.concatenate(operands, axis=args[0][0])
        case "pad":
            ends = list(zip(*args, strict=True))
            kept = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, ends, strict=True))]
            return np.pad(kept, [(max(a, 0), max(b, 0)) for a, b in ends])
        case "slice":
            return x[tuple(_range(*r) for r in zip(*args, strict=True))]
        case "gather":
            for axis, places in zip(args[0], args[1:], strict=True):
                x = taken(x, np.asarray(places), axis)
            return x


def _range(start: int, stop: int, step: int) -> slice:
    """A stop of -1 with a negative step goes through index 0."""
    return slice(start, None if step < 0 and stop < 0 else stop, step)


def taken(x: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Entries along an axis.

    Raises:
      SimulationError: one is outside; NumPy would count negative places from the end.
    """
    if places.size and (places.min() < 0 or places.max() >= x.shape[axis]):
        raise SimulationError(f"a place outside of {x.shape[axis]}", where="indices", fix="compile again")
    return np.take(x, places, axis)
