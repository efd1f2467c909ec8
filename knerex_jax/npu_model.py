"""A compiled model as users run it: arrays in, arrays out, the hardware simulator in between."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from knerex_jax.artifacts.bie import Bie
from knerex_jax.compiler.build import Compiled, Progress, Request, compile_program
from knerex_jax.compiler.layout import byte_size, decode, encode
from knerex_jax.csim.machine import Machine, dequantize, quantize
from knerex_jax.errors import ModelError
from knerex_jax.nef.container import load_nef, model_of
from knerex_jax.npu.isa import Format, NpuProgram
from knerex_jax.targets.machine import Machine as Hardware


def compile_bie(
    bie: Bie,
    *,
    fm_cut: str = "default",
    input_format: Format | None = None,
    machine: Hardware | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles a fixed-point model for its platform.

    Args:
      bie: the model.
      fm_cut: "default" or "deep_search".
      input_format: of all inputs, instead of the usual one of each.
      machine: the platform's, unless another one is meant.
      progress: called with (instructions compiled, instructions).

    Raises:
      ConfigError: an unknown fm_cut.
      CompileError: an instruction needs more memory than there is on chip, however it is cut.
    """

    def numbers(tensor: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        held = bie.plan.formats[tensor]
        return tuple(held.radix.tolist()), tuple(held.scale.tolist())

    formats = {} if input_format is None else dict.fromkeys(bie.program.inputs, input_format)
    request = Request(
        bie.program, bie.constants, host=bie.header.get("cpu_nodes", ()), input_formats=formats, numbers=numbers,
        machine=machine,
    )  # fmt: skip
    return compile_program(request, fm_cut=fm_cut, progress=progress)


@dataclass(frozen=True)
class NpuModel:
    """An NPU program with its constants. It plays the driver: quantizes inputs, lays out bytes, reads them back.

    Attributes:
      program: commands and buffers.
      weight: the weight segment.
    """

    program: NpuProgram
    weight: bytes

    @classmethod
    def load(cls, path: str | Path, *, model_id: int | None = None, key: bytes | None = None) -> "NpuModel":
        """Reads a model of a nef: the one with that id, or the only one.

        Raises:
          ArtifactError: the nef cannot be read, or has no such model.
        """
        model = model_of(load_nef(path, key=key), model_id, str(path))
        return cls(model.program, model.weight)

    @cached_property
    def machine(self) -> Machine:
        """The simulator with the constants in place."""
        return Machine(self.program, self.weight)

    @property
    def inner(self) -> tuple[str, ...]:
        """Tensors that are whole somewhere and computed, beside the outputs: they can be tapped."""
        outputs = {port.name for port in self.program.outputs}
        computed = (t for t, n in self.program.tensors if self.program.buffers[n].memory in ("sram", "working"))
        return tuple(t for t in computed if t not in outputs)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        data_type: Literal["float", "fixed"] = "float",
        *,
        taps: Collection[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs N samples, one after the other.

        Args:
          inputs: name -> [N, ...] in place of the model's batch axis.
          data_type: "fixed" for codes (int32), "float" for real units (float32); plain outputs are as they are.
          taps: tensors of `program.tensors` wanted, too, always as codes.
          progress: called with (commands run, commands) of a sample.

        Returns:
          Name -> [N, *shape without its batch axis].

        Raises:
          ModelError: an input is missing, or has another shape.
          SimulationError: the program does what the machine forbids.
        """
        if missing := [p.name for p in self.program.inputs if p.name not in inputs]:
            raise ModelError("inputs are missing", where=", ".join(missing), fix="give all inputs of the model")
        count = len(next(iter(inputs.values())))
        samples = []
        for k in range(count):
            found: dict[str, np.ndarray] = {}
            one = {t: v[k] for t, v in inputs.items()}
            found |= self.visit(one, found.__setitem__, data_type, taps=taps, progress=progress)
            samples.append(found)
        return {t: np.stack([s[t] for s in samples]) for t in samples[0]}

    def visit(
        self,
        sample: Mapping[str, np.ndarray],
        sink: Callable[[str, np.ndarray], None],
        data_type: Literal["float", "fixed"] = "float",
        *,
        taps: Collection[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs one sample; `sink` gets every tap as soon as it is complete, so that they need not all be held.

        Args:
          sample: name -> array in place of the model's batch axis.
          sink: called with (tensor, codes [*shape without its batch axis]).
          data_type: as in `run`, of the outputs, which are returned.
          taps: as in `run`.
          progress: as in `run`.

        Raises:
          ModelError: an input has another shape.
          SimulationError: the program does what the machine forbids.
        """
        platform, data = self.program.platform, {}
        for port in self.program.inputs:
            buffer = self.program.buffers[port.buffer]
            value = np.asarray(sample[port.name])
            if value.size != int(np.prod(buffer.shape)):
                raise ModelError(
                    f"a sample of shape {value.shape}", where=port.name, fix=f"give samples of shape {buffer.shape[1:]}"
                )
            codes = quantize(port, value.reshape(buffer.shape), buffer.bits) if buffer.bits else value
            data[port.name] = encode(codes, buffer, platform)
        made, _ = self.machine.run(data, taps=taps, sink=lambda t, v: sink(t, _unbatched(v)), progress=progress)
        found = {}
        for port in self.program.outputs:
            buffer = self.program.buffers[port.buffer]
            raw = made[port.name].ljust(byte_size(buffer, platform), b"\0")
            codes = decode(raw, buffer, platform)
            real = data_type == "float" and buffer.bits
            found[port.name] = _unbatched(dequantize(port, codes) if real else codes)
        return found


def _unbatched(value: np.ndarray) -> np.ndarray:
    """One sample without the batch axis of 1."""
    return value[0] if value.ndim and value.shape[0] == 1 else value
