"""The state of a training on disk, so that one that was cut off goes on to the same weights.

One file that is whole or not there, keyed by all that decides the result; another key, and it is ignored. The state is
small, equal on all devices and on one host, so it needs none of the machinery of a library for sharded checkpoints.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from knerex_jax.calibrate.npz import read_npz, write_npz
from knerex_jax.errors import ArtifactError
from knerex_jax.qat.subject import Trainable

CHECKPOINT = "qat.partial.npz"
"""Name of the file in the output folder; it is removed when the run is done."""

_KIND = "unfinished fine-tuning"
_SHARE = 20
"""A checkpoint that took s seconds to write is followed by the next after 20 s at the earliest."""


@dataclass(frozen=True)
class Progressed:
    """A training after a judgement.

    Attributes:
      step: steps done.
      trained: what they made.
      optimizer: state of the optimizer.
      best: what was best on held-out samples.
      best_loss: its loss there.
      stale: judgements since then.
      rows: one per judgement: what the CSV file says.
    """

    step: int
    trained: Trainable
    optimizer: Any
    best: Trainable
    best_loss: float
    stale: int
    rows: tuple[dict[str, float], ...]

    @property
    def _arrays(self) -> dict[str, Any]:
        return {"trained": self.trained, "optimizer": self.optimizer, "best": self.best}


@dataclass
class TrainingCheckpoints:
    """The one file of a training.

    Attributes:
      path: of the file.
      key: what the result depends on.
    """

    path: Path
    key: str
    _next: float = field(default_factory=time.monotonic, repr=False)

    def load(self, start: Progressed) -> Progressed | None:
        """Where an earlier training of the same key was cut off.

        Args:
          start: a state of the same structure.
        """
        try:
            meta, arrays = read_npz(self.path, _KIND)
        except ArtifactError:
            return None
        if meta["key"] != self.key:
            return None
        leaves, structure = jax.tree.flatten(start._arrays)
        held = [arrays[f"{k}"].astype(np.asarray(leaf).dtype) for k, leaf in enumerate(leaves)]
        plain = {k: meta[k] for k in ("step", "best_loss", "stale")}
        return Progressed(**plain, rows=tuple(meta["rows"]), **jax.tree.unflatten(structure, held))

    def save(self, state: Progressed) -> None:
        """Writes the state, unless the last time was too recent for what it takes."""
        started = time.monotonic()
        if started < self._next:
            return
        arrays = {f"{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(state._arrays))}
        meta = {"key": self.key, "step": state.step, "best_loss": state.best_loss, "stale": state.stale}
        write_npz(self.path, _KIND, {**meta, "rows": list(state.rows)}, arrays)
        done = time.monotonic()
        self._next = done + _SHARE * (done - started)


def discard(folder: Path) -> None:
    """Removes the checkpoint of a training whose result has been written."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
