"""Writes a dump tensor by tensor."""

import itertools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from knerex_jax.data.sources import open_source
from knerex_jax.dumps.index import Entry, Index, Part
from knerex_jax.dumps.visit import Values, entries, visitor
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.files import replacing
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.runner import AnyModel, open_runner
from knerex_jax.runtime import FloatModel

Progress = Callable[[int, int], None]
"""(tensors written, in total)."""

_LONGEST = 100  # characters of a tensor's name in the name of its file


def dump(
    model: AnyModel | str | Path,
    inputs: Any,
    path: str | Path,
    *,
    samples: int = 1,
    float_model: FloatModel | str | Path | None = None,
    preprocess: Any = None,
    layout: str | None = None,
    model_id: int | None = None,
    key: bytes | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Mapping[str, OpDef] = REGISTRY,
    progress: Progress | None = None,
) -> Path:
    """Writes every tensor of an inference; memory grows neither with the depth of the model nor with the samples.

    Args:
      model: a model, or the path of an ONNX, bie or nef. Of a nef: the tensors that are somewhere whole; only its
        inputs and outputs carry radix and scale, so only these have real values.
      inputs: data in any form that calibration takes.
      path: of the zip.
      samples: how many of the data, from the first.
      float_model: adds its values of the tensors that it has, too, by name.
      preprocess: for images, as for calibration.
      layout: of arrays where it is ambiguous.
      model_id: which model of a nef that holds several.
      key: opens an encrypted nef.
      input_shapes: of an ONNX with dynamic inputs.
      ops: operator records, for an ONNX.
      progress: called with (tensors written, in total).

    Returns:
      The path; `load_dump` reads it.

    Raises:
      ModelError: the data do not fit the model, or there are fewer samples.
      ArtifactError: the file cannot be written; an older one is then untouched.
    """
    if samples < 1:
        raise ConfigError(f"a dump of {samples} samples", where="samples", fix="ask for 1 or more")
    runner = open_runner(model, model_id=model_id, key=key, input_shapes=input_shapes, ops=ops)
    visits = [(visitor(runner.model), False)]
    if float_model is not None:
        visits.append((visitor(_float(float_model, input_shapes, ops)), True))
    source = open_source(inputs, runner.inputs, layout=layout, preprocess=preprocess)
    path, rows = Path(path), entries(runner.model)
    with replacing(path) as (file,), _archive(file) as archive:
        writer = _Writer(archive, rows, samples, progress)
        for number, batch in enumerate(itertools.islice(source.batches(1, 1), samples)):
            for visit, reference in visits:
                visit({t: v[0] for t, v in batch.items()}, writer.sink(number, reference))
        if (count := writer.samples) < samples:
            asked = f"{samples} samples asked for, the data hold {count}"
            raise ModelError(asked, where="samples", fix="ask for fewer, or give more data")
        platform = "" if isinstance(runner.model, FloatModel) else runner.model.program.platform
        index = Index(runner.name, runner.kind, platform, samples, writer.entries())
        with archive.open("index.json", "w") as member:
            member.write(msgspec.json.format(msgspec.json.encode(index), indent=1))
    return path


def _float(model: Any, input_shapes: Mapping[str, tuple[int, ...]] | None, ops: Mapping[str, OpDef]) -> FloatModel:
    return model if isinstance(model, FloatModel) else FloatModel.load(model, input_shapes=input_shapes, ops=ops)


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    """Most codes pack well, at little cost; members that are opened by name carry no date: equal dumps, equal bytes."""
    return zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)


class _Writer:
    """Puts tensors into the archive as they come, and remembers where."""

    def __init__(self, archive: zipfile.ZipFile, rows: list[Entry], samples: int, progress: Progress | None) -> None:
        self._archive, self._rows, self._progress = archive, {r.tensor: r for r in rows}, progress
        self._number = {r.tensor: k for k, r in enumerate(rows)}
        self._total = samples * len(self._rows)
        self._files: list[dict[str, dict[Part, str]]] = []
        self._done = 0

    @property
    def samples(self) -> int:
        """How many were begun."""
        return len(self._files)

    def sink(self, sample: int, reference: bool) -> Callable[[str, Values], None]:
        """Takes the tensors of a sample; or the float model's values of those that are in the dump."""
        if not reference:
            self._files.append({t: {} for t in self._rows})
        return lambda t, values: self._compare(sample, t, values) if reference else self._take(sample, t, values)

    def entries(self) -> tuple[Entry, ...]:
        """All tensors with their files."""
        return tuple(
            msgspec.structs.replace(row, files=tuple(files[t] for files in self._files))
            for t, row in self._rows.items()
        )

    def _take(self, sample: int, tensor: str, values: Values) -> None:
        row = self._rows[tensor]
        for part, array in values.items():
            own = part == "codes" or "codes" not in values
            self._write(sample, tensor, part, array.astype(row.dtype, copy=False) if own else array)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _compare(self, sample: int, tensor: str, values: Values) -> None:
        row = self._rows.get(tensor)
        if row is not None and "float" in self._files[sample][tensor] and values["float"].size == np.prod(row.shape):
            self._write(sample, tensor, "float_model", values["float"])

    def _write(self, sample: int, tensor: str, part: Part, array: np.ndarray) -> None:
        plain = re.sub(r"[^\w.-]", "_", tensor)[:_LONGEST]
        name = f"{sample:04d}/{self._number[tensor]:04d}_{plain}.{part}.npy"
        with self._archive.open(name, "w", force_zip64=array.nbytes >= 1 << 30) as file:
            np.lib.format.write_array(file, array.reshape(self._rows[tensor].shape), allow_pickle=False)
        self._files[sample][tensor][part] = name
