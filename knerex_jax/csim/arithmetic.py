"""Shifts and saturation of the contract, on int64; exactness is checked, never assumed."""

import numpy as np

from knerex_jax.errors import SimulationError

_ROOM = 1 << 62


def limits(bits: int) -> tuple[int, int]:
    """Least and largest two's complement number."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def saturate(x: np.ndarray, bits: int) -> np.ndarray:
    """To the codes of a width."""
    return np.clip(x, *limits(bits))


def shift_right(x: np.ndarray, n: np.ndarray | int, bits: int) -> np.ndarray:
    """Shr of the contract: half towards plus infinity to the right; to the left, saturating to `bits`.

    Raises:
      SimulationError: a shift outside -16 .. 62, or a value beyond 62 bits.
    """
    x, n = np.broadcast_arrays(np.asarray(x, np.int64), np.asarray(n, np.int64))
    if n.size and (n.min() < -16 or n.max() > 62):
        raise SimulationError(f"a shift of {n.min()} to {n.max()}", where="arithmetic", fix="report this as a defect")
    _check(x)
    right = np.maximum(n, 0)
    half = np.where(right > 0, np.left_shift(1, np.maximum(right - 1, 0)), 0)
    down = (x + half) >> right
    low, high = limits(bits)
    left = np.maximum(-n, 0)
    up = np.clip(down, low >> left, (high >> left) + 1) << left
    return np.where(n < 0, np.clip(up, low, high), down)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """An exact product.

    Raises:
      SimulationError: it might need more than 62 bits.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    if a.size and b.size and int(np.abs(a).max()) * int(np.abs(b).max()) >= _ROOM:
        raise SimulationError("a product beyond 62 bits", where="arithmetic", fix="report this as a defect")
    return a * b


def contract(equation: str, weight: np.ndarray, x: np.ndarray, terms: int) -> np.ndarray:
    """An einsum of integers as one matrix product of float64, which holds every partial sum exactly.

    Raises:
      SimulationError: a sum might reach 2**53.
    """
    bound = int(np.abs(weight).max(initial=0)) * int(np.abs(x).max(initial=0)) * terms
    if bound >= 1 << 53:
        raise SimulationError(f"a sum of up to {bound}", where="accumulator", fix="report this as a defect")
    made = np.einsum(equation, weight.astype(np.float64), x.astype(np.float64), optimize=True)
    return made.astype(np.int64)


def along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """Constants along the channel axis, shaped to broadcast.

    Raises:
      SimulationError: several, and no channel axis.
    """
    values = np.asarray(values, np.int64).reshape(-1)
    if len(values) == 1:
        return values.reshape((1,) * rank)
    if axis is None:
        raise SimulationError(f"{len(values)} channels, and no axis of them", where="constants", fix="compile again")
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def _check(x: np.ndarray) -> None:
    if x.size and (int(x.min()) <= -_ROOM or int(x.max()) >= _ROOM):
        raise SimulationError("a value beyond 62 bits", where="arithmetic", fix="report this as a defect")
