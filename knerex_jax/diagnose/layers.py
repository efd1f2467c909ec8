"""Every tensor of a plan in float, in the integer run, and as its instruction alone makes it: sums over a few samples.

The cheap part of an error budget: nothing goes backwards, and one compiled step serves both integer runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.diagnose.measure import TensorSums, first_samples
from knerex_jax.emulator.fixed import quantize_input, run_instruction
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.stream import quick_options
from knerex_jax.emulator.trust import methods_here
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.program import Constants, Program
from knerex_jax.quantize.planner import Planned

CODE_BINS = 256
"""Bins of a histogram of codes: one per 8-bit code, 128 codes of 15 bits each."""

VALUE_BINS = 128
"""Bins of a histogram of float values, over -limit .. limit."""


@dataclass(frozen=True)
class Layer:
    """One tensor over all samples.

    Attributes:
      sums: of signal, errors, and codes at the limits; spans by channel.
      codes: int64 [CODE_BINS], how often each code of the integer run occurs, the least first.
      values: int64 [VALUE_BINS], float values by size, over the limits that were given; None where none were.
    """

    sums: TensorSums
    codes: np.ndarray
    values: np.ndarray | None

    def __add__(self, other: "Layer") -> "Layer":
        values = None if self.values is None or other.values is None else self.values + other.values
        return Layer(self.sums + other.sums, self.codes + other.codes, values)


def trace_layers(
    planned: Planned,
    inputs: Mapping[str, Any],
    *,
    registry: Mapping[str, OpDef],
    samples: int = 4,
    batch_size: int = 2,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Layer]:
    """Runs a plan on the first samples, a few at a time.

    Args:
      planned: plan, model and integers.
      inputs: name -> float array [N, ...] in place of the batch axis.
      registry: operator records.
      samples: how many of them to use.
      batch_size: samples per compiled step, all of whose tensors are held.
      limits: tensors whose float values are counted -> largest magnitude of the histogram.

    Returns:
      formatted tensor -> what was found, in the program's order.

    Raises:
      ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
    """
    program, wanted = planned.program, limits or {}
    step = _step(planned, registry)
    found: dict[str, Layer] = {}
    for batch, count in first_samples(planned, inputs, samples, batch_size):
        values, codes, alone = step(batch)
        for t in codes:
            real = _real(codes[t][:count], program, planned.constants, t)
            own = _real(alone[t][:count], program, planned.constants, t)
            value = np.asarray(values[t])[:count]
            layer = _layer(program, t, value, np.asarray(codes[t])[:count], real, own, wanted.get(t))
            found[t] = found[t] + layer if t in found else layer
    return {t: found[t] for t in program.tensor if t in found}  # jax sorts them


def _step(
    planned: Planned, registry: Mapping[str, OpDef]
) -> Callable[[Mapping[str, np.ndarray]], tuple[Mapping[str, Array], ...]]:
    """Compiled: batch -> by formatted tensor float values, codes of the integer run, codes of its instruction alone."""
    program, constants = planned.program, planned.constants
    formatted = tuple(t for t in program.tensor if t in planned.plan.formats)
    read = (t for i in program.instructions for t in i.inputs)
    taps = tuple(dict.fromkeys((*program.inputs, *read, *formatted)))
    float_fn, float_params = lower_float(planned.model, taps=taps, registry=registry)
    options = quick_options(jax.default_backend())
    in_float = jax.jit(jax.vmap(float_fn, (None, 0)), compiler_options=options)
    in_fixed = jax.jit(_both(program, constants, formatted), compiler_options=options)
    factors = {t: np.asarray(_along(constants[f"tensor:{t}"]["factor"], program, t), np.float32) for t in formatted}
    params = jax.device_put((float_params, (prepare(program, constants), factors)))

    def step(batch: Mapping[str, np.ndarray]) -> tuple[Mapping[str, Array], ...]:
        values = in_float(params[0], batch)
        return values, *in_fixed(params[1], {t: values[t] for t in taps})

    return step


def _both(
    program: Program, constants: Constants, formatted: tuple[str, ...]
) -> Callable[[Any, Mapping[str, Array]], tuple[dict[str, Array], dict[str, Array]]]:
    """(params, float values of a batch) -> codes of the integer run, and of every instruction alone.

    What is alone reads quantized float values. Every instruction is traced, and so compiled, once: for the samples of
    both runs, one after the other.
    """
    methods = methods_here(program, bound_program(program, constants))

    def fn(params: Any, values: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        prepared, factors = params

        def ideal(t: str) -> Array:
            return quantize_input(values[t], factors[t], program.tensor[t].bits) if t in factors else values[t]

        run = {t: ideal(t) for t in program.inputs}
        size = len(next(iter(values.values())))
        alone = {t: v for t, v in run.items() if t in factors}
        for i in program.instructions:
            operands = {t: jnp.concatenate([run[t], ideal(t)]) for t in i.inputs if t}
            compute = partial(run_instruction, i, program, methods.step[i.name], prepared[i.name])
            made = jax.vmap(compute, axis_size=2 * size)(operands)
            run |= {t: v[:size] for t, v in made.items()}
            alone |= {t: v[size:] for t, v in made.items()}
        return {t: run[t] for t in formatted}, {t: alone[t] for t in formatted}

    return fn


def _along(values: np.ndarray, program: Program, tensor: str) -> np.ndarray:
    info = program.tensor[tensor]
    return np.reshape(values, [-1 if len(values) > 1 and i == info.axis else 1 for i in range(len(info.shape))])


def _real(codes: Array, program: Program, constants: Constants, tensor: str) -> np.ndarray:
    inverse = np.asarray(constants[f"tensor:{tensor}"]["inverse"], np.float32)
    return np.asarray(codes).astype(np.float32) * _along(inverse, program, tensor)


def _layer(
    program: Program, tensor: str, value: np.ndarray, codes: np.ndarray, real: np.ndarray, own: np.ndarray,
    limit: float | None,
) -> Layer:  # fmt: skip
    """Of one tensor of a batch, [B, *shape]."""
    info = program.tensor[tensor]
    low, high = data_limits(info.bits)
    counts = np.bincount((codes.ravel().astype(np.int64) - low) * CODE_BINS // (high - low + 1), minlength=CODE_BINS)
    sums = TensorSums(
        signal=_squares(value), noise=_squares(real - value), alone=_squares(own - value),
        low_codes=float(np.count_nonzero(codes == low)), high_codes=float(np.count_nonzero(codes == high)),
        count=float(codes.size), float_span=_span(value, info.axis), fixed_span=_span(real, info.axis),
    )  # fmt: skip
    values = None if limit is None else np.histogram(value, VALUE_BINS, (-limit, limit))[0]
    return Layer(sums, counts, values)


def _squares(x: np.ndarray) -> float:
    """Sum of squares; pairwise in float32, which loses nothing that a decibel shows."""
    return float(np.sum(np.square(x)))


def _span(x: np.ndarray, axis: int | None) -> np.ndarray:
    others = tuple(k for k in range(x.ndim) if axis is None or k != axis + 1)
    return np.stack([x.min(others).reshape(-1), x.max(others).reshape(-1)])
