"""What makes a plan better at the same widths: the choice of the range rule, scales, weight codes, biases.

Each step is judged by the noise of the integers at the outputs of the model, and undone where it does not help.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from knerex_jax.calibrate.measured import Measured
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.data.sources import Sample, Source
from knerex_jax.flow import Ops, make_plan, measure_parts, ranges_of, ranges_of_each, sigmoid_outputs
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.planner import Planned, carried_by_slots
from knerex_jax.refine.bias import adjust_bias
from knerex_jax.refine.headroom import Fold, Room, RoomChoice, rooms, search_room
from knerex_jax.refine.noise import NoiseMeter
from knerex_jax.refine.ranges import search_ranges
from knerex_jax.refine.rounding import learn_rounding
from knerex_jax.refine.split import FEWEST_SAMPLES, HELD_OUT_EVERY, fold_of, held_out

Samples = Mapping[str, np.ndarray]
"""Input name -> [N, ...] in place of the model's batch axis."""

RULES: Mapping[str, Mapping[str, Any]] = {
    **{
        f"percentage {pct:g}": {"datapath_range_method": "percentage", "data_analysis_pct": pct}
        for pct in (0.999, 0.9999, 0.99999, 1.0)
    },
    **{
        f"mmse {factor:g}": {"datapath_range_method": "mmse", "percentile": 0.001, "outlier_factor": factor}
        for factor in (1.0, 2.0, 4.0)
    },
}
"""Range rules that a search tries."""

GUARDS = (0, 1, 2, 3)
"""guard_bits that a search tries with each, and what applies without it."""

REFINED = 3
"""So many of the best rules are refined before one is chosen: nearest rounding alone ranks them roughly."""


@dataclass(frozen=True)
class Candidate:
    """A range rule and what it made of the calibration data.

    Attributes:
      label: of the rule; empty where there was no choice.
      config: with the rule.
      ranges: by the rule.
    """

    label: str
    config: PTQConfig
    ranges: Ranges = field(repr=False)


@dataclass(frozen=True)
class RangeChoice:
    """The outcome of a search for the range rule.

    Attributes:
      finalists: rules of the last round, the best first.
      snr_db: label -> SNR in dB (of the mean share of noise over the outputs); see `RangeSearch.noise`.
      room: headroom of 16-bit data and guard, as all finalists have them; None where this was not searched.
    """

    finalists: tuple[Candidate, ...]
    snr_db: Mapping[str, float]
    room: RoomChoice | None = None

    def candidates(self, config: PTQConfig) -> tuple[Candidate, ...]:
        """The rules between which refining decides: one where nothing is refined, or widths are ranked for one."""
        return self.finalists[: REFINED if config.learns and not config.ranked else 1]

    def to_json(self) -> dict[str, Any]:
        """The table of the search as plain data."""
        found = {"finalists": [c.label for c in self.finalists], "snr_db": dict(self.snr_db)}
        if self.room is not None:
            by_fold = {str(room): list(snr) for room, snr in self.room.snr_db.items()}
            found["held_out"] = {"chosen": str(self.room.chosen), "snr_db_by_fold": by_fold}
        return found


def choose_ranges(
    model: Model,
    measured: Measured,
    samples: Samples,
    config: PTQConfig,
    *,
    ops: Ops = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> RangeChoice:
    """Tries range rules and guards in real integers, and takes the one with least noise at the outputs of the model.

    Then, where data have 16 bits and the config leaves their headroom open, it tries headrooms and guards with the best
    rule, and all finalists get those that are best for samples that did not set the ranges.

    Args:
      model: decomposed.
      measured: counts of the calibration data, for `searched_configs` too.
      samples: some of these data, to judge by. (Few rules for many tensors: the samples that made the ranges judge
        them well, and leaving a part out costs the judgement more than it gains.)
      config: everything but the rule.
      ops: operator records.
      progress: called with (stage, done, total).

    Raises:
      ConfigError: no output is a real number, so there is nothing to judge by.
      PlanError: no legal plan.
    """
    rules = searched_configs(config)
    base: Planned | None = None
    plans: dict[str, Planned] = {}
    candidates: dict[str, Candidate] = {}
    guards = sorted({*GUARDS, config.guard})
    for (label, rule), ranges in zip(rules.items(), ranges_of_each(measured, rules.values()), strict=True):
        for guard in guards:
            name = f"{label}, guard {guard}"
            candidates[name] = Candidate(name, replace(rule, guard_bits=guard), ranges)
            plans[name] = make_plan(model, ranges, candidates[name].config.unranked, base=base, ops=ops)
            base = base or plans[name]
    assert base is not None, "a search tries some rules"
    wide = _asks_for_wide_data(model, base)
    if wide:
        plans = _distinct(plans)
    meter = _meter(model, samples, config, ops)
    tell = None if progress is None else partial(progress, "try ranges")
    found = search_ranges(plans, meter, tell)
    finalists, room = tuple(candidates[label] for label in found.finalists), None
    if wide and config.headroom_16b is None and _count(samples) >= FEWEST_SAMPLES:
        best = finalists[0].config
        tell = None if progress is None else partial(progress, "try headroom")
        default = Room(best.wide_headroom, best.guard)
        room = search_room(_folds(model, samples, best, rooms(default, guards), base, meter, ops), default, tell)
        finalists = tuple({c.label: c for c in (_with_room(c, room.chosen) for c in finalists)}.values())
    return RangeChoice(finalists, {label: _db(n) for label, n in found.noise.items()}, room)


def _with_room(candidate: Candidate, room: Room) -> Candidate:
    rule, _, _ = candidate.label.rpartition(", guard ")
    config = replace(candidate.config, headroom_16b=room.headroom, guard_bits=room.guard)
    return Candidate(f"{rule}, {room}", config, candidate.ranges)


def _asks_for_wide_data(model: Model, planned: Planned) -> bool:
    """Whether any data have 15 bits beside constants and the inside of decomposed operators, which always have."""
    graph = model.graph
    always = {t for n in graph.nodes if n.wide or is_constant_operand(n, model) for t in n.outputs}
    carried = carried_by_slots(model, planned.model)
    return any(f.bits == 15 and carried.get(t, t) not in always for t, f in planned.plan.formats.items())


def _distinct(plans: Mapping[str, Planned]) -> dict[str, Planned]:
    """The plans without those equal to an earlier one: rules that differ at 8 bits only."""
    first: dict[tuple[Any, ...], str] = {}
    for label, planned in plans.items():
        formats = planned.plan.formats.items()
        first.setdefault(tuple((t, f.bits, f.radix.tobytes(), f.scale.tobytes()) for t, f in formats), label)
    return {label: plans[label] for label in first.values()}


def _folds(
    model: Model,
    samples: Samples,
    config: PTQConfig,
    tried: Sequence[Room],
    base: Planned,
    meter: NoiseMeter,
    ops: Ops,
) -> list[Fold]:
    """Plans with every room for the ranges of all samples but one fold, which judges."""
    fold = fold_of(np.arange(_count(samples)))
    numbers = range(HELD_OUT_EVERY)
    parts = measure_parts(model, [_source(samples, np.flatnonzero(fold == k)) for k in numbers], config, ops=ops)
    asked = config.unranked
    configs = {room: replace(asked, headroom_16b=room.headroom, guard_bits=room.guard) for room in tried}

    def plans(ranges: Ranges) -> dict[Room, Planned]:
        return {room: make_plan(model, ranges, c, base=base, ops=ops) for room, c in configs.items()}

    others = [[part for i, part in enumerate(parts) if i != k] for k in numbers]
    return [
        Fold(plans(ranges_of(first.merge(*rest), config)), meter.part(fold == k))
        for k, (first, *rest) in zip(numbers, others, strict=True)
    ]


def _source(samples: Samples, chosen: np.ndarray) -> Source:
    """Some of the samples as calibration data."""
    jobs = [partial(_sample, samples, i) for i in chosen]
    return Source(rereadable=True, count=len(jobs), jobs=lambda: jobs)


def _sample(samples: Samples, index: int) -> Sample:
    return {t: a[index] for t, a in samples.items()}


def searched_configs(config: PTQConfig) -> dict[str, PTQConfig]:
    """Label -> the config under every rule that a search tries, the given one first; none if it asks for no search."""
    if not config.range_search:
        return {}
    tried = {label: replace(config, **rule) for label, rule in RULES.items()}
    return tried if config in tried.values() else {"as given": config, **tried}


@dataclass(frozen=True)
class Refined:
    """A plan after the steps that learn.

    Attributes:
      candidate: the range rule it rests on.
      planned: with its refined constants.
      records: of the steps, as plain data: "kept", "snr_db" of the held-out samples before and after (None without
        judgement), "nodes".
      snr_db: label of every rule that was refined -> SNR of the held-out samples; empty without judgement.
    """

    candidate: Candidate
    planned: Planned
    records: Mapping[str, Any]
    snr_db: Mapping[str, float]


def refine_best(
    model: Model,
    plans: Sequence[tuple[Candidate, Planned]],
    samples: Samples,
    config: PTQConfig,
    *,
    ops: Ops = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Refined:
    """Learned weight codes and adjusted biases, as far as the config asks for them and they help; and the best plan.

    A step is kept if it lowers the noise at the model's outputs on held-out samples: better nodes do not always make a
    better model. A step that is not kept leaves a note in the plan. Of several plans the one with least noise then is
    taken. Too few samples, or outputs that are all integers, judge nothing; then the first plan counts, and every step
    is kept.

    Args:
      model: decomposed; its tensors are in every plan, whatever rescales stand behind them.
      plans: of it, the most promising first; formats stay.
      samples: calibration samples.
      config: weight_rounding, optimize.
      ops: operator records.
      progress: called with (stage, nodes done, nodes).
    """
    judge = _judge(model, samples, config, ops)
    done: list[tuple[float, Refined]] = []
    for k, (candidate, planned) in enumerate(plans if judge else plans[:1]):
        place = f" ({k + 1} of {len(plans)})" if judge and len(plans) > 1 else ""
        tell = None if progress is None else partial(_placed, progress, place)
        made, records = _refine(planned, samples, config, judge, ops, tell)
        done.append((judge(made) if judge else 0.0, Refined(candidate, made, records, {})))
    snr = {r.candidate.label: _db(noise) for noise, r in done} if judge else {}
    return replace(min(done, key=lambda d: d[0])[1], snr_db=snr)


def _refine(
    planned: Planned, samples: Samples, config: PTQConfig, judge: NoiseMeter | None, ops: Ops, progress: "_Progress"
) -> tuple[Planned, dict[str, Any]]:
    records: dict[str, Any] = {}
    for name, request, step in _steps(config):
        tell = None if progress is None else partial(progress, request)
        made, nodes = step(planned, samples, config, ops, tell)
        before, after = (judge(planned), judge(made)) if judge else (0.0, 0.0)
        kept = judge is None or after < before
        snr = None if judge is None else {"before": _db(before), "after": _db(after)}
        records[name] = {"kept": kept, "snr_db": snr, "nodes": [asdict(r) for r in nodes]}
        planned = made if kept else _noted(planned, name, request, f"{_db(before):.2f} to {_db(after):.2f} dB")
    return planned, records


def _placed(progress: Callable[[str, int, int | None], None], place: str, stage: str, done: int, total: int) -> None:
    progress(stage + place, done, total)


def _steps(config: PTQConfig) -> Iterator[tuple[str, str, "_Step"]]:
    """(name in the records, what was asked for, the step), in order."""
    if config.weight_rounding == "learned":
        yield "weight_rounding", "learned rounding", _round
    if config.optimize:
        yield "bias_adjustment", f"{config.bias_mode} bias adjustment", _adjust


def _round(planned: Planned, samples: Samples, config: PTQConfig, ops: Ops, tell: "_Tell | None") -> "_Made":
    made = learn_rounding(
        planned, samples, target=config.target, registry=ops, batch_size=config.batch_size, progress=tell
    )
    return made.planned, made.records


def _adjust(planned: Planned, samples: Samples, config: PTQConfig, ops: Ops, tell: "_Tell | None") -> "_Made":
    made = adjust_bias(
        planned, samples, config.bias_mode, target=config.target, batch_size=config.batch_size, registry=ops,
        progress=tell,
    )  # fmt: skip
    return made.planned, made.records


_Tell = Callable[[int, int], None]
_Progress = Callable[..., None] | None
_Made = tuple[Planned, Sequence[Any]]
_Step = Callable[[Planned, Samples, PTQConfig, Ops, _Tell | None], _Made]


def _judge(model: Model, samples: Samples, config: PTQConfig, ops: Ops) -> NoiseMeter | None:
    """Measures plans on held-out samples; None where there are too few, or no real output."""
    if not config.learns or _count(samples) < FEWEST_SAMPLES or model.exact.issuperset(model.graph.outputs):
        return None
    judging = held_out(np.arange(_count(samples)))
    return _meter(model, {t: a[judging] for t, a in samples.items()}, config, ops)


def _meter(model: Model, samples: Samples, config: PTQConfig, ops: Ops) -> NoiseMeter:
    return NoiseMeter.of(model, samples, ops, config.batch_size, sigmoid_outputs(config, model.graph.outputs))


def _noted(planned: Planned, where: str, asked: str, change: str) -> Planned:
    note = Note(where, asked, "not applied", f"on held-out samples it would take the outputs from {change}")
    return replace(planned, plan=replace(planned.plan, notes=(*planned.plan.notes, note)))


def _count(samples: Samples) -> int:
    return len(next(iter(samples.values())))


def _db(noise: float) -> float:
    """SNR in dB of a share of noise."""
    return float(-10 * np.log10(max(noise, 1e-30)))
