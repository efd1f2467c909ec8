"""The evaluator, from a file alone: nothing is calibrated or run."""

import json
from pathlib import Path
from typing import Any

from knerex_jax.files import writable_folder, write_atomic
from knerex_jax.flow import Ops
from knerex_jax.ops import REGISTRY
from knerex_jax.performance.evaluation import Evaluation, evaluation_of
from knerex_jax.performance.subject import subject_of
from knerex_jax.performance.text import evaluation_text


def evaluate(
    model: str | Path,
    platform: str | None = None,
    *,
    output_dir: str | Path | None = None,
    model_id: int | None = None,
    key: bytes | None = None,
    ops: Ops = REGISTRY,
    **options: Any,
) -> Evaluation:
    """Estimates what a model takes on a platform; nothing is calibrated or run.

    Args:
      model: a float ONNX, a bie or a nef.
      platform: "520", "530", "630", "720" or "730"; default 720 for an ONNX, else the file's own.
      output_dir: writes `ip_evaluation_<platform>.json` and `.txt` there.
      model_id: which model of a nef that holds several.
      key: opens an encrypted nef.
      ops: operator records, for an ONNX.
      **options: fields of `PTQConfig` that decide the cost (`COST_OPTIONS`): datapath_bitwidth_mode,
        weight_bitwidth_mode, model_in_bitwidth_mode, model_out_bitwidth_mode, cpu_node_bitwidth_mode, fm_cut,
        weight_bandwidth and dma_bandwidth in GB/s, ip_config, input_shape.

    Raises:
      ConfigError: an option is unknown, out of range, or does not apply to this kind of file.
      ModelError: the file cannot be read. Nodes that cannot run do not raise: they are listed.
      CompileError: a node needs more memory than there is on chip.
    """
    found = evaluation_of(subject_of(model, platform, options, model_id=model_id, key=key, ops=ops))
    if output_dir is not None:
        write_evaluation(found, output_dir)
    return found


def write_evaluation(found: Evaluation, folder: str | Path) -> tuple[Path, Path]:
    """Writes `ip_evaluation_<platform>.json` and `.txt`.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    start = writable_folder(folder) / f"ip_evaluation_{found.platform}"
    made = start.with_suffix(".json"), start.with_suffix(".txt")
    write_atomic(made[0], json.dumps(found.to_json(), indent=1).encode())
    write_atomic(made[1], evaluation_text(found).encode())
    return made
