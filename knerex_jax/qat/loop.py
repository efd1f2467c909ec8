"""The training loop: plan, step, judge; the best plan on held-out samples is the result."""

import csv
import hashlib
import io
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from knerex_jax.artifacts.report import versions
from knerex_jax.data import identity
from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.run import Emulator
from knerex_jax.errors import ConfigError
from knerex_jax.files import write_atomic
from knerex_jax.parallel.devices import replicated, split
from knerex_jax.program.bounds import bound_program, join
from knerex_jax.qat.batches import Batches
from knerex_jax.qat.chain import slopes_of_trained
from knerex_jax.qat.checkpoint import CHECKPOINT, Progressed, TrainingCheckpoints
from knerex_jax.qat.config import METRICS, NARROW_BITS, QATConfig
from knerex_jax.qat.forward import Coded
from knerex_jax.qat.judge import Judge, Judged
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.optimizer import Optimizer, make_optimizer, schedule
from knerex_jax.qat.step import Batch, EmulateFn, SlopesFn, make_emulate, make_slopes, training_mesh
from knerex_jax.qat.subject import Subject
from knerex_jax.qat.teacher import Teacher
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.split import FEWEST_SAMPLES, held_out


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning made of a plan.

    Attributes:
      planned: the best plan on held-out samples; the given one, with a note, if training made none that is better.
      kept: whether it was trained.
      before, after: judgement of the given plan and of the best one.
      steps: training steps done.
      best_step: the step behind which the plan was best.
      samples: how many taught, how many judged.
      rows: one per judgement: step, epoch, learning_rate, train_loss, held_out_loss, held_out_snr_db, seconds.
    """

    planned: Planned
    kept: bool
    before: Judged
    after: Judged
    steps: int
    best_step: int
    samples: tuple[int, int]
    rows: tuple[Mapping[str, float], ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "kept": self.kept, "snr_db": {"before": self.before.snr_db, "after": self.after.snr_db},
            "loss": {"before": self.before.loss, "after": self.after.loss}, "steps": self.steps,
            "best_step": self.best_step, "samples": {"trained": self.samples[0], "held_out": self.samples[1]},
            "metrics": [dict(r) for r in self.rows],
        }  # fmt: skip


def fine_tune(
    planned: Planned,
    inputs: Mapping[str, np.ndarray],
    config: QATConfig,
    subject: Subject,
    *,
    labels: np.ndarray | None = None,
    sigmoids: Collection[str] = (),
    folder: Path | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Trains a plan to come close to its float model.

    Args:
      planned: the plan to beat.
      inputs: samples, name -> [N, ...] in place of the batch axis; one of every four judges, the others teach.
      config: of the training.
      subject: what is trained; of `planned`, or of another plan of the same model and program.
      labels: one per sample, for the user's loss.
      sigmoids: outputs that a sigmoid outside the model follows.
      folder: where the checkpoint and the metrics are written; None writes none. The checkpoint stays: who has written
        what the training made removes it.
      batch_size: samples per compiled step when judging.
      progress: called with (steps done, steps).

    Raises:
      ConfigError: fewer than eight samples, as many labels as samples are not given, or a loss is no number.
      HookError: the user's loss failed.
      PlanError: a shift is out of range; names the node.
    """
    count = len(next(iter(inputs.values())))
    if count < FEWEST_SAMPLES:
        fix = f"give at least {FEWEST_SAMPLES}, better hundreds"
        raise ConfigError(f"{count} samples cannot be split", where="fine-tuning", fix=fix)
    if labels is not None and len(labels) != count:
        raise ConfigError(f"{len(labels)} labels for {count} samples", where="labels", fix="give one per sample")
    config = config.for_weights(min(planned.plan.weight_bits.values(), default=NARROW_BITS))
    run = _Run.of(planned, inputs, Objective(subject, config, frozenset(sigmoids)), labels, batch_size)
    key = None if folder is None else run.key
    checkpoints = None if folder is None or key is None else TrainingCheckpoints(folder / CHECKPOINT, key)
    state = run.first()
    state = (checkpoints and checkpoints.load(state)) or state
    while state.step < config.steps and state.stale < config.patience:
        state = run.advance(state, progress)
        if checkpoints is not None:
            checkpoints.save(state)
        if folder is not None:
            write_atomic(folder / METRICS, _csv(state.rows))
    if folder is not None:
        write_atomic(folder / METRICS, _csv(state.rows))
    return run.result(state)


@dataclass
class _Engine:
    """The compiled emulator, made again where integers outgrow the bounds it is proven for."""

    subject: Subject
    mesh: Any
    made: tuple[Emulator, EmulateFn] | None = None

    def serve(self, planned: Planned) -> tuple[Emulator, EmulateFn]:
        """For judging, and for training."""
        bounds = bound_program(planned.program, planned.constants)
        if self.made is None or not self.made[0].covers(bounds):
            known = [] if self.made is None else [self.made[0].bounds]
            emulator = Emulator(planned.program, join([*known, bounds]))
            self.made = emulator, make_emulate(self.subject, emulator.methods, self.mesh)
        return self.made


@dataclass
class _Run:
    """One training.

    Attributes:
      given: the plan to beat.
      inputs, wanted, labels: of all samples; `wanted` without inner tensors, which would not fit.
    """

    given: Planned
    inputs: Mapping[str, np.ndarray]
    wanted: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    objective: Objective
    judge: Judge
    batches: Batches
    optimizer: Optimizer
    engine: _Engine
    teacher: Teacher
    slopes: SlopesFn
    mesh: Any
    before: Judged

    @classmethod
    def of(
        cls, given: Planned, inputs: Mapping[str, np.ndarray], objective: Objective, labels: np.ndarray | None,
        batch_size: int,
    ) -> "_Run":  # fmt: skip
        subject, config = objective.subject, objective.config
        if not objective.judged:
            fix = "cut what makes integers of the output (ArgMax, TopK) off the model"
            raise ConfigError("fine-tuning needs an output of real numbers", where=given.model.graph.name, fix=fix)
        graph = subject.base.model.graph
        types = {t: graph.types[t] for t in graph.inputs}
        held = {t: a.reshape(-1, *types[t].shape) for t, a in stack_inputs(inputs, types).items()}
        judges = held_out(np.arange(len(next(iter(held.values())))))
        teaching = np.flatnonzero(~judges)
        batches = Batches.of(config, teaching, held)
        batch = batches.size
        mesh = training_mesh(config, batch)
        teacher = Teacher.of(objective, mesh)
        kept = [t for t in objective.taps if t not in objective.inner]
        wanted = teacher.all(held, batch, kept)
        some = teacher.all({t: a[teaching[:batch]] for t, a in held.items()}, batch, objective.inner)
        counted = {t: objective.counted(t, wanted[t][teaching]) for t in objective.judged}
        energy = {t: float(np.mean(_energies(v))) or 1.0 for t, v in counted.items()}
        energy |= {t: float(np.mean(_energies(v))) or 1.0 for t, v in some.items()}
        own = None if labels is None else np.asarray(labels)
        judge = Judge(
            objective, {t: a[judges] for t, a in inputs.items()}, {t: v[judges] for t, v in wanted.items()},
            None if own is None else own[judges], batch_size,
        )  # fmt: skip
        optimizer = make_optimizer(config, subject.units)
        engine, slopes = _Engine(subject, mesh), make_slopes(objective, energy, mesh)
        emulator, _ = engine.serve(given)
        before = judge(emulator, prepare(given.program, given.constants), given)
        if not np.isfinite(before.loss):
            fix = "correct the loss" if config.loss is not None else "calibrate with data that the model was made for"
            raise ConfigError(f"the loss of the given plan is {before.loss}", where="fine-tuning", fix=fix)
        return cls(
            given, held, wanted, own, objective, judge, batches, optimizer, engine, teacher, slopes, mesh, before
        )

    @property
    def config(self) -> QATConfig:
        return self.objective.config

    @property
    def subject(self) -> Subject:
        return self.objective.subject

    @property
    def key(self) -> str | None:
        """All that decides the result; None where a loss of the user's cannot be told from another."""
        loss = "" if self.config.loss is None else identity.of_function(self.config.loss)
        if loss is None:
            return None
        found = hashlib.sha256()
        start = jax.tree.leaves(self.subject.start)
        labels = () if self.labels is None else (self.labels,)
        for array in (*self.inputs.values(), *labels, *start, self.subject.classes.free, *_arrays(self.given)):
            found.update(np.ascontiguousarray(array).data)
        device = [jax.default_backend(), jax.devices()[0].device_kind, self.mesh.size]
        judged = sorted(self.objective.sigmoids)
        return "\n".join(map(repr, [self.config.to_json(), loss, judged, versions(), device, found.hexdigest()]))

    def first(self) -> Progressed:
        """Before the first step."""
        start = self.subject.start
        row = {"step": 0, "epoch": 0.0, "learning_rate": 0.0, "train_loss": float("nan"), "seconds": 0.0}
        row |= {"held_out_loss": self.before.loss, "held_out_snr_db": self.before.snr_db}
        # Of the given plan: the start of the training has other weights where they are clipped.
        return Progressed(0, start, self.optimizer.init(start), start, self.before.loss, 0, (_rounded(row),))

    def advance(self, state: Progressed, progress: Callable[[int, int], None] | None) -> Progressed:
        """Trains up to the next judgement."""
        config, started = self.config, time.perf_counter()
        trained, optimizer = state.trained, state.optimizer
        last = min(state.step + config.evaluate_every, config.steps)
        losses = []
        for k in range(state.step, last):
            planned = self.subject.planned(trained)
            _, emulate = self.engine.serve(planned)
            own = Coded.of(self.subject, planned)
            coded, batch = replicated(own, self.mesh), self._batch(k)
            loss, slopes = self.slopes(coded, batch, emulate(coded, batch.inputs))
            slopes = slopes_of_trained(self.subject, trained, planned, own.reals, slopes)
            trained, optimizer = self.optimizer.update(trained, slopes, optimizer)
            losses.append(loss)
            if progress is not None:
                progress(k + 1, config.steps)
        planned = self.subject.planned(trained)
        emulator, _ = self.engine.serve(planned)
        found = self.judge(emulator, prepare(planned.program, planned.constants), planned)
        better = found.loss < state.best_loss
        row = {
            "step": last, "epoch": last * self.batches.size / len(self.batches.teaching),
            "learning_rate": float(schedule(config)(last - 1)), "train_loss": float(np.mean([*map(float, losses)])),
            "held_out_loss": found.loss, "held_out_snr_db": found.snr_db,
            "seconds": state.rows[-1]["seconds"] + time.perf_counter() - started,
        }  # fmt: skip
        return Progressed(
            last, trained, optimizer, trained if better else state.best, found.loss if better else state.best_loss,
            0 if better else state.stale + 1, (*state.rows, _rounded(row)),
        )  # fmt: skip

    def result(self, state: Progressed) -> Tuned:
        """The best plan."""
        samples = len(self.batches.teaching), len(self.judge.inputs[next(iter(self.inputs))])
        best = min(state.rows, key=lambda r: (r["held_out_loss"], r["step"]))
        if not state.best_loss < self.before.loss:
            why = f"in {state.step} steps no plan was better on held-out samples"
            note = Note("fine-tuning", "trained weights and scales", "not applied", why)
            plan = replace(self.given.plan, notes=(*self.given.plan.notes, note))
            kept = replace(self.given, plan=plan)
            return Tuned(kept, False, self.before, self.before, state.step, 0, samples, state.rows)
        planned = self.subject.planned(state.best)
        emulator, _ = self.engine.serve(planned)
        after = self.judge(emulator, prepare(planned.program, planned.constants), planned)
        return Tuned(planned, True, self.before, after, state.step, int(best["step"]), samples, state.rows)

    def _batch(self, step: int) -> Batch:
        """The samples of a step, on the devices."""
        drawn, labels = self.batches(step), self.labels
        inputs = drawn.of(self.inputs)
        inputs, labels = split((inputs, None if labels is None else labels[drawn.places]), self.mesh)
        if self.objective.inner or drawn.mixing is not None:
            return Batch(inputs, self.teacher(inputs), labels)
        return Batch(inputs, split({t: v[drawn.places] for t, v in self.wanted.items()}, self.mesh), labels)


def _energies(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float64) ** 2).reshape(len(values), -1).sum(axis=1)


def _arrays(planned: Planned) -> list[np.ndarray]:
    """The integers of a plan, in a fixed order."""
    return [v for name in sorted(planned.constants) for _, v in sorted(planned.constants[name].items())]


def _rounded(row: Mapping[str, float]) -> dict[str, float]:
    return {k: round(v, 3) if k in ("epoch", "seconds") else v for k, v in row.items()}


def _csv(rows: tuple[Mapping[str, float], ...]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
