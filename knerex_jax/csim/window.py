"""Pooling and interpolation."""

from collections.abc import Mapping
from itertools import product

import numpy as np

from knerex_jax.csim.arithmetic import along, multiply, saturate, shift_right
from knerex_jax.csim.mac import check_room, pad_box
from knerex_jax.csim.move import taken
from knerex_jax.program.primitives import Interp, MaxPool, PoolSum, Window

Arrays = Mapping[str, np.ndarray]
_NEVER = -(1 << 40)


def pool_sum(i: PoolSum, x: np.ndarray, constants: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    """Rule 5."""
    if i.window is None:
        total = x.sum(axis=i.axes, keepdims=True)
    else:
        parts = _parts(pad_box(x, i.window.pads, 0), i.window, shape)
        total = sum(parts[1:], start=parts[0].copy())
    n = along(constants["n"], i.axis, total.ndim)
    if not i.mean:
        return saturate(shift_right(total, n, i.bits), i.bits)
    return saturate(shift_right(multiply(total, constants["m"]), n + constants["e"], i.bits), i.bits)


def max_pool(i: MaxPool, x: np.ndarray, constants: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    """Rule 6."""
    if i.window is None:
        best = x.min(axis=i.axes, keepdims=True) if i.least else x.max(axis=i.axes, keepdims=True)
    else:
        best = np.maximum.reduce(_parts(pad_box(x, i.window.pads, _NEVER), i.window, shape))
    return saturate(shift_right(best, along(constants["n"], i.axis, best.ndim), i.bits), i.bits)


def _parts(x: np.ndarray, window: Window, shape: tuple[int, ...]) -> list[np.ndarray]:
    """What every place of the window sees."""
    check_room(x, window, shape)
    return [
        x[
            (slice(None), slice(None))
            + tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, s, n in zip(tap, window.dilations, window.strides, shape[2:], strict=True)
            )
        ]
        for tap in product(*(range(k) for k in window.kernel))
    ]


def interp(i: Interp, x: np.ndarray, constants: Arrays) -> np.ndarray:
    """Rule 8: one exact sum over the taps of all axes, one shift."""
    total = np.asarray(x, np.int64)
    for k, axis in enumerate(i.axes):
        index, weight = constants[f"index{k}"], constants[f"weight{k}"].astype(np.int64)
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        taps = [multiply(taken(total, index[:, t], axis), weight[:, t].reshape(shape)) for t in range(index.shape[1])]
        total = sum(taps[1:], start=taps[0])
    return saturate(shift_right(total, along(constants["n"], i.axis, total.ndim), i.bits), i.bits)
