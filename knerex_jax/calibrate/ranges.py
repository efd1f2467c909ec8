"""The ranges that formats are made for: per tensor and per channel, at an 8-bit and at a 15-bit cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from knerex_jax.calibrate.npz import read_npz, write_npz
from knerex_jax.errors import ArtifactError

_CUTS = ("narrow", "wide")
_ARRAYS = ("layer_min", "layer_max", "channel_min", "channel_max")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cut:
    """Range of the values that one cut keeps, in real units.

    Attributes:
      layer_min: smallest kept value of the tensor.
      layer_max: largest.
      channel_min: float32 [C], smallest kept value of each channel, the cut taken per channel.
      channel_max: float32 [C], largest.
    """

    layer_min: float
    layer_max: float
    channel_min: np.ndarray
    channel_max: np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TensorRange:
    """Ranges of one tensor.

    Attributes:
      narrow: at the cut for 8-bit types.
      wide: at the cut for 15-bit types.
      axis: channel axis, None for one channel in all.
      values_per_channel: number of values each channel's range rests on (samples times positions).
    """

    narrow: Cut
    wide: Cut
    axis: int | None = field(metadata=dict(static=True))
    values_per_channel: int = field(metadata=dict(static=True))

    def cut(self, bits: int) -> Cut:
        """The record for data of that many significant bits."""
        return self.narrow if bits <= 8 else self.wide

    def layer_absmax(self, bits: int) -> float:
        """Largest kept magnitude of the tensor."""
        cut = self.cut(bits)
        return max(abs(float(cut.layer_min)), abs(float(cut.layer_max)))

    def channel_absmax(self, bits: int) -> np.ndarray:
        """Largest kept magnitude of each channel, float32 [C]."""
        cut = self.cut(bits)
        return np.maximum(np.abs(cut.channel_min), np.abs(cut.channel_max))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ranges:
    """Ranges of all observed tensors.

    Attributes:
      tensors: tensor name -> ranges.
      samples: number of calibration samples.
      pct: share of magnitudes that the narrow cut keeps.
      pct_wide: share that the wide cut keeps.
      hints: advice about the data, for the user.
      method: "percentage", or "mmse": then the cuts are those of least error, and pct and pct_wide were not read.
    """

    tensors: Mapping[str, TensorRange]
    samples: int = field(metadata=dict(static=True))
    pct: float = field(metadata=dict(static=True))
    pct_wide: float = field(metadata=dict(static=True))
    hints: tuple[str, ...] = field(default=(), metadata=dict(static=True))
    method: str = field(default="percentage", metadata=dict(static=True))

    def __getitem__(self, tensor: str) -> TensorRange:
        return self.tensors[tensor]

    def __contains__(self, tensor: object) -> bool:
        return tensor in self.tensors

    def save(self, path: str | Path) -> None:
        """Writes an `.npz`, whole or not at all.

        Raises:
          ArtifactError: it cannot be written.
        """
        meta = {
            "samples": self.samples,
            "pct": self.pct,
            "pct_wide": self.pct_wide,
            "hints": self.hints,
            "method": self.method,
            "tensors": [
                {"name": t, "axis": r.axis, "values_per_channel": r.values_per_channel} for t, r in self.tensors.items()
            ],
        }
        arrays = {
            f"{i}/{cut}/{key}": np.asarray(getattr(getattr(r, cut), key))
            for i, r in enumerate(self.tensors.values())
            for cut in _CUTS
            for key in _ARRAYS
        }
        write_npz(path, "calibration ranges", meta, arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Ranges":
        """Reads what `save` wrote.

        Raises:
          ArtifactError: missing, damaged, of another kind or newer.
        """
        meta, arrays = read_npz(path, "calibration ranges")
        try:
            tensors = {}
            for i, entry in enumerate(meta.pop("tensors")):
                cuts = {}
                for cut in _CUTS:
                    low, high, lows, highs = (arrays[f"{i}/{cut}/{key}"] for key in _ARRAYS)
                    cuts[cut] = Cut(float(low), float(high), lows, highs)
                name = entry.pop("name")
                tensors[name] = TensorRange(**cuts, **entry)
            return cls(tensors, **{**meta, "hints": tuple(meta["hints"])})
        except (KeyError, TypeError, ValueError) as e:
            raise ArtifactError(f"incomplete: {e}", where=str(path), fix="calibrate and save again") from e
