"""Headroom and guard of 15-bit data, chosen on calibration samples that did not set the ranges.

Both cost bits of every code and pay where data exceed what calibration saw: headroom in every channel, a narrow guard
in small channels, whose ranges rest on little. How much data will exceed cannot be told by the samples that made the
ranges: each of some folds is judged with ranges of the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.noise import NoiseMeter

HEADROOMS = (2.0, 1.5, 1.0, 0.5, 0.0)
"""Bits of headroom that a search tries with every guard."""

MOST = 3.0
"""And this with the default guard, should the default headroom not be enough."""

LEAST_GAIN_DB = 2.0
"""Smaller differences are unproven (contract, section 1)."""


class Room(NamedTuple):
    """Bits of headroom, and guard_bits."""

    headroom: float
    guard: int

    def __str__(self) -> str:
        return f"guard {self.guard}, headroom {self.headroom:g}"


@dataclass(frozen=True)
class Fold:
    """Samples that judge, and the plans for ranges of all others.

    Attributes:
      plans: by their room.
      meter: of the samples that judge.
    """

    plans: Mapping[Room, Planned] = field(repr=False)
    meter: NoiseMeter = field(repr=False)


@dataclass(frozen=True)
class RoomChoice:
    """The outcome of a search.

    Attributes:
      chosen: headroom and guard.
      snr_db: room -> SNR in dB of every fold on its held-out samples.
    """

    chosen: Room
    snr_db: Mapping[Room, tuple[float, ...]]


def rooms(default: Room, guards: Sequence[int]) -> tuple[Room, ...]:
    """What a search tries: guards as narrow as the default's or narrower."""
    tried = [Room(headroom, g) for g in sorted(guards) if g <= default.guard for headroom in HEADROOMS]
    return tuple(dict.fromkeys((default, Room(MOST, default.guard), *tried)))


def search_room(folds: Sequence[Fold], default: Room, progress: Callable[[int, int], None] | None = None) -> RoomChoice:
    """Measures the plans of all folds.

    Args:
      folds: all with plans for the same rooms.
      default: stays where another gains less than `LEAST_GAIN_DB`.
      progress: called with (plans measured, plans to measure).
    """
    folds[0].meter.prepare_for([p for fold in folds for p in fold.plans.values()])
    found: dict[Room, tuple[float, ...]] = dict.fromkeys(folds[0].plans, ())
    for k, fold in enumerate(folds):
        for i, (room, planned) in enumerate(fold.plans.items()):
            found[room] += (float(-10 * np.log10(max(fold.meter(planned), 1e-30))),)
            if progress is not None:
                progress(k * len(found) + i + 1, len(folds) * len(found))
    return RoomChoice(choose_room(found, default), found)


def choose_room(snr_db: Mapping[Room, Sequence[float]], default: Room) -> Room:
    """The default, unless another is better by `LEAST_GAIN_DB`; of those as good as the best, the one with most room.

    That is the largest headroom, and the narrowest guard with it. Folds count by their decibels: what exceeds the
    ranges in one of them decides where it ruins that fold and a little room saves it, but a single freak, which the
    ranges of all samples hold, does not cost all other data their codes.
    """
    mean = {room: float(np.mean(each)) for room, each in snr_db.items()}
    good = [room for room, snr in mean.items() if snr >= max(mean.values()) - LEAST_GAIN_DB]
    return default if default in good else max(good, key=lambda room: (room.headroom, -room.guard))
