"""The embedded default: a small CNN and real labelled digits that ship with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax import embedded
from knerex_jax.api import Progress, PTQResult, run_ptq
from knerex_jax.quantize.config import make_config
from knerex_jax.runtime import FixedModel, FloatModel
from knerex_jax.scores import add_scores

CALIBRATION = f"{embedded.__name__}:calibration"
"""The calibration digits, by the name of the function that makes them."""


def is_default(options: Mapping[str, Any]) -> bool:
    """Whether the model and data of a run are those that ship with the package: not given, or given as such."""
    model, data = options.get("p_onnx"), options.get("np_txt")
    if model is None:
        return data is None
    return Path(model) == embedded.model_path() and data in (None, CALIBRATION)


def default_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the model and data that ship with the package where none are given."""
    return {"p_onnx": embedded.model_path(), "np_txt": CALIBRATION, **options}


def run_default(options: Mapping[str, Any], *, progress: Progress | None = None) -> tuple[PTQResult, dict[str, str]]:
    """Quantizes the digit CNN and scores float and fixed top-1 on labelled digits it was not calibrated on."""
    config = make_config(**default_options(options))
    result = run_ptq(config, progress=progress)
    if config.mode == 0:
        return result, {}
    inputs, labels = embedded.evaluation()
    models = {"float": FloatModel.load(embedded.model_path()), "fixed": FixedModel.load(result.paths["bie"])}
    right = {}
    for name, model in models.items():
        logits = next(iter(model.run(inputs, batch_size=100).values()))
        right[name] = int(np.sum(logits.argmax(axis=1) == labels))
    count = len(labels)
    shares = {name: n / count for name, n in right.items()}
    scores = {f"top-1 {name}": f"{n / count:.4f} ({n} of {count} labelled digits)" for name, n in right.items()}
    return add_scores(result, {"top-1 on digits": {**shares, "samples": count}}), scores
