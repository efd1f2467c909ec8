"""Models that run: the float one and the fixed one, with the same face."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from knerex_jax.artifacts.bie import Bie, load_bie
from knerex_jax.artifacts.stages import load_scaled
from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.stream import compiler_options, over_samples, samples_at_once
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model, TensorType
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.load import load_onnx
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.program import Program

DataType = Literal["float", "fixed"]


def run_batches(
    fn: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
    params: Any,
    inputs: Mapping[str, np.ndarray],
    types: Mapping[str, TensorType],
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Runs a compiled step over any number of samples; the last batch is padded, so that there is one shape to compile.

    Args:
      fn: jitted and vmapped function of (params, {name: [batch, *model shape]}).
      inputs: name -> [N, *shape without the model's batch axis].
      types: name -> type of the model input.
      params: first argument of fn.
      batch_size: samples per call of fn.

    Returns:
      name -> [N, *shape without the model's batch axis].
    """
    count = len(next(iter(inputs.values())))
    size = min(batch_size, count)
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, size):
        batch = {}
        for name, array in inputs.items():
            part = array[start : start + size]
            part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]) if len(part) < size else part
            batch[name] = part.reshape(size, *types[name].shape)
        for name, value in fn(params, batch).items():
            value = np.asarray(value)[: min(size, count - start)]
            parts.setdefault(name, []).append(value)
    return {name: _drop_batch(np.concatenate(values)) for name, values in parts.items()}


def _drop_batch(array: np.ndarray) -> np.ndarray:
    """[N, 1, ...] -> [N, ...]: the samples take the place of the model's batch axis."""
    return array[:, 0] if array.ndim > 1 and array.shape[1] == 1 else array


@dataclass(frozen=True)
class FloatModel:
    """A float model, compiled once.

    Attributes:
      model: bound graph and constants.
      ops: operator records.
    """

    model: Model
    ops: Mapping[str, OpDef] = field(default_factory=lambda: REGISTRY, repr=False, hash=False)

    @classmethod
    def load(
        cls,
        onnx: str | Path,
        *,
        input_shapes: Mapping[str, tuple[int, ...]] | None = None,
        ops: Mapping[str, OpDef] = REGISTRY,
    ) -> "FloatModel":
        """Reads an ONNX file; the arguments are those of `load_onnx`.

        Raises:
          ModelError: not readable, or a dimension stays unknown.
          UnsupportedOpError: an operator has no rule.
        """
        return cls(load_onnx(onnx, input_shapes=input_shapes, ops=ops), ops)

    @cached_property
    def _compiled(self) -> tuple[Callable[..., Any], Any]:
        fn, params = lower_float(self.model, registry=self.ops)
        return jax.jit(jax.vmap(fn, (None, 0))), jax.device_put(params)

    def run(self, inputs: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Runs N samples: name -> [N, ...] in place of the model's batch axis; float32 results shaped likewise.

        Raises:
          ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
        """
        types = self.model.graph.types
        wanted = {t: types[t] for t in self.model.graph.inputs}
        fn, params = self._compiled
        results = run_batches(fn, params, stack_inputs(inputs, wanted), wanted, batch_size)
        return {t: v if types[t].real else v.astype(types[t].dtype) for t, v in results.items()}


@dataclass(frozen=True)
class FixedModel:
    """A fixed-point model and its bit-true emulation."""

    bie: Bie

    @classmethod
    def load(cls, path: str | Path) -> "FixedModel":
        """Reads a bie (or a `.scaled.onnx`, which carries one).

        Raises:
          ArtifactError: missing, not a bie, newer, cut short or altered.
        """
        return cls(load_scaled(path) if Path(path).suffix == ".onnx" else load_bie(path))

    @property
    def program(self) -> Program:
        return self.bie.program

    @cached_property
    def _compiled(self) -> dict[tuple[str, ...], Callable[..., Any]]:
        return {}

    @cached_property
    def _params(self) -> Any:
        return jax.device_put(prepare(self.program, self.bie.constants))

    def _step(self, taps: tuple[str, ...]) -> Callable[..., Any]:
        if taps not in self._compiled:
            bounds = bound_program(self.program, self.bie.constants)
            methods = choose(self.program, bounds, jax.default_backend())
            fn = over_samples(lower_fixed(self.program, methods, taps=taps), samples_at_once(self.program))
            self._compiled[taps] = jax.jit(fn, compiler_options=compiler_options(jax.default_backend()))
        return self._compiled[taps]

    def run(
        self,
        inputs: Mapping[str, Any],
        data_type: DataType = "float",
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 32,
    ) -> dict[str, np.ndarray]:
        """Runs N samples through the emulator.

        Args:
          inputs: name -> float array [N, ...] in place of the model's batch axis.
          data_type: "fixed" for codes (int8, or int16 for 15-bit tensors), "float" for dequantized float32; integers
            and booleans of the model come as they are either way.
          taps: tensors to return instead of the outputs.
          batch_size: samples per compiled step.

        Raises:
          ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
          ConfigError: unknown data_type or tensor.
        """
        if data_type not in ("float", "fixed"):
            raise ConfigError(f"unknown data_type {data_type!r}", where="run", fix="use 'float' or 'fixed'")
        wanted = self.program.outputs if taps is None else taps
        for t in wanted:
            if t not in self.program.shapes:
                raise ConfigError(f"no tensor {t!r} in the program", where="taps", fix="see program.tensors for names")
        exact = self.program.exact
        types = {
            t: TensorType(exact[t].dtype if t in exact else "float32", self.program.shapes[t])
            for t in self.program.inputs
        }
        codes = run_batches(self._step(tuple(wanted)), self._params, stack_inputs(inputs, types), types, batch_size)
        codes = {t: c.astype(exact[t].dtype) if t in exact else c for t, c in codes.items()}
        return codes if data_type == "fixed" else {t: self.dequantize(t, c) for t, c in codes.items()}

    def dequantize(self, tensor: str, codes: np.ndarray) -> np.ndarray:
        """Codes [N, ...] -> float32: one product by float32(1 / (scale * 2**radix)); plain tensors as they are."""
        if tensor in self.program.exact:
            return codes
        inverse = np.asarray(self.bie.constants[f"tensor:{tensor}"]["inverse"], np.float32)
        info = self.program.tensor[tensor]
        if len(inverse) > 1 and info.axis is not None:
            missing = len(info.shape) - codes.ndim
            inverse = inverse.reshape([-1 if i == info.axis - missing else 1 for i in range(codes.ndim)])
        return codes.astype(np.float32) * inverse
