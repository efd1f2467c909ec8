"""Names and contents of the stage files."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from knerex_jax.artifacts.bie import Bie, decode_bie, encode_bie
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.config_file import RUN_FILE
from knerex_jax.errors import ArtifactError
from knerex_jax.files import replacing, staged, write_atomic
from knerex_jax.graph.ir import Model
from knerex_jax.graph.write import write_onnx
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.scaled import scale_model
from knerex_jax.refine.grid import on_grid

PLAN_KEY, WEIGHTS_KEY, BIE_KEY = "knerex.plan", "knerex.weights", "knerex.bie"
"""Metadata of the scaled model: the plan and the integer weights' formats as JSON, and the whole bie in base64, so that
the file stands alone."""


@dataclass(frozen=True)
class StageFiles:
    """Everything a run writes, before it is written.

    Attributes:
      stem: model name, the first part of every file name.
      origin: the user's model with static shapes.
      planned: the decomposed model with its plan.
      bie: the fixed-point model.
      report: content of the report.
      page: the same as HTML.
      ranges: what the plan was made with.
      nef: the compiled model's file, where there is one.
      exports: "integer_onnx", "qdq_onnx" -> the fixed-point model as ONNX.
      config: text of the config file that repeats the run.
      registry: operator records.
    """

    stem: str
    origin: Model
    planned: Planned
    bie: Bie
    report: Mapping[str, Any]
    page: str
    ranges: Ranges
    nef: bytes | None = None
    exports: Mapping[str, onnx.ModelProto] = field(default_factory=dict, repr=False)
    config: str = ""
    registry: Mapping[str, OpDef] = field(default_factory=lambda: REGISTRY, repr=False)


def weight_metadata(planned: Planned) -> dict[str, dict[str, Any]]:
    """Per weighted node: width of its integer weights, and their scale s_w and radix r_w by output channel.

    The integer weights are rint(U * s_w * 2**r_w) of the contract; together with the formats in the plan this is all
    that an integer runtime needs beside the float weights.
    """
    return {
        name: {
            "bits": bits,
            "radix": planned.constants[name]["weight_radix"].tolist(),
            "scale": planned.constants[name]["weight_scale"].astype(np.float64).tolist(),
        }
        for name, bits in planned.plan.weight_bits.items()
    }


def write_stages(files: StageFiles, folder: Path) -> dict[str, Path]:
    """Writes all stage files: all of them, or none.

    Returns:
      "origin", "decomposed", "scaled", "bie", "report_html", "report_json", "calibration", "config" -> path; "wqbi"
      where weights or biases were refined; "nef" where the model is compiled; those of `exports`.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    with staged(folder) as scratch:
        paths = _write(files, scratch)
    return {key: folder / path.name for key, path in paths.items()}


def _write(files: StageFiles, folder: Path) -> dict[str, Path]:
    encoded, registry = encode_bie(files.bie), files.registry
    scaled = scale_model(files.planned.model, files.planned.structure, files.planned.plan, registry)
    paths = {
        key: folder / f"{files.stem}{suffix}"
        for key, suffix in {
            "origin": ".origin.onnx", "decomposed": ".decomposed.onnx", "scaled": ".scaled.onnx", "bie": ".bie",
        }.items()
    } | {"calibration": folder / "calibration.npz"}  # fmt: skip
    write_onnx(unbind(files.origin, registry), paths["origin"])
    write_onnx(unbind(files.planned.model, registry), paths["decomposed"])
    metadata = {
        WEIGHTS_KEY: msgspec.json.encode(weight_metadata(files.planned)).decode(),
        PLAN_KEY: msgspec.json.encode(files.planned.plan.to_json()).decode(),
        BIE_KEY: base64.b64encode(encoded).decode(),
    }
    write_onnx(unbind(scaled, registry), paths["scaled"], metadata=metadata)
    if files.planned.refined is not files.planned.model:
        paths["wqbi"] = folder / f"{files.stem}.scaled.wqbi.onnx"
        write_onnx(unbind(quantized_model(files.planned, registry), registry), paths["wqbi"], metadata=metadata)
    write_atomic(paths["bie"], encoded)
    if files.nef is not None:
        paths["nef"] = folder / f"models_{files.planned.plan.platform}.nef"
        write_atomic(paths["nef"], files.nef)
    for key, model in files.exports.items():
        paths[key] = folder / f"{files.stem}.{key.removesuffix('_onnx')}.onnx"
        write_atomic(paths[key], model.SerializeToString())
    files.ranges.save(paths["calibration"])
    paths["config"] = folder / RUN_FILE
    write_atomic(paths["config"], files.config.encode())
    return paths | write_report(files.report, files.page, folder)


def write_report(report: Mapping[str, Any], page: str, folder: Path) -> dict[str, Path]:
    """Writes the report as data and as a page, both or none.

    Returns:
      "report_html", "report_json" -> path.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    paths = {f"report_{kind}": folder / f"model_fx_report.{kind}" for kind in ("html", "json")}
    data = msgspec.json.format(msgspec.json.encode(finite(report)), indent=1)
    with replacing(*paths.values()) as files:
        for file, content in zip(files, (page.encode(), data), strict=True):
            file.write(content)
    return paths


def quantized_model(planned: Planned, registry: Mapping[str, OpDef] = REGISTRY) -> Model:
    """The scaled model with weights on their grid and adjusted biases."""
    return scale_model(on_grid(planned, registry), planned.structure, planned.plan, registry)


def load_scaled(path: str | Path) -> Bie:
    """The bie that a scaled model carries in its metadata.

    Raises:
      ArtifactError: not readable, or not a scaled model of this program.
    """
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as e:  # protobuf, OS and onnx errors share no base class
        raise ArtifactError(f"cannot read the model: {e}", where=str(path), fix="check the path") from e
    text = next((p.value for p in proto.metadata_props if p.key == BIE_KEY), None)
    if text is None:
        fix = "pass the .bie or the .scaled.onnx that run_ptq wrote"
        raise ArtifactError("the model carries no fixed-point program", where=str(path), fix=fix)
    return decode_bie(base64.b64decode(text), str(path))


def finite(value: Any) -> Any:
    """JSON has no infinity: it is written as a string."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(float(value))
    return value
