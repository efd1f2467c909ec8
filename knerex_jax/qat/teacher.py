"""The float model that a plan is taught by."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from knerex_jax.data.batches import filled_batches
from knerex_jax.parallel.devices import over_devices, replicated, split
from knerex_jax.qat.objective import Objective


@dataclass(frozen=True)
class Teacher:
    """The float model, compiled for itself: its values need no gradients.

    Attributes:
      values: (params, {input: [B, *shape]}) -> {tensor: [B, *shape]}, for all tensors that the loss needs.
      params: of the model, on every device.
      mesh: devices that share a batch.
    """

    values: Callable[[Any, Mapping[str, Array]], Mapping[str, Array]]
    params: Any
    mesh: Mesh

    @classmethod
    def of(cls, objective: Objective, mesh: Mesh) -> "Teacher":
        """The teacher of one training."""
        values, params = objective.float_values()
        return cls(jax.jit(over_devices(values, mesh)), replicated(params, mesh), mesh)

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """The values for a batch that lies on the devices."""
        return self.values(self.params, inputs)

    def all(self, inputs: Mapping[str, np.ndarray], size: int, tensors: Collection[str]) -> dict[str, np.ndarray]:
        """The values for any number of samples, on the host.

        Args:
          inputs: input -> [N, *shape].
          size: samples per batch.
          tensors: to return; for none nothing is computed.
        """
        if not tensors:
            return {}
        parts = []
        for batch, count in filled_batches(inputs, size):
            made = self(split(batch, self.mesh))
            parts.append({t: np.asarray(made[t])[:count] for t in tensors})
        return {t: np.concatenate([p[t] for p in parts]) for t in tensors}
