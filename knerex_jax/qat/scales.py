"""Which scales of a plan may be learned, and the formats that learned ones make.

A scale belongs to a class of channels that share it (`Structure.classes`): what is learned is one log2 factor per
class. All members of a class move together, so that every constraint of the plan stays met; the scale of a product
moves as its operands do. Radices follow in whole bits: a scale is kept within the octave it came from.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from knerex_jax.fixedpoint.qformat import MAX_RADIX, MIN_RADIX, QFormat
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.structure import Structure

REACH = 4.0
"""Bits by which a scale may move at most."""

Product = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Classes of the output and of both operands, channel by channel."""


@dataclass(frozen=True)
class ScaleClasses:
    """The scales of a plan as one vector of log2 factors.

    Attributes:
      formats: tensor -> format of the plan that training starts from.
      classes: tensor -> int [C], or [1] per layer, number of the class of each channel.
      products: in topological order.
      free: bool [classes], what may be learned.
      moves_radix: whether a scale that leaves its octave moves the radix; not where a radix holds for a whole layer.
    """

    formats: Mapping[str, QFormat]
    classes: Mapping[str, np.ndarray]
    products: tuple[Product, ...]
    free: np.ndarray
    moves_radix: bool

    @classmethod
    def of(cls, planned: Planned, held: Collection[str], *, per_channel_radix: bool) -> "ScaleClasses":
        """The classes of a plan.

        Args:
          planned: the plan.
          held: tensors whose formats must stay, with all that share their scales.
          per_channel_radix: of the platform.
        """
        structure, formats = planned.structure, planned.plan.formats
        classes = {t: structure.classes[t][: len(f.scale)] for t, f in formats.items()}
        products = _products(structure, formats)
        count = 1 + max((int(c.max()) for c in structure.classes.values()), default=0)
        free = np.zeros(count, bool)
        for c in classes.values():
            free[c] = True
        for t in held:
            free[classes[t]] = False
        return cls(formats, classes, products, _independent(free, products), per_channel_radix)

    def moved(self, log2: np.ndarray) -> np.ndarray:
        """What every class is multiplied by, log2, float32 [classes], products included."""
        moved = np.where(self.free, np.clip(log2, -REACH, REACH), np.float32(0))
        for y, a, b in self.products:
            moved[y] = moved[a] + moved[b]
        return moved

    def slopes(self, log2: np.ndarray, slopes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Gradients with respect to `log2`, float32 [classes].

        Args:
          log2: the values.
          slopes: tensor -> gradients with respect to the log2 of its factor, shaped like that.
        """
        found = np.zeros(len(self.free))
        for t, slope in slopes.items():
            np.add.at(found, self.classes[t], slope.reshape(-1))
        for y, a, b in reversed(self.products):
            each, first = np.unique(y, return_index=True)
            for operand in (a, b):
                np.add.at(found, operand[first], found[each])
            found[each] = 0
        return np.where(self.free & (np.abs(log2) <= REACH), found, 0).astype(np.float32)

    def planned(self, log2: np.ndarray) -> dict[str, QFormat]:
        """The formats, every scale rounded to float32 once."""
        moved = self.moved(log2).astype(np.float64)
        scale = np.ones(len(self.free))
        for t, c in self.classes.items():
            scale[c] = self.formats[t].scale
        wanted = scale * np.exp2(moved)
        octave = self._octaves(scale, wanted)
        made = np.ldexp(wanted, -octave).astype(np.float32)
        for y, a, b in self.products:
            made[y] = np.float32(made[a].astype(np.float64) * made[b])
        # A class that did not move keeps its scale bit for bit.
        made = np.where(moved == 0, scale.astype(np.float32), made)
        return {
            t: replace(f, scale=made[c], radix=(f.radix + octave[c]).astype(np.int32))
            for t, f in self.formats.items()
            for c in (self.classes[t],)
        }

    def _octaves(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Bits that go over to the radix, int64 [classes]; none where a radix would leave its limits."""
        if not self.moves_radix:
            return np.zeros(len(before), np.int64)
        octave = (np.frexp(after)[1] - np.frexp(before)[1]).astype(np.int64)
        for t, c in self.classes.items():
            radix = self.formats[t].radix + octave[c]
            octave[c[(radix < MIN_RADIX) | (radix > MAX_RADIX)]] = 0
        for y, a, b in self.products:
            octave[y] = octave[a] + octave[b]
        return octave


def _products(structure: Structure, formats: Mapping[str, QFormat]) -> tuple[Product, ...]:
    found = []
    for y, a, b in structure.products:
        classes = structure.classes[y]
        operands = [structure.classes[t][:1] if t in structure.layer else structure.classes[t] for t in (a, b)]
        found.append((classes, *(np.broadcast_to(c, classes.shape) for c in operands)))
    return tuple(found)


def _independent(free: np.ndarray, products: tuple[Product, ...]) -> np.ndarray:
    """Without classes that would have to agree: a product that must stay, or that two pairs of operands impose on."""
    free = free.copy()
    while True:
        before = free.copy()
        imposed: dict[int, tuple[int, int]] = {}
        for y, a, b in products:
            for c, *pair in zip(y.tolist(), a.tolist(), b.tolist(), strict=True):
                pair = (min(pair), max(pair))
                if imposed.setdefault(c, pair) != pair:
                    free[[*pair, *imposed[c]]] = False
                if not free[c]:
                    free[list(pair)] = False
                if not free[list(pair)].any():
                    free[c] = False
        if (free == before).all():
            return free
