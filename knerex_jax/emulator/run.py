"""A compiled program that runs: many samples, many plans, one compilation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from knerex_jax.data.batches import filled_batches
from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import Methods, check
from knerex_jax.emulator.stream import compiler_options, samples_at_once
from knerex_jax.emulator.trust import methods_here
from knerex_jax.errors import ConfigError, PlanError
from knerex_jax.graph.ir import TensorType
from knerex_jax.lowering.batch import over_samples
from knerex_jax.parallel.devices import device_count, over_devices
from knerex_jax.program.bounds import Bounds, bound_program, join
from knerex_jax.program.program import Constants, Program


def run_batches(
    fn: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    params: Any,
    inputs: Mapping[str, np.ndarray],
    types: Mapping[str, TensorType],
    batch_size: int,
    multiple: int = 1,
) -> dict[str, np.ndarray]:
    """Runs a compiled step over any number of samples; the last batch is padded, so that there is one shape to compile.

    Args:
      fn: jitted and vmapped function of (params, {name: [batch, *model shape]}).
      inputs: name -> [N, *shape without the model's batch axis].
      types: name -> type of the model input.
      params: first argument of fn.
      batch_size: samples per call of fn; rounded up to the next `multiple`.
      multiple: what fn divides its batch by.

    Returns:
      name -> [N, *shape without the model's batch axis].
    """
    count = len(next(iter(inputs.values())))
    size = -(-min(batch_size, count) // multiple) * multiple
    parts: dict[str, list[np.ndarray]] = {}
    for batch, true in filled_batches(inputs, size, {name: types[name].shape for name in inputs}):
        for name, value in fn(params, batch).items():
            parts.setdefault(name, []).append(np.asarray(value)[:true])
    return {name: _drop_batch(np.concatenate(values)) for name, values in parts.items()}


def _drop_batch(array: np.ndarray) -> np.ndarray:
    """[N, 1, ...] -> [N, ...]: the samples take the place of the model's batch axis."""
    return array[:, 0] if array.ndim > 1 and array.shape[1] == 1 else array


@dataclass(frozen=True)
class Emulator:
    """A compiled program whose integers are arguments: one for all plans within `bounds`.

    Attributes:
      program: what runs.
      bounds: of the constants it will be given (`program.bounds`); of several plans, joined.
    """

    program: Program
    bounds: Bounds = field(hash=False)

    @classmethod
    def of(cls, program: Program, *constants: Constants) -> "Emulator":
        """The emulator of a program with these constants, and others within their bounds."""
        return cls(program, join([bound_program(program, c) for c in constants]))

    @cached_property
    def methods(self) -> Methods:
        """How each instruction is computed."""
        return methods_here(self.program, self.bounds)

    def covers(self, bounds: Bounds) -> bool:
        """Whether its methods hold for constants with these bounds, too."""
        try:
            check(self.program, self.methods, bounds)
        except PlanError:
            return False
        return True

    @cached_property
    def _compiled(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def step(self, taps: tuple[str, ...], mesh: Mesh | None = None) -> Callable[..., Any]:
        """The compiled function of (params, {input: [batch, *shape]}) -> {tensor: codes}; a mesh shares the batch."""
        if (taps, mesh) not in self._compiled:
            fn = over_samples(lower_fixed(self.program, self.methods, taps=taps), samples_at_once(self.program))
            options = compiler_options(jax.default_backend())
            self._compiled[taps, mesh] = jax.jit(over_devices(fn, mesh), compiler_options=options)
        return self._compiled[taps, mesh]

    def codes(
        self,
        params: Any,
        inputs: Mapping[str, Any],
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 32,
        mesh: Mesh | None = None,
    ) -> dict[str, np.ndarray]:
        """Codes of N samples.

        Args:
          params: `prepare(program, constants)` of constants within the bounds.
          inputs: name -> float array [N, ...] in place of the model's batch axis.
          taps: tensors to return instead of the outputs.
          batch_size: samples per compiled step.
          mesh: devices that share a step; None: one does it all.

        Raises:
          ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
          ConfigError: unknown tensor, or fewer devices.
        """
        wanted = self.program.outputs if taps is None else taps
        for t in wanted:
            if t not in self.program.shapes:
                raise ConfigError(f"no tensor {t!r} in the program", where="taps", fix="see program.tensors for names")
        exact = self.program.exact
        types = {
            t: TensorType(exact[t].dtype if t in exact else "float32", self.program.shapes[t])
            for t in self.program.inputs
        }
        step = self.step(tuple(wanted), mesh)
        codes = run_batches(step, params, stack_inputs(inputs, types), types, batch_size, device_count(mesh))
        ordered = {t: codes[t] for t in wanted}  # jax sorts them
        return {t: c.astype(exact[t].dtype) if t in exact else c for t, c in ordered.items()}


def dequantize(program: Program, constants: Constants, tensor: str, codes: np.ndarray) -> np.ndarray:
    """Codes [N, ...] -> float32: one product by float32(1 / (scale * 2**radix)); plain tensors as they are."""
    if tensor in program.exact:
        return codes
    inverse = np.asarray(constants[f"tensor:{tensor}"]["inverse"], np.float32)
    info = program.tensor[tensor]
    if len(inverse) > 1 and info.axis is not None:
        missing = len(info.shape) - codes.ndim
        inverse = inverse.reshape([-1 if i == info.axis - missing else 1 for i in range(codes.ndim)])
    return codes.astype(np.float32) * inverse
