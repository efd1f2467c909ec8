"""Options of the compiler for steps of several kinds, as far as this jaxlib knows them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax


@lru_cache(maxsize=8)
def compiler_options(backend: str) -> dict[str, Any]:
    """Options for `jax.jit` that make the emulator faster, as far as this jaxlib knows them; they change no code.

    CPU: vectors of 512 bits where the machine has them (x86 compilers prefer 256). MobileNetV2: 8 % less CPU time.
    """
    return _known({"xla_cpu_prefer_vector_width": 512} if backend == "cpu" else {})


@lru_cache(maxsize=8)
def reading_options(backend: str) -> dict[str, Any]:
    """Options for a step that reads data once or twice: less time to compile, the same time to run, the same results.

    Not below 2: from there on the compiler rounds other sums, and counts of a calibration change.
    """
    return _known({"xla_backend_optimization_level": 2} if backend == "cpu" else {})


@lru_cache(maxsize=8)
def quick_options(backend: str) -> dict[str, Any]:
    """Options for a step that runs only a few times: half the time to compile, for slower code with the same results.

    MobileNetV2, all tensors as results, CPU time: 9 s instead of 16 s to compile, 0.33 s instead of 0.1 s a sample.
    """
    return _known({"xla_backend_optimization_level": 0} if backend == "cpu" else {})


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
