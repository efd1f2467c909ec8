"""How good a plan is for the objective, on samples that training does not see, by its integers alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from knerex_jax.emulator.run import Emulator, dequantize
from knerex_jax.metrics import noise_share
from knerex_jax.qat.objective import Objective
from knerex_jax.quantize.planner import Planned


@dataclass(frozen=True)
class Judged:
    """A judgement.

    Attributes:
      noise: energy of the error over energy of the signal at the judged tensors, their mean.
      loss: what decides: the noise, and the user's loss beside it if there is one.
    """

    noise: float
    loss: float

    @property
    def snr_db(self) -> float:
        """The noise in dB."""
        return float(-10 * np.log10(max(self.noise, 1e-30)))


@dataclass(frozen=True)
class Judge:
    """Samples, and what the float model makes of them.

    Attributes:
      objective: what counts; inner tensors do not.
      inputs: name -> [N, ...] in place of the model's batch axis.
      reference: tensor -> [N, *shape], the float model's values.
      labels: [N, ...] or None.
      batch_size: samples per compiled step.
    """

    objective: Objective
    inputs: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    batch_size: int

    def __call__(self, emulator: Emulator, integers: Any, planned: Planned) -> Judged:
        """Judges a plan.

        Args:
          emulator: that its integers run on.
          integers: `prepare`d.
          planned: the plan.
        """
        taps = tuple(self.reference)
        codes = emulator.codes(integers, self.inputs, taps=taps, batch_size=self.batch_size)
        made = {t: dequantize(planned.program, planned.constants, t, codes[t]) for t in taps}
        counted = self.objective.counted
        shares = [noise_share(counted(t, self.reference[t]), counted(t, made[t])) for t in self.objective.judged]
        noise = float(np.mean(shares))
        config = self.objective.config
        if config.loss is None:
            return Judged(noise, noise)
        ours, wanted = (
            {t: jnp.asarray(_like(v[t], made[t])) for t in self.objective.real_outputs} for v in (made, self.reference)
        )
        own = float(self.objective.own_loss(ours, wanted, self.labels))
        return Judged(noise, config.distillation_weight * noise + config.loss_weight * own)


def _like(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    return values.reshape(other.shape)
