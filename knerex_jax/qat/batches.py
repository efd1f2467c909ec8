"""The samples of a training step: which, in which order, and mixtures of two.

A float model teaches any input, so two samples mixed in some proportion are a third: few calibration samples then teach
as more would (H. Zhang et al., "mixup", ICLR 2018; L. Beyer et al., "Knowledge distillation: a good teacher is patient
and consistent", CVPR 2022).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from knerex_jax.errors import ConfigError
from knerex_jax.qat.config import QATConfig


@dataclass(frozen=True)
class Mixing:
    """What the samples of a batch are mixed with.

    Attributes:
      partners: [B], places of other samples.
      shares: float32 [B], of the partner in the mixture, 0 to 1.
    """

    partners: np.ndarray
    shares: np.ndarray

    def of(self, batch: np.ndarray, array: np.ndarray) -> np.ndarray:
        """The mixtures of a batch [B, ...] with samples of the array [N, ...] that it was taken from."""
        share = self.shares.reshape(-1, *[1] * (batch.ndim - 1)).astype(batch.dtype)
        return batch + (array[self.partners] - batch) * share


@dataclass(frozen=True)
class Drawn:
    """A batch.

    Attributes:
      places: [B], of the samples.
      mixing: with others; None: they stay as they are.
    """

    places: np.ndarray
    mixing: Mixing | None = None

    def of(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch of every input: [N, ...] -> [B, ...]."""
        batch = {t: a[self.places] for t, a in inputs.items()}
        return batch if self.mixing is None else {t: self.mixing.of(a, inputs[t]) for t, a in batch.items()}


@dataclass(frozen=True)
class Batches:
    """The batches of one training; step and seed alone decide each.

    Attributes:
      teaching: places of the samples that teach.
      size: samples per batch.
      seed: of all that is drawn.
      mixup: the share of samples that are mixed with another.
    """

    teaching: np.ndarray
    size: int
    seed: int
    mixup: float

    @classmethod
    def of(cls, config: QATConfig, teaching: np.ndarray, inputs: Mapping[str, np.ndarray]) -> "Batches":
        """The batches of a config.

        Raises:
          ConfigError: what is to be mixed cannot be: integers, or samples whose labels a loss reads.
        """
        if config.mixup:
            for name, array in inputs.items():
                if array.dtype.kind != "f":
                    fix = "leave mixup at 0: such an input names things, and half of two names is no name"
                    raise ConfigError(f"cannot mix input '{name}' of {array.dtype}", where="mixup", fix=fix)
            if config.labels is not None:
                raise ConfigError("a mixture of samples has no label", where="mixup", fix="leave mixup at 0, or labels")
        return cls(teaching, min(config.train_batch, len(teaching)), config.seed, config.mixup)

    def __call__(self, step: int) -> Drawn:
        """The batch of a step; every epoch has an order of its own."""
        epoch, place = divmod(step, len(self.teaching) // self.size)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.teaching)
        places = order[place * self.size :][: self.size]
        if not self.mixup:
            return Drawn(places)
        generator = np.random.default_rng([self.seed, step, 1])
        partners = generator.choice(self.teaching, self.size)
        shares = generator.uniform(0, 1, self.size) * (generator.uniform(0, 1, self.size) < self.mixup)
        return Drawn(places, Mixing(partners, shares.astype(np.float32)))
