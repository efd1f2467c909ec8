"""The plan: a format per tensor, and a note for every request that was not applied as asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from knerex_jax.fixedpoint.qformat import ARITH_VERSION, QFormat
from knerex_jax.quantize.note import Note


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantPlan:
    """Everything the integers follow from, given the planned graph and its float32 constants.

    Attributes:
      formats: tensor -> format, for every quantized tensor (a value whose activation is fused has none).
      platform: target name.
      post_multiplier: whether `mac` has the per-channel multiplier, and Add the free operand scales.
      weight_bits: weighted node -> 4, 8 or 15.
      fused: weighted node -> name of the activation node fused into it.
      islands: nodes that run in float on the host between quantized boundaries.
      rescales: names of the inserted rescale nodes (BatchNormalization by ones in the planned graph).
      notes: requested, applied, why.
    """

    formats: Mapping[str, QFormat]
    platform: str = field(metadata=dict(static=True))
    post_multiplier: bool = field(metadata=dict(static=True))
    weight_bits: Mapping[str, int] = field(metadata=dict(static=True))
    fused: Mapping[str, str] = field(metadata=dict(static=True))
    islands: tuple[str, ...] = field(default=(), metadata=dict(static=True))
    rescales: tuple[str, ...] = field(default=(), metadata=dict(static=True))
    notes: tuple[Note, ...] = field(default=(), metadata=dict(static=True))

    def to_json(self) -> dict[str, Any]:
        """Plain data; float32 scales are written with enough digits to return exactly."""
        return {
            "arith_version": ARITH_VERSION,
            "platform": self.platform,
            "post_multiplier": self.post_multiplier,
            "tensors": {
                t: {
                    "bits": f.bits,
                    "axis": f.axis,
                    "radix": f.radix.tolist(),
                    "scale": f.scale.astype(np.float64).tolist(),
                }
                for t, f in self.formats.items()
            },
            "weight_bits": dict(self.weight_bits),
            "fused": dict(self.fused),
            "islands": list(self.islands),
            "rescales": list(self.rescales),
            "notes": [vars(n) for n in self.notes],
        }


def plan_from_json(data: Mapping[str, Any]) -> QuantPlan:
    """The inverse of `QuantPlan.to_json`."""
    formats = {
        t: QFormat(np.asarray(f["radix"], np.int32), np.asarray(f["scale"], np.float32), f["bits"], f["axis"])
        for t, f in data["tensors"].items()
    }
    return QuantPlan(
        formats=formats,
        platform=data["platform"],
        post_multiplier=data["post_multiplier"],
        weight_bits=data["weight_bits"],
        fused=data["fused"],
        islands=tuple(data["islands"]),
        rescales=tuple(data["rescales"]),
        notes=tuple(Note(**n) for n in data["notes"]),
    )
