"""How good plans of one program are: the noise of their integers at the outputs of the model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.run import Emulator, dequantize
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import noise_share
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program
from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.sensitivity import judged_outputs, run_float

FLAT = 8.0
"""Behind a sigmoid, values beyond this, either way, are one: it is within 0.0004 of its end."""


@dataclass(frozen=True)
class NoiseMeter:
    """Runs plans on the same samples; compiles again only where a plan needs another program or other methods.

    Attributes:
      inputs: name -> [N, ...] in place of the model's batch axis.
      reference: tensor -> [N, ...], what the float model makes of them.
      batch_size: samples per compiled step.
      sigmoids: those of the reference that a sigmoid follows; they count as far as it is not flat.
    """

    inputs: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray]
    batch_size: int = 16
    sigmoids: frozenset[str] = frozenset()
    _emulators: list[Emulator] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        model: Model,
        inputs: Mapping[str, np.ndarray],
        registry: Mapping[str, OpDef] = REGISTRY,
        batch_size: int = 16,
        sigmoids: Collection[str] = (),
    ) -> "NoiseMeter":
        """Measures at the outputs of a model; at what goes into a softmax or sigmoid, whose ends would hide noise.

        Args:
          model: decomposed.
          inputs: name -> [N, ...] in place of the model's batch axis.
          registry: operator records.
          batch_size: samples per compiled step.
          sigmoids: outputs that a sigmoid outside the model follows. What it makes one is one here; the rest counts
            in front of it, as inside the model: behind it, scores that only their order tells apart would not count.

        Raises:
          ModelError: the inputs do not fit the model.
          ConfigError: no output is a real number, so there is nothing to measure.
        """
        behind = {t for t, held in judged_outputs(model).items() if all(output in sigmoids for output in held)}
        return cls(inputs, run_float(model, inputs, registry, batch_size).outputs, batch_size, frozenset(behind))

    def prepare_for(self, plans: Sequence[Planned]) -> None:
        """Sees to it that plans of one program share an emulator."""
        groups: dict[object, list[Planned]] = {}
        for planned in plans:
            groups.setdefault(planned.program, []).append(planned)
        for program, same in groups.items():
            made = Emulator.of(same[0].program, *(p.constants for p in same))
            if not any(e.program == program and e.covers(made.bounds) for e in self._emulators):
                self._emulators.append(made)

    def by_output(self, planned: Planned) -> dict[str, float]:
        """Energy of the error over energy of the signal (1 / SNR) of every tensor of the reference."""
        emulator, taps = self._emulator(planned), tuple(self.reference)
        params: Any = jax.device_put(prepare(planned.program, planned.constants))
        codes = emulator.codes(params, self.inputs, taps=taps, batch_size=self.batch_size)
        return {t: self._share(t, dequantize(planned.program, planned.constants, t, codes[t])) for t in taps}

    def __call__(self, planned: Planned) -> float:
        """The mean of `by_output`."""
        return float(np.mean(list(self.by_output(planned).values())))

    def part(self, chosen: np.ndarray | slice) -> "NoiseMeter":
        """The same emulators on some of the samples (bool [N], or a slice)."""
        inputs, reference = ({t: v[chosen] for t, v in a.items()} for a in (self.inputs, self.reference))
        return NoiseMeter(inputs, reference, self.batch_size, self.sigmoids, self._emulators)

    def _emulator(self, planned: Planned) -> Emulator:
        bounds = bound_program(planned.program, planned.constants)
        for emulator in self._emulators:
            if emulator.program == planned.program and emulator.covers(bounds):
                return emulator
        self._emulators.append(Emulator(planned.program, bounds))
        return self._emulators[-1]

    def _share(self, tensor: str, made: np.ndarray) -> float:
        end = FLAT if tensor in self.sigmoids else np.inf
        return noise_share(np.clip(self.reference[tensor], -end, end), np.clip(made, -end, end))
