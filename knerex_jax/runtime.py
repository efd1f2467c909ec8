"""Models that run: the float one and the fixed one, with the same face."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from knerex_jax.artifacts.bie import Bie, load_bie
from knerex_jax.artifacts.stages import load_scaled
from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.run import Emulator, dequantize, run_batches
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.lowering.batch import lower_batch
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.load import load_onnx
from knerex_jax.ops.opdef import OpDef
from knerex_jax.parallel.devices import data_mesh, over_devices, replicated
from knerex_jax.program.program import Program

DataType = Literal["float", "fixed"]


@dataclass(frozen=True)
class FloatModel:
    """A float model, compiled once.

    Attributes:
      model: bound graph and constants.
      ops: operator records.
      mesh: devices that share a batch, which has to divide among them; None: one takes it all.
    """

    model: Model
    ops: Mapping[str, OpDef] = field(default_factory=lambda: REGISTRY, repr=False, hash=False)
    mesh: Mesh | None = field(default=None, repr=False, compare=False)

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
    def step(self) -> tuple[Callable[..., Any], Any]:
        """The compiled function of (params, {input: [batch, *shape]}) -> {output: array}, and its params."""
        fn, params = lower_batch(self.model, registry=self.ops)
        return jax.jit(over_devices(fn, self.mesh)), replicated(params, self.mesh)

    def run(self, inputs: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Runs N samples: name -> [N, ...] in place of the model's batch axis; float32 results shaped likewise.

        Raises:
          ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
        """
        types = self.model.graph.types
        wanted = {t: types[t] for t in self.model.graph.inputs}
        fn, params = self.step
        results = run_batches(fn, params, stack_inputs(inputs, wanted), wanted, batch_size)
        ordered = {t: results[t] for t in self.model.graph.outputs}  # jax sorts them
        return {t: v if types[t].real else v.astype(types[t].dtype) for t, v in ordered.items()}


@dataclass(frozen=True)
class FixedModel:
    """A fixed-point model and its bit-true emulation.

    Attributes:
      shared: an emulator of the same program whose bounds hold for this plan, too; None compiles one.
      mesh: devices that share a batch, which has to divide among them; None: one takes it all.
    """

    bie: Bie
    shared: Emulator | None = field(default=None, repr=False, compare=False)
    mesh: Mesh | None = field(default=None, repr=False, compare=False)

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
    def _emulator(self) -> Emulator:
        return self.shared or Emulator.of(self.program, self.bie.constants)

    @cached_property
    def _params(self) -> Any:
        return replicated(prepare(self.program, self.bie.constants), self.mesh)

    def run(
        self,
        inputs: Mapping[str, Any],
        data_type: DataType = "float",
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 32,
        devices: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs N samples through the emulator.

        Args:
          inputs: name -> float array [N, ...] in place of the model's batch axis.
          data_type: "fixed" for codes (int8, or int16 for 15-bit tensors), "float" for dequantized float32; integers
            and booleans of the model come as they are either way.
          taps: tensors to return instead of the outputs.
          batch_size: samples per compiled step.
          devices: of this process, among which each batch is divided; None: those of `mesh`. The codes do not depend on
            it.

        Raises:
          ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
          ConfigError: unknown data_type or tensor, or fewer devices.
        """
        if data_type not in ("float", "fixed"):
            raise ConfigError(f"unknown data_type {data_type!r}", where="run", fix="use 'float' or 'fixed'")
        mesh = self.mesh if devices is None else data_mesh(devices)
        codes = self._emulator.codes(self._params, inputs, taps=taps, batch_size=batch_size, mesh=mesh)
        return codes if data_type == "fixed" else {t: self.dequantize(t, c) for t, c in codes.items()}

    def dequantize(self, tensor: str, codes: np.ndarray) -> np.ndarray:
        """Codes [N, ...] -> float32: one product by float32(1 / (scale * 2**radix)); plain tensors as they are."""
        return dequantize(self.program, self.bie.constants, tensor, codes)
