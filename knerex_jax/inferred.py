"""Outputs of a model for a whole data set, one file per sample."""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from knerex_jax.data.files import list_files, subfolder
from knerex_jax.data.sources import open_source
from knerex_jax.dumps.write import dump
from knerex_jax.errors import ConfigError
from knerex_jax.files import writable_folder, write_atomic
from knerex_jax.flow import Ops
from knerex_jax.ops import REGISTRY
from knerex_jax.runner import AnyModel, Runner, open_runner
from knerex_jax.runtime import DataType

Progress = Callable[[str, int, int | None], None]
"""(stage, done, in total or None)."""


@dataclass(frozen=True)
class Inferred:
    """What was written.

    Attributes:
      model, kind: what ran.
      data_type: "float" or "fixed".
      folder: of the files.
      samples: how many.
      files: names by sample, in the order of the data; several where every output has a file.
      outputs: name -> {"shape", "dtype"} of one sample.
      dump: path of the dump, where one was asked for.
    """

    model: str
    kind: str
    data_type: str
    folder: str
    samples: int
    files: tuple[tuple[str, ...], ...]
    outputs: Mapping[str, Mapping[str, Any]]
    dump: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; the content of `index.json`."""
        return asdict(self)


def infer(
    model: AnyModel | str | Path,
    data: Any,
    p_output: str | Path,
    *,
    data_type: DataType = "float",
    form: Literal["npz", "npy"] = "npz",
    preprocess: Any = None,
    layout: str | None = None,
    batch_size: int = 16,
    dump_samples: int = 0,
    model_id: int | None = None,
    key: bytes | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Ops = REGISTRY,
    progress: Progress | None = None,
) -> Inferred:
    """Runs a model over data of any size and writes what it gives, sample by sample.

    Args:
      model: a model, or the path of an ONNX, bie or nef.
      data: in any form that calibration takes.
      p_output: folder; `index.json` is written last.
      data_type: "float", or "fixed" for codes (bie and nef).
      form: "npz", one file per sample with the outputs by name; "npy", one file per sample and output.
      preprocess: for images, as for calibration.
      layout: of arrays where it is ambiguous.
      batch_size: samples per compiled step.
      dump_samples: writes a dump of that many samples, too.
      model_id: which model of a nef that holds several.
      key: opens an encrypted nef.
      input_shapes: of an ONNX with dynamic inputs.
      ops: operator records, for an ONNX.
      progress: called with (stage, done, in total or None).

    Returns:
      What was written. An output [*shape] is that of `kneron_inference` without the batch axis.

    Raises:
      ModelError: the model or data cannot be read, or do not fit.
      ConfigError: codes of a float model; a dump of data that can be read only once.
      ArtifactError: the folder cannot be written.
    """
    runner = open_runner(model, model_id=model_id, key=key, input_shapes=input_shapes, ops=ops)
    runner.check(data_type)
    if form not in ("npz", "npy"):
        raise ConfigError(f"unknown form {form!r}", where="form", fix="use 'npz' or 'npy'")
    source = open_source(data, runner.inputs, layout=layout, preprocess=preprocess)
    if dump_samples and not source.rereadable:
        raise ConfigError("a dump reads the data again", where="data", fix="give data that can be read twice")
    folder, names = writable_folder(p_output), _names(data, runner)
    files: list[tuple[str, ...]] = []
    outputs: dict[str, dict[str, Any]] = {}
    for batch in runner.over(source, data_type, batch_size=batch_size):
        for k in range(len(next(iter(batch.values())))):
            made = {t: v[k] for t, v in batch.items()}
            files.append(_write(folder, next(names), made, form))
            outputs = outputs or {t: {"shape": list(v.shape), "dtype": v.dtype.name} for t, v in made.items()}
            if progress is not None:
                progress("infer", len(files), source.count)
    path = None
    if dump_samples:
        path = dump(
            runner.model, data, folder / f"{runner.name}.dump.zip", samples=dump_samples, preprocess=preprocess,
            layout=layout, ops=ops, progress=progress and (lambda done, total: progress("dump", done, total)),
        )  # fmt: skip
    found = Inferred(
        runner.name, runner.kind, data_type, str(folder), len(files), tuple(files), outputs, path and str(path)
    )
    write_atomic(folder / "index.json", json.dumps(found.to_json(), indent=1).encode())
    return found


def _names(data: Any, runner: Runner) -> Iterator[str]:
    """Names of the samples: their place, and that of their file where one file is one sample."""
    files: list[Path] = []
    if isinstance(data, str | Path) and (path := Path(data).expanduser()).is_dir() and len(runner.inputs) == 1:
        files = list_files(subfolder(path, next(iter(runner.inputs)), only=True))
    k = 0
    while True:
        yield f"{k:06d}_{files[k].stem}" if k < len(files) else f"{k:06d}"
        k += 1


def _write(folder: Path, name: str, made: Mapping[str, np.ndarray], form: str) -> tuple[str, ...]:
    if form == "npz":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # not np.savez, whose own arguments are no names for outputs
            for output, value in made.items():
                archive.writestr(zipfile.ZipInfo(f"{output}.npy"), _npy(value))
        write_atomic(folder / f"{name}.npz", buffer.getvalue())
        return (f"{name}.npz",)
    plain = {t: re.sub(r"[^\w.-]", "_", t) for t in made}
    several = len(made) > 1
    files = {t: f"{name}.{k}_{plain[t]}.npy" if several else f"{name}.npy" for k, t in enumerate(made)}
    for output, value in made.items():
        write_atomic(folder / files[output], _npy(value))
    return tuple(files.values())


def _npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(value), allow_pickle=False)
    return buffer.getvalue()
