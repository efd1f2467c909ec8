"""Where two sets of codes differ."""

import numpy as np


def compare(codes_a: dict[str, np.ndarray], codes_b: dict[str, np.ndarray]) -> list[str]:
    """One line per tensor that differs or is missing on a side; empty when all are equal.

    Axes of size 1 do not count: they carry no values.
    """
    lines = []
    for name in [*codes_a, *(name for name in codes_b if name not in codes_a)]:
        if name not in codes_b:
            lines.append(f"{name}: missing in the second set")
        elif name not in codes_a:
            lines.append(f"{name}: missing in the first set")
        else:
            lines.extend(_compare_tensor(name, np.asarray(codes_a[name]), np.asarray(codes_b[name])))
    return lines


def _compare_tensor(name: str, a: np.ndarray, b: np.ndarray) -> list[str]:
    long_a, long_b = (tuple(size for size in codes.shape if size != 1) for codes in (a, b))
    if long_a != long_b:
        return [f"{name}: shapes {a.shape} and {b.shape}"]
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    (positions,) = np.nonzero(flat_a != flat_b)
    if positions.size == 0:
        return []
    first = positions[0]
    largest = np.max(np.abs(flat_a[positions].astype(np.float64) - flat_b[positions].astype(np.float64)))
    index = tuple(int(i) for i in np.unravel_index(first, a.shape))
    return [
        f"{name}: {positions.size} of {flat_a.size} codes differ, by up to {largest:g}; "
        f"first at {index}: {flat_a[first]} and {flat_b[first]}"
    ]
