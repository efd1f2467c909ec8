"""How a plan is fine-tuned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from knerex_jax.errors import ConfigError
from knerex_jax.quantize.config import known_options
from knerex_jax.quantize.options import check_names, in_range

METRICS = "qat.csv"
"""Name of the file of metrics in the output folder."""

NARROW_BITS = 4
"""Weights as narrow as this lose most of what they lose to their own codes."""

_NARROW_RATE, _WIDE_RATE = 0.001, 0.00005

UserLoss = Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]
"""(outputs {name: float32 [B, ...]}, the float model's, labels [B, ...] or None) -> a scalar, by `jax.numpy`."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class QATConfig:
    """One fine-tuning, behind the quantization that a `PTQConfig` asks for.

    Raises:
      ConfigError: a value is out of range, or the parts do not go together.
    """

    steps: int = _option(300, "training steps at most")
    learning_rate: float | None = _option(
        None, "share of what is usual for a number that one step moves it by, at most; default 0.001, 0.00005 without"
        " 4-bit weights"
    )  # fmt: skip
    warmup: int = _option(25, "steps in which the learning rate rises; it falls along a cosine behind them")
    train_batch: int = _option(32, "samples per training step, over all devices")
    train_samples: int = _option(4096, "calibration samples, at most, that are kept in memory to train on")
    mixup: float = _option(0.0, "share of the taught samples that are mixed with another one, where inputs are real")
    evaluate_every: int = _option(25, "steps between two judgements on held-out samples")
    patience: int = _option(10, "judgements without improvement after which training stops")
    inner_weight: float = _option(0.0, "weight of the inner tensors' error beside that of the outputs")
    train_weights: bool = _option(True, "train the weights")
    train_biases: bool = _option(True, "train the biases")
    train_clips: bool = _option(True, "train the ranges of the weights")
    train_scales: bool = _option(True, "train the scales of the data, where no constraint or quan_config holds them")
    loss_weight: float = _option(1.0, "weight of the user's loss beside the distillation")
    distillation_weight: float = _option(1.0, "weight of the outputs' error against the float model")
    train_devices: int | None = _option(None, "devices that share each training batch; default as many as divide it")
    seed: int = _option(0, "of the order of the samples")
    loss: UserLoss | None = _option(None, "Python only: a further loss of (outputs, the float model's outputs, labels)")
    labels: Any = _option(None, "Python only: one per calibration sample, for the further loss")

    def __post_init__(self) -> None:
        for name in ("steps", "train_batch", "evaluate_every", "patience"):
            in_range(name, getattr(self, name), 1, None)
        for name in ("warmup", "inner_weight", "loss_weight", "distillation_weight"):
            in_range(name, getattr(self, name), 0, None)
        if self.learning_rate is not None:
            in_range("learning_rate", self.learning_rate, 0, 1)
        in_range("train_samples", self.train_samples, 8, None)
        in_range("mixup", self.mixup, 0, 1)
        if self.train_devices is not None:
            in_range("train_devices", self.train_devices, 1, None)
        if self.labels is not None and self.loss is None:
            raise ConfigError("labels without a loss", where="labels", fix="give loss=, a function that reads them")
        if self.labels is not None:
            _check_labels(self.labels)
        if self.loss is not None and (self.train_devices or 1) > 1:
            fix = "leave train_devices out, or at 1"
            raise ConfigError("a loss of your own sees the whole batch, on one device", where="train_devices", fix=fix)
        own = 0.0 if self.loss is None else self.loss_weight
        if not (self.distillation_weight or self.inner_weight or own):
            fix = "give distillation_weight, inner_weight, or a loss a weight above 0"
            raise ConfigError("nothing is taught: all weights of the loss are 0", where="QATConfig", fix=fix)
        if not (self.train_weights or self.train_biases or self.train_clips or self.train_scales):
            raise ConfigError("nothing is to be trained", where="QATConfig", fix="leave one of train_... at True")

    def for_weights(self, bits: int) -> "QATConfig":
        """With a learning rate: the one that was asked for, or what suits weights of so many bits.

        A step may move a weight by a small share of a code, and a code of 8 bits is a sixteenth of one of 4 bits.
        """
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=_NARROW_RATE if bits <= NARROW_BITS else _WIDE_RATE)

    def to_json(self) -> dict[str, Any]:
        """Plain data; functions and labels by their kind only."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: v if isinstance(v, str | int | float | bool | None) else f"<{type(v).__name__}>"
            for k, v in plain.items()
        }


def _check_labels(labels: Any) -> None:
    """Raises ConfigError where labels are no numbers, or not all of one shape."""
    try:
        kind = np.asarray(labels).dtype.kind
    except ValueError:
        kind = "O"
    if kind not in "biuf":
        fix = "give one number, or one array of numbers of the same shape, per sample"
        raise ConfigError("labels have to be numbers", where="labels", fix=fix)


def known_qat_options() -> list[str]:
    """The names of all options of a fine-tuning."""
    return [f.name for f in fields(QATConfig)]


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of a run: those of the fine-tuning, and the others."""
    check_names(options, [*known_options(), *known_qat_options()], where="run_qat")
    own = {k: v for k, v in options.items() if k in known_qat_options()}
    return own, {k: v for k, v in options.items() if k not in own}


def make_qat_config(**options: Any) -> QATConfig:
    """A config from keywords; an unknown one is an error with a suggestion."""
    check_names(options, known_qat_options(), where="QATConfig")
    return QATConfig(**options)
