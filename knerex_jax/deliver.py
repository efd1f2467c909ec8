"""From the fixed-point model to the compiled one, with the proof that both compute the same."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from knerex_jax.artifacts.bie import Bie
from knerex_jax.compiler.build import Compiled
from knerex_jax.compiler.cost import estimate
from knerex_jax.data.sources import Source
from knerex_jax.errors import CompileError
from knerex_jax.match import Match, bit_true_match
from knerex_jax.npu_model import NpuModel, compile_bie
from knerex_jax.probe import probe_inputs, probe_record, probed
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.plan import Note
from knerex_jax.runtime import FixedModel

Progress = Callable[[str, int, int | None], None]


def compile_or_note(
    bie: Bie, config: PTQConfig, progress: Progress | None = None
) -> tuple[Compiled | None, tuple[Note, ...]]:
    """The compiled model; where it does not fit the machine, a note that says why instead."""
    report = None if progress is None else lambda done, total: progress("compile", done, total)
    try:
        return compile_bie(bie, fm_cut=config.applied_cut, input_format=config.input_format, progress=report), ()
    except CompileError as e:
        return None, (Note(e.where, "a compiled model", "none: the fixed-point model only", e.what),)


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


def with_probe(bie: Bie, fixed: FixedModel, npu: NpuModel | None) -> Bie:
    """The model with the hash of its codes on the probe, by the simulator; by the emulator where nothing is compiled."""
    inputs, taps = probe_inputs(bie.program, bie.constants), probed(bie.program)
    if npu is None:
        codes = fixed.run(inputs, "fixed", taps=taps, batch_size=1)
    else:
        inner = tuple(t for t in taps if t not in bie.program.outputs)
        codes = npu.run(inputs, "fixed", taps=inner)
    return replace(bie, header={**bie.header, "probe": probe_record(bie.program, codes)})


def compiled_row(compiled: Compiled, config: PTQConfig) -> dict[str, Any]:
    """What the report says of the compiled program; times by the cost model, whose figures are not fitted yet."""
    program, sizes = compiled.program, dict(compiled.program.sizes)
    return {
        "fm_cut": config.applied_cut,
        "commands": len(program.commands),
        "bytes": {memory: sizes.get(memory, 0) for memory in ("input", "output", "working", "weight")},
        "moved_bytes": sum(c.moved for c in estimate(program).costs),
        "estimate_ms": {name: s * 1e3 for name, s in compiled.seconds.items()},
    }
