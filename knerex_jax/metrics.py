"""How close a result is to what it should be: SNR (section 5 of the arithmetic contract), and scores by labels."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit

_AT_ONCE = 1 << 20
"""Values that are in float64 at a time: outputs of a whole data set are large."""


def snr_db(reference: np.ndarray, approximate: np.ndarray) -> float:
    """10 log10(sum ref^2 / sum (ref - approx)^2), pooled over everything; inf without error, -inf without signal."""
    return _decibel(_signal_and_noise(reference, approximate))


def noise_share(reference: np.ndarray, approximate: np.ndarray) -> float:
    """Energy of the error over energy of the reference (1 / SNR), pooled over all; without signal 1, or 0 if equal."""
    signal, noise = _signal_and_noise(reference, np.reshape(approximate, np.shape(reference)))
    return noise / signal if signal else float(noise > 0)


def _signal_and_noise(reference: np.ndarray, approximate: np.ndarray) -> tuple[float, float]:
    """Energies of the reference and of the error, pooled over everything, in float64, some values at a time."""
    ref, approx = np.ravel(reference), np.ravel(approximate)
    energies = np.zeros(2)
    for start in range(0, len(ref), _AT_ONCE):
        wide = ref[start : start + _AT_ONCE].astype(np.float64)
        energies += np.sum(wide**2), np.sum((wide - approx[start : start + _AT_ONCE]) ** 2)
    return float(energies[0]), float(energies[1])


def behind_sigmoids(values: Mapping[str, np.ndarray], outputs: Collection[str]) -> dict[str, np.ndarray]:
    """The same arrays, and of the outputs named what a sigmoid outside the model makes of them (section 6)."""
    return {t: expit(v) if t in outputs else v for t, v in values.items()}


def output_snr(
    reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], sigmoids: Collection[str] = ()
) -> dict[str, float]:
    """`snr_db` of every output of the reference, behind their sigmoids where these follow."""
    wanted, made = (behind_sigmoids(v, sigmoids) for v in (reference, found))
    return {t: snr_db(wanted[t], made[t]) for t in wanted}


@dataclass(frozen=True)
class Metric:
    """A score of a model on labelled data: the mean of numbers that every sample gives by itself.

    Attributes:
      each: (outputs, name -> [b, ...]; the labels of these b samples) -> numbers [b] or [b, k].
      score: makes the score of their mean, a float64 or [k]; None: the mean is it (k = 1).
    """

    each: Callable[[Mapping[str, np.ndarray], Sequence[Any]], Any]
    score: Callable[[Any], float] | None = None


def _in_first(outputs: Mapping[str, np.ndarray], labels: Sequence[Any], count: int) -> np.ndarray:
    """Whether the label is among the largest `count` values of the first output; of equal ones the first come first."""
    values = next(iter(outputs.values()))
    order = np.argsort(-values.reshape(len(values), -1).astype(np.float64), axis=1, kind="stable")[:, :count]
    return (order == np.asarray(labels).astype(np.int64).reshape(-1, 1)).any(1)


def _differences(outputs: Mapping[str, np.ndarray], labels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(what the first output should be, how far it is from that), float64 [b, values]."""
    values = next(iter(outputs.values()))
    wanted = np.stack([np.asarray(label, np.float64).reshape(values.shape[1:]) for label in labels])
    return wanted.reshape(len(values), -1), (values - wanted).reshape(len(values), -1)


def _powers(outputs: Mapping[str, np.ndarray], labels: Sequence[Any]) -> np.ndarray:
    """Sums of squares of what should be and of the noise, [b, 2]."""
    return np.stack([np.square(part).sum(1) for part in _differences(outputs, labels)], axis=1)


def _decibel(powers: Sequence[float] | np.ndarray) -> float:
    """Of signal over noise; inf without noise, -inf without signal."""
    signal, noise = powers
    return float("inf") if noise == 0 else float("-inf") if signal == 0 else 10 * float(np.log10(signal / noise))


METRICS: Mapping[str, Metric] = {
    "top1": Metric(partial(_in_first, count=1)),
    "top5": Metric(partial(_in_first, count=5)),
    "mse": Metric(lambda outputs, labels: np.square(_differences(outputs, labels)[1]).mean(1)),
    "mae": Metric(lambda outputs, labels: np.abs(_differences(outputs, labels)[1]).mean(1)),
    "snr_db": Metric(_powers, _decibel),
}
"""Scores by name, of the first output: labels are class numbers for top1 and top5, else arrays of its shape."""
