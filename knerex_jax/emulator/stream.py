"""Many samples through the emulator, a few at a time, so that what a step holds stays in the caches."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array, lax

from knerex_jax.emulator.prepare import Params
from knerex_jax.program.program import Program

Step = Callable[[Params, Mapping[str, Array]], dict[str, Array]]


def over_samples(fn: Step, at_once: int) -> Step:
    """Maps an emulated program over samples, `at_once` of them in parallel, the groups one after the other.

    Args:
      fn: from `lower_fixed`, for one sample.
      at_once: samples that run together; the codes do not depend on it.

    Returns:
      The same function with a leading axis of samples on inputs and results; to be compiled by the caller.
    """

    def run(params: Params, inputs: Mapping[str, Array]) -> dict[str, Array]:
        def one(sample: Mapping[str, Any]) -> dict[str, Array]:
            return fn(params, sample)

        if len(jax.tree.leaves(inputs)[0]) <= at_once:
            return jax.vmap(one)(inputs)
        return lax.map(one, inputs, batch_size=at_once)

    return run


def samples_at_once(program: Program, budget_bytes: int = 24 << 20) -> int:
    """How many samples to run together: as many as keep the largest sum (int32) and its operand within the budget.

    Beyond the caches and beyond what malloc keeps mapped (32 MB with glibc), every step pays for its memory again:
    MobileNetV2, 224 x 224, batch 32: 1.5 times the CPU time of 4 at a time.
    """
    largest = max(
        4 * math.prod(program.tensor[i.output].shape) + sum(math.prod(program.tensor[t].shape) for t in i.inputs)
        for i in program.instructions
    )
    return max(1, min(64, budget_bytes // largest))
