"""From the fixed-point model to the compiled one, with the proof that both compute the same."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from knerex_jax.artifacts.bie import Bie, load_bie
from knerex_jax.compiler.build import Compiled
from knerex_jax.data.files import holds_images
from knerex_jax.data.sources import Source
from knerex_jax.errors import CompileError, UnsupportedOpError
from knerex_jax.export.integer import integer_onnx
from knerex_jax.export.qdq import qdq_onnx, session_options, with_deviation
from knerex_jax.flow import Ops
from knerex_jax.match import Match, bit_true_match
from knerex_jax.nef.container import Nef, combined, save_nef
from knerex_jax.nef.segments import NefModel
from knerex_jax.npu_model import NpuModel, compile_bie
from knerex_jax.probe import probe_inputs, probe_record, probed
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.planner import Planned
from knerex_jax.runtime import FixedModel

FIRST_ID = 32769
"""Ids above 32768 are for one's own models."""


QDQ_SAMPLES = 16
"""Calibration samples on which the QDQ model's deviation is measured."""


@dataclass(frozen=True)
class ModelEntry:
    """A model for a nef.

    Attributes:
      bie: path of its fixed-point model.
      model_id: number by which an application asks for it.
      version: hexadecimal, up to four digits.
    """

    bie: str | Path
    model_id: int = FIRST_ID
    version: str = "0001"


Progress = Callable[[str, int, int | None], None]


def compiled_by(bie: Bie, config: PTQConfig, progress: Progress | None = None) -> Compiled:
    """The compiled model with the division, input format and rates of a config.

    Raises:
      CompileError: it does not fit the machine.
    """
    report = None if progress is None else lambda done, total: progress("compile", done, total)
    return compile_bie(
        bie, fm_cut=config.applied_cut, input_format=config.input_format, machine=config.machine, progress=report
    )


def compile_or_note(
    bie: Bie, config: PTQConfig, progress: Progress | None = None
) -> tuple[Compiled | None, tuple[Note, ...]]:
    """The compiled model; where it does not fit the machine, a note that says why instead."""
    try:
        return compiled_by(bie, config, progress), ()
    except CompileError as e:
        return None, (Note(e.where, "a compiled model", "none: the fixed-point model only", e.what),)


@dataclass(frozen=True)
class Exports:
    """The fixed-point model for other software.

    Attributes:
      models: key of `PTQResult.paths` -> ONNX.
      deviation: of the QDQ model, output -> {"codes", "units", "samples"}.
      notes: what could not be had, and why.
    """

    models: Mapping[str, onnx.ModelProto]
    deviation: Mapping[str, Mapping[str, float]]
    notes: tuple[Note, ...]


def export_or_note(
    bie: Bie, planned: Planned, samples: Mapping[str, np.ndarray], codes: Mapping[str, np.ndarray], ops: Ops
) -> Exports:
    """The integer ONNX, and the QDQ model with its deviation on the first samples.

    Args:
      bie: the fixed-point model.
      planned: what it was made of.
      samples: calibration samples, name -> [N, ...].
      codes: what the emulator gave for them.
      ops: operator records.
    """
    models, deviation, notes = {}, {}, []
    try:
        models["integer_onnx"] = integer_onnx(bie)
    except UnsupportedOpError as e:
        notes.append(Note(e.where, "integer ONNX", "none", e.what))
    try:
        model = qdq_onnx(planned, ops)
        deviation = with_deviation(model, planned, {t: a[:QDQ_SAMPLES] for t, a in samples.items()}, codes)
        models["qdq_onnx"] = model
        if needed := session_options(model):
            applied = ", ".join(f"{name}={value}" for name, value in needed.items())
            why = "with its defaults ONNX Runtime rewrites int8 codes, and then gets this model wrong"
            notes.append(Note("qdq.onnx", "a QDQ model for any session", f"one for sessions with {applied}", why))
    except UnsupportedOpError as e:
        notes.append(Note(e.where, "QDQ model", "none", e.what))
    return Exports(models, deviation, tuple(notes))


def match_for_mode(
    fixed: FixedModel,
    npu: NpuModel,
    config: PTQConfig,
    samples: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
    source: Source,
    progress: Progress | None = None,
) -> Match | None:
    """The bit-true match that the mode asks for: nothing, one image and the outputs, or all images and layers.

    Args:
      fixed: the fixed-point model.
      npu: the same model, compiled.
      config: its mode.
      samples: the first calibration samples.
      codes: what the emulator gave for them.
      source: all samples, for mode 3 (where they can be read only once, `samples` are used).
      progress: called with (stage, samples done, samples).
    """
    if config.mode < 2:
        return None
    if config.mode == 2:
        first = {t: a[:1] for t, a in samples.items()}
        return bit_true_match(fixed, npu, first, known=codes)
    total = source.count if source.rereadable else len(next(iter(samples.values())))
    report = None if progress is None else lambda done: progress("match", done, total)
    batches = source.batches(config.batch_size, config.data_analysis_threads) if source.rereadable else samples
    return bit_true_match(fixed, npu, batches, layers=True, batch_size=config.batch_size, progress=report)


def match_notes(config: PTQConfig, source: Source, held: int) -> tuple[Note, ...]:
    """What of mode 3 cannot be had: data that can be read only once are compared as far as they are held."""
    if config.mode < 3 or source.rereadable:
        return ()
    return (Note("mode", "3, all images", f"the first {held}", "the calibration data can be read only once"),)


def data_notes(config: PTQConfig) -> tuple[Note, ...]:
    """What of the settings the calibration data have no use for."""
    if config.preprocess is None or holds_images(config.np_txt):
        return ()
    asked = config.preprocess if isinstance(config.preprocess, str) else type(config.preprocess).__name__
    why = "only images in a folder are preprocessed, arrays are taken as they are"
    return (Note("preprocess", asked, "unused", why),)


def with_probe(bie: Bie, fixed: FixedModel, npu: NpuModel | None) -> Bie:
    """The model with the hashes of its codes on the probe: by the simulator, or the emulator if nothing is compiled."""
    inputs, taps = probe_inputs(bie.program, bie.constants), probed(bie.program)
    if npu is None:
        codes = fixed.run(inputs, "fixed", taps=taps, batch_size=1)
    else:
        inner = tuple(t for t in taps if t not in bie.program.outputs)
        codes = npu.run(inputs, "fixed", taps=inner)
    return replace(bie, header={**bie.header, "probe": probe_record(bie.program, codes)})


def nef_model(bie: Bie, compiled: Compiled, model_id: int, version: str) -> NefModel:
    """What a nef holds of a compiled model, with the source's hash and the probe of its bie."""
    kept = ("arith_version", "source_sha256", "versions", "probe")
    meta = {k: bie.header[k] for k in kept if k in bie.header}
    return NefModel(model_id, bie.program.name, str(version), compiled.program, compiled.weight, meta)


def compile(
    models: Iterable[str | Path | ModelEntry],
    p_output: str | Path = "kneron_flow",
    *,
    fm_cut: str = "default",
    weight_bandwidth: float | None = None,
    dma_bandwidth: float | None = None,
    compress: bool = False,
    key: bytes | None = None,
) -> Path:
    """Compiles fixed-point models into one nef.

    Args:
      models: bies, with or without what the nef shall call them; without, their ids count from 32769.
      p_output: folder.
      fm_cut: "default" or "deep_search".
      weight_bandwidth: GB/s of loading weights, by which divisions are compared; None: the platform's.
      dma_bandwidth: GB/s of moving data, each way, likewise.
      compress: packs the segments.
      key: 32 bytes, to encrypt the nef.

    Returns:
      `<p_output>/models_<platform>.nef`.

    Raises:
      ArtifactError: a bie cannot be read, two models have one id, or platforms differ.
      CompileError: a model does not fit its machine.
      ConfigError: an option is out of range.
    """
    made = []
    for number, model in enumerate(models, FIRST_ID):
        entry = model if isinstance(model, ModelEntry) else ModelEntry(model, number)
        bie = load_bie(entry.bie)
        config = make_config(
            platform=bie.program.platform, fm_cut=fm_cut, weight_bandwidth=weight_bandwidth, dma_bandwidth=dma_bandwidth
        )
        made.append(nef_model(bie, compiled_by(bie, config), entry.model_id, entry.version))
    nef = combined(Nef((model,)) for model in made)
    path = Path(p_output) / f"models_{nef.platform}.nef"
    save_nef(nef, path, compress=compress, key=key)
    return path


def compiled_row(compiled: Compiled, config: PTQConfig, moved: int) -> dict[str, Any]:
    """What the report says of the compiled program; `moved`: its bytes between DRAM and chip."""
    program, sizes = compiled.program, dict(compiled.program.sizes)
    return {
        "fm_cut": config.applied_cut,
        "commands": len(program.commands),
        "bytes": {memory: sizes.get(memory, 0) for memory in ("input", "output", "working", "weight")},
        "moved_bytes": moved,
        "estimate_ms": {name: s * 1e3 for name, s in compiled.seconds.items()},
    }
