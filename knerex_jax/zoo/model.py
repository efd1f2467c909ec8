"""What a zoo model is: an ONNX file, arrays to calibrate with, arrays to judge with, and the measures that matter."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from knerex_jax.errors import ConfigError

T = TypeVar("T")

Sample = dict[str, np.ndarray]
"""One input of the model by tensor name, without the batch axis."""

Label = int | str | np.ndarray
"""What is true of one sample: a class, a text, or an array (of the same shape for all samples of a set)."""

Tensors = Mapping[str, np.ndarray]
"""Arrays by tensor name, with N samples in place of the batch axis."""


@dataclass(frozen=True)
class EvaluationSet:
    """Data that calibration never sees.

    Attributes:
      inputs: [N, ...] by input name, in the type and layout of the ONNX input, N samples in place of its batch axis.
      labels: one entry per sample, int64 [N] of classes, text [N] or arrays [N, ...] as the note says; None where the
        truth is not known.
      note: what the samples are and what the labels mean.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    note: str


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A named real model with its data; everything is fetched on demand and is the same on every run.

    Samples come in a fixed order and every prefix is a fair mixture, so a smaller count is a prefix of a larger one.

    Attributes:
      name: short name, as in `ZOO`.
      title: one line for people.
      licence: of the weights.
      packages: the pinned packages that the model and its data come from.
      locate: path of the ONNX file, fetched or built if it is not in the cache.
      calibration_samples: yields samples one by one, in constant memory; endless where samples are random crops.
      calibration_count: how many samples `calibration` gives by default.
      labelled_samples: yields the evaluation samples, each with its label or None.
      note: what the evaluation samples are.
      score: (outputs, outputs of the float model, labels) -> measures.
      input_shapes: full shapes by input name, batch 1, where the file leaves dimensions open that must be stated when
        it is loaded; None where it leaves none but the batch.
      sigmoid_outputs: those that a sigmoid follows outside the model, for `quantize_mode="post_sigmoid"`.
    """

    name: str
    title: str
    licence: str
    packages: tuple[str, ...]
    locate: Callable[[], Path]
    calibration_samples: Callable[[], Iterator[Sample]]
    calibration_count: int
    labelled_samples: Callable[[], Iterator[tuple[Sample, Label | None]]]
    note: str
    score: Callable[[Tensors, Tensors, np.ndarray | None], dict[str, float]]
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    sigmoid_outputs: tuple[str, ...] = ()

    def path(self) -> Path:
        """Path of the float ONNX file."""
        return self.locate()

    def calibration(self, count: int | None = None) -> dict[str, np.ndarray]:
        """Calibration arrays, [count, ...] by input name.

        Raises:
          ConfigError: there are not that many samples.
        """
        count = self.calibration_count if count is None else count
        return stack_samples(_first(self.calibration_samples(), count, self.name))

    def evaluation(self, count: int | None = None) -> EvaluationSet:
        """The evaluation set, or its first `count` samples.

        Raises:
          ConfigError: there are not that many samples.
        """
        pairs = list(self.labelled_samples()) if count is None else _first(self.labelled_samples(), count, self.name)
        labels = [label for _, label in pairs if label is not None]
        assert len(labels) in (0, len(pairs)), "either every sample has a label or none has"
        inputs = stack_samples(sample for sample, _ in pairs)
        return EvaluationSet(inputs, np.array(labels) if labels else None, self.note)

    def metrics(self, outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
        """Scores outputs of a quantized model on the evaluation set (or the float model's own against themselves).

        Args:
          outputs: [N, ...] by output name.
          float_outputs: the float model's outputs for the same samples.
          labels: of the evaluation set.
        """
        return self.score(outputs, float_outputs, labels)


def stack_samples(samples: Iterable[Sample]) -> dict[str, np.ndarray]:
    """Puts samples side by side: [...] each -> [N, ...] by name."""
    listed = list(samples)
    return {name: np.stack([sample[name] for sample in listed]) for name in listed[0]}


def _first(items: Iterator[T], count: int, name: str) -> list[T]:
    taken = list(itertools.islice(items, max(count, 0)))
    if count < 1 or len(taken) < count:
        available = f"1 to {len(taken)}" if count > 0 else "1 or more"
        raise ConfigError(f"{count} samples of {name} are not available", where="count", fix=f"ask for {available}")
    return taken
