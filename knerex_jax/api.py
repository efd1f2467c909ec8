"""`run_ptq`, which chains the stages of `flow`, and `run_qat`, which fine-tunes what they planned."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from knerex_jax.artifacts.bie import Bie
from knerex_jax.artifacts.report import FORMAT, created, report_data, versions
from knerex_jax.artifacts.stages import StageFiles, write_report, write_stages
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.check import check_model
from knerex_jax.config_file import RUN_FILE, config_text
from knerex_jax.counts import read_counts
from knerex_jax.data.remembered import read_missing, remember
from knerex_jax.deliver import (
    compile_or_note,
    compiled_row,
    data_notes,
    export_or_note,
    match_for_mode,
    match_notes,
    nef_model,
    with_probe,
)
from knerex_jax.dumps.run import dump_notes, dump_of_run
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.files import output_folder, staged, writable_folder, write_atomic
from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.flow import (
    Ops,
    checkpoints_of,
    make_plan,
    measure,
    mix_widths,
    open_calibration,
    open_model,
    ranges_of,
    require,
    sigmoid_outputs,
)
from knerex_jax.graph.files import model_sha256
from knerex_jax.graph.ir import Model
from knerex_jax.improve import Candidate, choose_ranges, refine_best, searched_configs
from knerex_jax.metrics import behind_sigmoids, snr_db
from knerex_jax.nef.container import Nef, encode_nef
from knerex_jax.npu_model import NpuModel
from knerex_jax.ops import REGISTRY
from knerex_jax.parallel import processes
from knerex_jax.performance.evaluation import Evaluation, evaluation_of
from knerex_jax.performance.nominal import nominal_ranges
from knerex_jax.performance.subject import origins_of, subject_of_compiled, subject_of_onnx
from knerex_jax.program.bounds import bound_program
from knerex_jax.qat.config import METRICS, QATConfig, make_qat_config, split_options
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.mixed import write_candidates
from knerex_jax.report.data import common_sections, quantized_sections
from knerex_jax.report.html import render_report
from knerex_jax.report.score import with_score
from knerex_jax.runtime import FixedModel, FloatModel

Progress = Callable[[str, int, int | None], None]
"""(stage, samples done, samples in total or None)."""

SNR_SAMPLES = 64
"""Calibration samples on which the report states the output SNR."""

LEARN_SAMPLES = 384
"""Calibration samples, at most, that range search, learned rounding and bias adjustment work on."""


@dataclass(frozen=True)
class PTQResult:
    """What a run produced.

    Attributes:
      paths: "origin", "decomposed", "scaled", "bie", "report_html", "report_json", "calibration", "config" (which
        repeats the run) -> file; "wqbi" where weights or biases were refined; "nef", "integer_onnx", "qdq_onnx" where
        they can be had (else a note says why not); "dump" if asked for; "metrics" of a fine-tuning. Of several
        processes, the first one has them.
      snr_db: output name -> SNR in dB on `snr_samples` calibration samples; behind its sigmoid where one follows
        (quantize_mode post_sigmoid).
      plan: formats and notes.
      bit_true_match: whether emulator and simulator of the compiled program gave the same codes; None in mode 1, and
        where the model does not compile (a note says why).
      report: the content of report_json.
      evaluation: the performance estimate; None where the model does not compile.

    In mode 0 there is the report and the evaluation alone: no SNR, and `plan` has widths, but ranges that say nothing.
    """

    paths: Mapping[str, Path]
    snr_db: Mapping[str, float]
    plan: QuantPlan
    bit_true_match: bool | None
    report: Mapping[str, Any] = field(repr=False)
    planned: Planned = field(repr=False)
    ranges: Ranges = field(repr=False)
    evaluation: Evaluation | None = field(default=None, repr=False)


def run_ptq(
    config: PTQConfig | None = None,
    /,
    *,
    progress: Progress | None = None,
    ops: Ops = REGISTRY,
    **options: Any,
) -> PTQResult:
    """Float ONNX and calibration data in, fixed-point model, stage files and an honest statement of accuracy out.

    Args:
      config: what to do; or give its fields as keywords.
      progress: called with (stage, samples done, samples in total or None).
      ops: operator records; {**REGISTRY, "domain::MyOp": MY_OP} adds one of your own.
      **options: fields of `PTQConfig`.

    Raises:
      KnerexError: with what is wrong, where, and how to fix it; nothing is written then.
    """
    config = make_config(**options) if config is None else replace(config, **options) if options else config
    with _run(config) as (path, folder):
        if config.mode == 0:
            return _estimated(config, path, folder, ops)
        return _quantized(config, path, folder, ops, progress)


def run_qat(
    config: PTQConfig | None = None,
    qat: QATConfig | None = None,
    /,
    *,
    progress: Progress | None = None,
    ops: Ops = REGISTRY,
    **options: Any,
) -> PTQResult:
    """`run_ptq` with quantization-aware fine-tuning of the plan before its files are written.

    Weights, biases, their ranges and the scales of the data are trained behind the plan's own integers to come close to
    the float model, without labels, on the calibration data; one sample of four judges. Weights learned or biases
    adjusted (`weight_rounding`, `optimize`) are where training starts. A plan that training does not make better on
    held-out samples stays as it is, with a note. A run that was cut off goes on where it was, in the same folder.

    Args:
      config: what to quantize, and how; or give its fields as keywords.
      qat: how to train; or give its fields as keywords.
      progress: called with (stage, samples, nodes or steps done, in total or None).
      ops: operator records.
      **options: fields of `PTQConfig` and of `QATConfig`.

    Returns:
      As `run_ptq`, from the same planner; `report["learned"]["fine_tuning"]` says what training brought.

    Raises:
      KnerexError: with what is wrong, where, and how to fix it; nothing is written then.
    """
    own, rest = split_options(options)
    qat = make_qat_config(**own) if qat is None else replace(qat, **own) if own else qat
    config = make_config(**rest) if config is None else replace(config, **rest) if rest else config
    if config.mode == 0:
        fix = "use mode 1 to 3, or run_ptq"
        raise ConfigError("mode 0 estimates, there is nothing to fine-tune", where="mode", fix=fix)
    if processes.count() > 1:
        fix = "run it in one process; its devices share each batch"
        raise ConfigError("fine-tuning is not divided among processes", where="run_qat", fix=fix)
    with _run(config) as (path, folder):
        return _quantized(config, path, folder, ops, progress, qat)


def _quantized(
    config: PTQConfig, path: Path, folder: Path, ops: Ops, progress: Progress | None, qat: QATConfig | None = None
) -> PTQResult:
    """Modes 1 to 3, with fine-tuning or without."""
    asked, clock = config, _Clock()
    with clock("read"):
        origin, decomposed = open_model(config, ops=ops)
        digest = model_sha256(path)
    with clock("calibrate"):
        searched = searched_configs(config)
        remembered = LEARN_SAMPLES if searched or config.learns or config.mode == 3 else SNR_SAMPLES
        remembered = remembered if qat is None else max(remembered, qat.train_samples)
        source, kept = remember(open_calibration(config.np_txt, decomposed, config), remembered)
        report_samples = None if progress is None else lambda done: progress("calibrate", done, source.count)
        if config.counts is None:
            checkpoints = checkpoints_of(folder, decomposed, source, config, also=searched.values(), ops=ops)
            measured = measure(
                decomposed, source, config, also=searched.values(), progress=report_samples, ops=ops,
                checkpoints=checkpoints,
            )  # fmt: skip
            calibration_notes, unread = checkpoints.notes, checkpoints.resumed > 0 or processes.count() > 1
        else:
            measured, calibration_notes = read_counts(config.counts, decomposed, config, ops=ops)
            unread = True
        if unread:
            read_missing(source, remembered, kept)
    taught = {t: np.stack([kept[i][t] for i in sorted(kept)]) for t in decomposed.graph.inputs}
    samples = {t: a[:LEARN_SAMPLES] for t, a in taught.items()}
    learned: dict[str, Any] = {}
    candidates = (Candidate("", config, ranges_of(measured, config)),)
    if searched:
        with clock("search ranges"):
            choice = choose_ranges(decomposed, measured, samples, config, ops=ops, progress=progress)
            candidates, learned["range_search"] = choice.candidates(config), choice.to_json()
    with clock("plan"):
        best = candidates[0]
        mixed = mix_widths(decomposed, best.ranges, best.config, samples, ops=ops) if config.ranked else None
        plans = [(c, make_plan(decomposed, c.ranges, c.config, mixed=mixed, ops=ops)) for c in candidates]
    with clock("refine"):
        refined = refine_best(decomposed, plans, samples, config, ops=ops, progress=progress)
        config, ranges = refined.candidate.config, refined.candidate.ranges
        if searched:
            learned["range_search"] |= {"chosen": refined.candidate.label, "refined_snr_db": refined.snr_db}
        learned |= refined.records
        plan = refined.planned.plan
        planned = replace(refined.planned, plan=replace(plan, notes=(*_qdq(origin, decomposed), *plan.notes)))
    if qat is not None:
        from knerex_jax.qat.run import tune_plan  # optax takes long to import, and nothing else needs it

        with clock("fine-tune"):
            tuned = tune_plan(planned, decomposed, taught, config, qat, folder, ops, progress)
            planned, learned["fine_tuning"] = tuned.planned, qat.to_json() | tuned.to_json()
    with clock("plan"):
        bounds = bound_program(planned.program, planned.constants)
    held, samples = samples, {t: a[:SNR_SAMPLES] for t, a in samples.items()}
    on_cpu = cpu_nodes(decomposed, planned.structure, config.target, ops)
    header = {
        "arith_version": ARITH_VERSION, "source_sha256": digest, "versions": versions(), "cpu_nodes": list(on_cpu),
        "origins": origins_of(planned.model),
    }  # fmt: skip
    bie = Bie(planned.program, planned.constants, planned.plan, header)
    fixed = FixedModel(bie)
    with clock("emulate"):
        reference = FloatModel(decomposed, ops).run(samples, batch_size=config.batch_size)
        codes = fixed.run(samples, "fixed", batch_size=config.batch_size)
        found = {t: fixed.dequantize(t, codes[t]) for t in decomposed.graph.outputs}
        behind = sigmoid_outputs(config, decomposed.graph.outputs)
        reference, found = behind_sigmoids(reference, behind), behind_sigmoids(found, behind)
        snr = {t: snr_db(reference[t], found[t]) for t in found}
    with clock("compile"):
        compiled, notes = compile_or_note(bie, config, progress)
        planned = replace(planned, plan=replace(planned.plan, notes=(*planned.plan.notes, *notes)))
        npu = None if compiled is None else NpuModel(compiled.program, compiled.weight)
        evaluation = compiled and evaluation_of(subject_of_compiled(path.stem, compiled.program, config, planned.model))
    with clock("export"):
        exports = export_or_note(bie, planned, samples, codes, ops)
        notes = (*exports.notes, *data_notes(config), *match_notes(config, source, len(kept)))
        notes = (*notes, *dump_notes(config, len(kept)))
        planned = replace(planned, plan=replace(planned.plan, notes=(*planned.plan.notes, *notes)))
    with clock("match"):
        match = npu and match_for_mode(fixed, npu, config, held, codes, source, progress)
        bie = with_probe(replace(bie, plan=planned.plan), fixed, npu)
    with clock("report"):
        support = check_model(origin, config.platform, ops=ops)
        sections = quantized_sections(
            config=config, origin=origin, planned=planned, measured=measured, ranges=ranges, samples=samples,
            reference=reference, found=found, ops=ops,
        ) | common_sections(config, support, compiled and compiled.program, evaluation)  # fmt: skip
        sections["hashes"] = bie.header["probe"]["sha256"]
    built = compiled and evaluation and compiled_row(compiled, config, evaluation.totals.dram_traffic)
    report = report_data(
        config=config, origin=origin, name=path.stem, model_hash=digest, planned=planned, ranges=ranges, bounds=bounds,
        learned=learned, snr_db=snr, snr_samples=min(len(kept), SNR_SAMPLES), on_cpu=on_cpu,
        compiled=built, match=match and match.to_json(),
        performance=evaluation and evaluation.to_json(), qdq_deviation=exports.deviation, timings_s=clock.seconds,
        sections=sections,
    )  # fmt: skip
    report |= {"calibration_notes": calibration_notes, "behind_sigmoid": list(behind)}
    report = with_score(report)
    nef = None
    if compiled is not None:
        nef = encode_nef(Nef((nef_model(bie, compiled, config.model_id, config.model_version),)))
    again, page = config_text(asked, folder, qat=qat and qat.to_json()), render_report(report)
    files = StageFiles(path.stem, origin, planned, bie, report, page, ranges, nef, exports.models, again, ops)
    paths: Mapping[str, Path] = {}
    if processes.index() == 0:
        dumped = dump_of_run(fixed, planned, config, kept, folder / f"{path.stem}.dump.zip", ops)
        paths = write_stages(files, folder) | dumped | ({} if qat is None else {"metrics": folder / METRICS})
        if mixed is not None and (config.mixbw_debug or os.environ.get("MIXBW_DEBUG") == "True"):
            write_candidates(mixed.candidates, folder)
    if qat is not None:
        from knerex_jax.qat.checkpoint import discard

        discard(folder)
    return PTQResult(
        paths=paths,
        snr_db=snr,
        plan=planned.plan,
        bit_true_match=match and match.equal,
        report=report,
        planned=planned,
        ranges=ranges,
        evaluation=evaluation,
    )


def _estimated(config: PTQConfig, path: Path, folder: Path, ops: Ops) -> PTQResult:
    """Mode 0: the estimate alone."""
    subject = subject_of_onnx(path, config, ops)
    planned, found = subject.planned, evaluation_of(subject)
    assert planned is not None, "a float model was planned"
    report = with_score({
        "format": FORMAT, "created": created(), "model": {"name": path.stem, "sha256": model_sha256(path)},
        "requested": config.to_json(), "applied": config.applied(), "notes": [vars(n) for n in config.notes()],
        "performance": found.to_json(), **common_sections(config, subject.support, subject.program, found),
        "versions": versions(),
    })  # fmt: skip
    names = {"report_html": "model_fx_report.html", "report_json": "model_fx_report.json", "config": RUN_FILE}
    paths = {key: folder / name for key, name in names.items()} if processes.index() == 0 else {}
    if paths:
        with staged(folder) as scratch:
            write_report(report, render_report(report), scratch)
            write_atomic(scratch / RUN_FILE, config_text(config, folder).encode())
    ranges = nominal_ranges(planned.model, config, ops)
    return PTQResult(paths, {}, planned.plan, None, report, planned, ranges, found)


@contextmanager
def _run(config: PTQConfig) -> Iterator[tuple[Path, Path]]:
    """(Model file, output folder) of a run whose config names what its mode needs."""
    for option in ("p_onnx", "np_txt") if config.mode else ("p_onnx",):
        require(config, option)
    path = Path(str(config.p_onnx))
    with run_folder(config.p_output) as folder, _enough_memory(path):
        yield path, folder


@contextmanager
def run_folder(path: str | Path) -> Iterator[Path]:
    """The output folder of a run. Of several processes the first one owns it; the others keep checkpoints there.

    Raises:
      ArtifactError: it cannot be written, or another run is using it.
    """
    with ExitStack() as held:
        own = processes.index() == 0
        yield processes.all_or_none(lambda: held.enter_context(output_folder(path)) if own else writable_folder(path))


@contextmanager
def _enough_memory(path: Path) -> Iterator[None]:
    """A lack of memory, on the host or the device, is a fault that can be mended."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as e:
        if isinstance(e, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(e):
            raise
        fix = "lower batch_size; feed data from files or an iterator, not as one array; use a machine with more memory"
        raise ModelError("the memory does not suffice", where=str(path), fix=fix) from e


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - started, 3)


def _qdq(origin: Model, decomposed: Model) -> tuple[Note, ...]:
    """What became of the quantizers of a model that was quantized before."""
    before, after = (sum(n.op_type == "QuantizeLinear" for n in m.graph.nodes) for m in (origin, decomposed))
    if before == after:
        return ()
    asked = f"{before - after} pairs of QuantizeLinear and DequantizeLinear"
    return (Note("model", asked, "their limits as Clip", "formats are chosen anew from the calibration data"),)
