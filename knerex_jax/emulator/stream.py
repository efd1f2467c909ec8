"""Many samples through the emulator, a few at a time, so that what a step holds stays in the caches."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
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


_BUDGETS = {"cpu": 24 << 20}
_OTHER_BUDGET = 1 << 30


def samples_at_once(program: Program, budget_bytes: int | None = None) -> int:
    """How many samples of a program to run together: its largest sum and the operands of it decide."""
    sizes = (
        4 * math.prod(program.shapes[i.output]) + sum(math.prod(program.shapes[t]) for t in i.inputs)
        for i in program.instructions
    )
    return at_once(sizes, budget_bytes)


def at_once(sizes: Iterable[int], budget_bytes: int | None = None) -> int:
    """How many samples to run together: as many as keep the largest step of one within the budget.

    A power of two, so that usual batches divide by it; a remainder would be compiled a second time.

    On a CPU, beyond the caches and beyond what malloc keeps mapped (32 MB with glibc), every step pays for its memory
    again: MobileNetV2, 224 x 224, batch 32: 1.5 times the CPU time of 4 at a time.

    Args:
      sizes: bytes of what each step of one sample makes and reads.
      budget_bytes: for the largest of them; None: 24 MB on a CPU, 1 GB where work has to fill a device.
    """
    budget_bytes = budget_bytes or _BUDGETS.get(jax.default_backend(), _OTHER_BUDGET)
    largest = max(sizes, default=1)  # none where every output is an input
    return 1 << (max(1, min(64, budget_bytes // largest)).bit_length() - 1)


@lru_cache(maxsize=8)
def compiler_options(backend: str) -> dict[str, Any]:
    """Options for `jax.jit` that make the emulator faster, as far as this jaxlib knows them; they change no code.

    CPU: vectors of 512 bits where the machine has them (x86 compilers prefer 256). MobileNetV2: 8 % less CPU time.
    """
    return _known({"xla_cpu_prefer_vector_width": 512} if backend == "cpu" else {})


@lru_cache(maxsize=8)
def quick_options(backend: str) -> dict[str, Any]:
    """Options for a step that runs only a few times: half the time to compile, for slower code with the same results.

    MobileNetV2, all tensors as results, CPU time: 9 s instead of 16 s to compile, 0.33 s instead of 0.1 s a sample.
    """
    return _known({"xla_backend_optimization_level": 0} if backend == "cpu" else {})


@lru_cache(maxsize=8)
def gradient_options(backend: str) -> dict[str, Any]:
    """Options for a step of hundreds of small kernels, as gradients have them: less time to compile, none lost to run.

    Gradients of BlazeFace, 8 samples, CPU time: 28 s instead of 43 s to compile, 0.6 s a step either way.
    """
    return _known({"xla_backend_optimization_level": 1} if backend == "cpu" else {})


def _known(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that this jaxlib knows."""
    known = {}
    for option, value in wanted.items():
        try:
            jax.jit(lambda x: x, compiler_options={option: value}).lower(jax.ShapeDtypeStruct((), "int32")).compile()
        except jax.errors.JaxRuntimeError:
            continue
        known[option] = value
    return known
