"""What runs beside the NPU: operators in float, and rows looked up by computed indices."""

from collections.abc import Mapping, Sequence

import numpy as np

from knerex_jax.program.island import run_island
from knerex_jax.program.primitives import Island, Lookup

FACTOR, INVERSE = "factor:", "inverse:"
"""Constants of an island's command: what its codes mean, float32, shaped to broadcast."""


def island(
    i: Island, operands: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray], bits: Mapping[str, int]
) -> list[np.ndarray]:
    """Rule 12: the routine that both simulators share.

    Args:
      i: the operator.
      operands: codes and plain values by tensor.
      constants: of the command.
      bits: result that is codes -> width.
    """
    own = {k: v for k, v in constants.items() if not k.startswith((FACTOR, INVERSE))}
    inverses = {k.removeprefix(INVERSE): v for k, v in constants.items() if k.startswith(INVERSE)}
    factors = {k.removeprefix(FACTOR): v for k, v in constants.items() if k.startswith(FACTOR)}
    return run_island(i, {**operands, **own}, inverses, factors, bits)


def lookup(i: Lookup, operands: Sequence[np.ndarray], constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rule 11."""
    return np.take(constants["codes"].astype(np.int64), operands[0], axis=i.at)
