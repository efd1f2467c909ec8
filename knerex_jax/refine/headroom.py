"""Headroom of 15-bit data, chosen on calibration samples that did not set the ranges.

Headroom costs a bit of every code and pays where data exceed what calibration saw. How much they will cannot be told by
the samples that made the ranges: each of some folds is judged with ranges of the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.noise import NoiseMeter

HEADROOMS = (3.0, 2.0, 1.5, 1.0, 0.5, 0.0)
"""Bits of headroom that a search tries."""

LEAST_GAIN_DB = 1.0
"""A smaller gain is chance."""


@dataclass(frozen=True)
class Fold:
    """Samples that judge, and the plans for ranges of all others.

    Attributes:
      plans: bits of headroom -> plan; of one program.
      meter: of the samples that judge.
    """

    plans: Mapping[float, Planned] = field(repr=False)
    meter: NoiseMeter = field(repr=False)


@dataclass(frozen=True)
class HeadroomChoice:
    """The outcome of a search for the headroom.

    Attributes:
      bits: of headroom.
      snr_db: bits -> SNR in dB of every fold on its held-out samples.
    """

    bits: float
    snr_db: Mapping[float, tuple[float, ...]]


def search_headroom(
    folds: Sequence[Fold], default: float, progress: Callable[[int, int], None] | None = None
) -> HeadroomChoice:
    """Measures the plans of all folds.

    Args:
      folds: all with plans for the same headrooms.
      default: the headroom that stays where another gains less than `LEAST_GAIN_DB`.
      progress: called with (plans measured, plans to measure).
    """
    folds[0].meter.prepare_for([p for fold in folds for p in fold.plans.values()])
    found: dict[float, tuple[float, ...]] = dict.fromkeys(folds[0].plans, ())
    for k, fold in enumerate(folds):
        for i, (bits, planned) in enumerate(fold.plans.items()):
            found[bits] += (float(-10 * np.log10(max(fold.meter(planned), 1e-30))),)
            if progress is not None:
                progress(k * len(found) + i + 1, len(folds) * len(found))
    return HeadroomChoice(choose_headroom(found, default), found)


def choose_headroom(snr_db: Mapping[float, Sequence[float]], default: float) -> float:
    """The default, unless another is better by `LEAST_GAIN_DB`; of those that are as good as the best, the largest.

    Folds count by their decibels: what exceeds the ranges in one of them decides where it ruins that fold and a little
    headroom saves it, but a single freak, which the ranges of all samples hold, does not cost all other data their
    codes.
    """
    mean = {bits: float(np.mean(each)) for bits, each in snr_db.items()}
    good = [bits for bits, snr in mean.items() if snr >= max(mean.values()) - LEAST_GAIN_DB]
    return default if default in good else max(good)
