"""How many samples the emulator takes at a time, and how its steps are compiled."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax

from knerex_jax.lowering.batch import at_once
from knerex_jax.program.program import Program


def samples_at_once(program: Program, budget_bytes: int | None = None) -> int:
    """How many samples of a program to run together: its largest sum and the operands of it decide."""
    sizes = (
        4 * math.prod(program.shapes[i.output]) + sum(math.prod(program.shapes[t]) for t in i.inputs)
        for i in program.instructions
    )
    return at_once(sizes, budget_bytes)


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
