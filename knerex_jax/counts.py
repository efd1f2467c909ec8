"""Calibration data counted apart from the run that uses the counts: on many machines, or days before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from knerex_jax.calibrate.measured import Measured
from knerex_jax.errors import ConfigError
from knerex_jax.files import clear_scratch, writable_folder
from knerex_jax.flow import Ops, checkpoints_of, measure, observed_structure, open_calibration, open_model
from knerex_jax.graph.files import model_sha256
from knerex_jax.graph.ir import Model
from knerex_jax.improve import searched_configs
from knerex_jax.ops import REGISTRY
from knerex_jax.parallel import processes
from knerex_jax.quantize.config import PTQConfig, make_config


def count_data(
    config: PTQConfig | None = None,
    /,
    *,
    to: str | Path,
    progress: Callable[[str, int, int | None], None] | None = None,
    ops: Ops = REGISTRY,
    **options: Any,
) -> Measured:
    """Counts the calibration data of a run, or a part of them, into a file; `run_ptq(counts=...)` merges such files.

    A call that was cut off goes on where it stopped. After `jax.distributed.initialize`, all processes count together,
    and the first one writes.

    Args:
      config: that of the run, with this part of the data as np_txt; or give its fields as keywords.
      to: file of the counts, `.npz`.
      progress: called with ("calibrate", samples done, samples in total or None).
      ops: operator records.
      **options: fields of `PTQConfig`.

    Raises:
      KnerexError: with what is wrong, where, and how to fix it; nothing is written then.
    """
    config = make_config(**options) if config is None else replace(config, **options) if options else config
    _, model = open_model(config, ops=ops)
    source, also = open_calibration(config.np_txt, model, config), searched_configs(config).values()
    path = Path(to)
    clear_scratch(writable_folder(path.parent))
    checkpoints = checkpoints_of(path.parent, model, source, config, also=also, ops=ops, name=path.stem)
    tell = None if progress is None else lambda done: progress("calibrate", done, source.count)
    measured = measure(model, source, config, also=also, progress=tell, ops=ops, checkpoints=checkpoints)
    measured = replace(measured, model=model_sha256(str(config.p_onnx)))
    if processes.index() == 0:
        measured.save(path)
    return measured


def read_counts(
    place: str | Path, model: Model, config: PTQConfig, *, ops: Ops = REGISTRY
) -> tuple[Measured, list[str]]:
    """The counts of all parts together, and a note that says what they are.

    Args:
      place: a file that `count_data` (or `Measured.save`) wrote, or a folder of nothing but such files.
      model: decomposed.
      config: the run's.
      ops: operator records.

    Raises:
      ArtifactError: one of them is missing, damaged, of another kind or newer.
      ConfigError: they are of another model or platform, or there are none.
    """
    where = Path(place)
    files = sorted(where.glob("*.npz")) if where.is_dir() else [where]
    if not files:
        raise ConfigError("there are no count files", where=str(where), fix="write some with knerex count")
    first, *others = (Measured.load(file) for file in files)
    measured = first.merge(*others)
    observed = observed_structure(model, config, ops).observed
    if set(measured.state.tensors) != set(observed) or measured.outputs != _shapes(model):
        fix = "count with the same model, platform and version"
        raise ConfigError("these counts are of another model or platform", where=str(where), fix=fix)
    if measured.model and config.p_onnx is not None and measured.model != model_sha256(config.p_onnx):
        fix = f"count with {config.p_onnx} as it now is"
        raise ConfigError("these counts are of a model with other weights", where=str(where), fix=fix)
    return measured, [f"counts of {measured.state.samples} samples from {len(files)} files in place of np_txt"]


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {t: model.graph.types[t].shape for t in model.graph.outputs}
