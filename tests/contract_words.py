"""The contract's words for tests of the simulator: shifts and limits in Python's integers, and instructions' fields."""

import numpy as np

MOST_16, MOST_32, MOST_48 = 2**15 - 1, 2**31 - 1, 2**47 - 1


def shr(a: int, n: int) -> int:
    """Section 3: half towards plus infinity; to the left where n is not positive."""
    return (a + (1 << (n - 1))) >> n if n > 0 else a << -n


def sat(a: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, a))


def base(inputs: int = 1, *, bits: int = 8, axis: int | None = None) -> dict:
    return {
        "name": "i", "inputs": tuple(f"x{k}" for k in range(inputs)), "output": "y", "nodes": ("node",), "bits": bits,
        "axis": axis,
    }  # fmt: skip


def random(*shape: int, seed: int = 0, most: int = 127) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most - 1, most + 1, shape)
