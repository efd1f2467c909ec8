"""A small digit classifier and real handwritten digits that ship with the package, so that everything runs offline.

`PROVENANCE.md` beside this file says where they come from and under which licence; `scripts/train_embedded.py` made
them.
"""

from importlib import resources
from pathlib import Path

import numpy as np

_FOLDER = "knerex_jax.embedded"


def model_path() -> Path:
    """Path of `digits_cnn.onnx`: `input` [N,1,28,28] -> `logits` [N,10]."""
    return Path(str(resources.files(_FOLDER).joinpath("digits_cnn.onnx")))


def calibration() -> dict[str, np.ndarray]:
    """The 200 calibration digits as model input: float32 [200,1,28,28], 20 of each class, the ten in turn."""
    images, _ = _load("calibration")
    return {"input": preprocess(images)}


def evaluation() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The 1000 evaluation digits, neither trained on nor used to calibrate.

    Returns:
      The model input, float32 [1000,1,28,28] by name, and the labels, int64 [1000].
    """
    images, labels = _load("evaluation")
    return {"input": preprocess(images)}, labels.astype(np.int64)


def preprocess(images: np.ndarray) -> np.ndarray:
    """White-on-black uint8 [N,28,28] -> float32 [N,1,28,28] = x / 256 - 0.5, the preset called kneron; exact."""
    return images[:, None].astype(np.float32) / np.float32(256) - np.float32(0.5)


def _load(part: str) -> tuple[np.ndarray, np.ndarray]:
    with resources.files(_FOLDER).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        return arrays[f"{part}_images"], arrays[f"{part}_labels"]
