"""Names and contents of the stage files."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from knerex_jax.graph.write import write_model
from knerex_jax.ops.bind import unbind

from knerex_jax.artifacts.bie import Bie, encode_bie
from knerex_jax.artifacts.files import write_atomic
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.scaled import scale_model

PLAN_KEY, BIE_KEY = "knerex.plan", "knerex.bie"
"""Metadata of the scaled model: the plan as JSON, and the whole bie in base64, so that the file stands alone."""


@dataclass(frozen=True)
class StageFiles:
    """Everything a run writes, before it is written.

    Attributes:
      stem: model name, the first part of every file name.
      origin: the user's model with static shapes.
      planned: the decomposed model with its plan.
      bie: the fixed-point model.
      report: content of the report.
    """

    stem: str
    origin: Model
    planned: Planned
    bie: Bie
    report: Mapping[str, Any]


def weight_metadata(planned: Planned) -> dict[str, Any]:
    """Per weighted node: width, and radix and scale of its integer weights."""
    result = {}
    for instruction in planned.program.instructions:
        if instruction.rule == "mac":
            constants = planned.constants[instruction.name]
            result[instruction.name] = {
                "bits": instruction.weight_bits,
                "n1": constants["n1"].tolist(),
                "n2": constants["n2"].tolist(),
            }
    return result


def write_stages(files: StageFiles, folder: Path) -> dict[str, Path]:
    """Writes all stage files, each atomically.

    Returns:
      "origin", "decomposed", "scaled", "bie", "report_json" -> path.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    encoded = encode_bie(files.bie)
    scaled = scale_model(files.planned.model, files.planned.structure, files.planned.plan)
    paths = {
        key: folder / f"{files.stem}{suffix}"
        for key, suffix in {
            "origin": ".origin.onnx", "decomposed": ".decomposed.onnx", "scaled": ".scaled.onnx", "bie": ".bie",
        }.items()
    } | {"report_json": folder / "model_fx_report.json"}  # fmt: skip
    write_model(unbind(files.origin, REGISTRY), paths["origin"])
    write_model(unbind(files.planned.model, REGISTRY), paths["decomposed"])
    metadata = {
        PLAN_KEY: msgspec.json.encode(files.planned.plan.to_json()).decode(),
        BIE_KEY: base64.b64encode(encoded).decode(),
    }
    write_model(unbind(scaled, REGISTRY), paths["scaled"], metadata=metadata)
    write_atomic(paths["bie"], encoded)
    write_atomic(paths["report_json"], msgspec.json.format(msgspec.json.encode(finite(files.report)), indent=1))
    return paths


def finite(value: Any) -> Any:
    """JSON has no infinity: it is written as a string."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(float(value))
    return value
