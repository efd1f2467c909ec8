"""What makes a plan better at the same widths: the choice of the range rule, scales, weight codes, biases.

Each step is judged on samples it did not learn from, and keeps what it was given where it does not help.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.data.sources import Source
from knerex_jax.errors import ConfigError
from knerex_jax.flow import Ops, analyze, make_plan, measure, ranges_of_each
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.plan import Note
from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.bias import adjust_bias
from knerex_jax.refine.noise import NoiseMeter
from knerex_jax.refine.ranges import search_ranges
from knerex_jax.refine.rounding import learn_rounding
from knerex_jax.refine.split import FEWEST_SAMPLES, held_out
from knerex_jax.runtime import FloatModel

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
"""guard_bits that a search tries with each."""


@dataclass(frozen=True)
class RangeChoice:
    """The outcome of a search for the range rule.

    Attributes:
      config: the given one with the rule that was chosen.
      ranges: by that rule, of all samples.
      snr_db: label -> SNR in dB on held-out samples (of the mean share of noise over the outputs).
      chosen: label of the rule.
    """

    config: PTQConfig
    ranges: Ranges = field(repr=False)
    snr_db: Mapping[str, float]
    chosen: str

    def to_json(self) -> dict[str, Any]:
        """The table of the search as plain data."""
        return {"chosen": self.chosen, "snr_db": dict(self.snr_db)}


def choose_ranges(
    model: Model,
    source: Source,
    samples: Samples,
    config: PTQConfig,
    *,
    ops: Ops = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> RangeChoice:
    """Tries range rules and guards, each judged on samples that its ranges do not rest on.

    Args:
      model: decomposed.
      source: calibration data.
      samples: the first of them; one of every four judges and is left out of the ranges that are tried.
      config: everything but the rule.
      ops: operator records.
      progress: called with (stage, done, total).

    Raises:
      ConfigError: the data can be read only once.
      PlanError: no legal plan.
    """
    if not source.rereadable:
        raise ConfigError(
            "the search reads the calibration data more than once", where="range_search=True",
            fix="pass arrays, files, or a function that returns an iterator",
        )  # fmt: skip
    judging = held_out(np.arange(_count(samples)))
    taken = frozenset(np.flatnonzero(judging).tolist())
    teaching = replace(
        source,
        count=None if source.count is None else source.count - len(taken),
        jobs=lambda: (job for i, job in enumerate(source.jobs()) if i not in taken),
    )
    rules = {label: replace(config, **rule) for label, rule in RULES.items()}
    read = None if progress is None else lambda done: progress("search ranges", done, teaching.count)
    first, *rest = rules.values()
    measured = measure(model, teaching, first, also=rest, progress=read, ops=ops)
    base: Planned | None = None
    plans: dict[str, Planned] = {}
    configs: dict[str, PTQConfig] = {}
    for (label, rule), ranges in zip(rules.items(), ranges_of_each(measured, rules.values()), strict=True):
        for guard in GUARDS:
            name = f"{label}, guard {guard}"
            configs[name] = replace(rule, guard_bits=guard)
            plans[name] = make_plan(model, ranges, configs[name], base=base, ops=ops)
            base = base or plans[name]
    tell = None if progress is None else lambda done, total: progress("try ranges", done, total)
    found = search_ranges(plans, meter(model, {t: a[judging] for t, a in samples.items()}, config, ops), tell)
    chosen = configs[found.chosen]
    snr = {label: _db(n) for label, n in found.noise.items()}
    return RangeChoice(chosen, analyze(model, source, chosen, ops=ops), snr, found.chosen)


def meter(model: Model, samples: Samples, config: PTQConfig, ops: Ops = REGISTRY) -> NoiseMeter:
    """Measures plans of a model on samples.

    Raises:
      ConfigError: no output is a real number, so there is nothing to measure.
    """
    real = [t for t in model.graph.outputs if t not in model.exact]
    if not real:
        fix = "cut what makes integers of the output (ArgMax, TopK) off the model"
        raise ConfigError("a search needs an output of real numbers", where=model.graph.name, fix=fix)
    outputs = FloatModel(model, ops).run(samples, batch_size=config.batch_size)
    return NoiseMeter(samples, {t: outputs[t] for t in real}, config.batch_size)


def refine(
    planned: Planned,
    samples: Samples,
    config: PTQConfig,
    *,
    ops: Ops = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> tuple[Planned, dict[str, Any]]:
    """Learned weight codes and adjusted biases, as far as the config asks for them and they help.

    A step is kept if it lowers the noise at the model's outputs on held-out samples: better nodes do not always make a
    better model. A step that is not kept leaves a note in the plan. Too few samples, or outputs that are all integers,
    judge nothing; then every step is kept.

    Args:
      planned: formats, which stay.
      samples: calibration samples.
      config: weight_rounding, optimize.
      ops: operator records.
      progress: called with (stage, nodes done, nodes).

    Returns:
      The plan with its refined constants, and the records of the steps as plain data: "kept", "snr_db" of the held-out
      samples before and after (None without judgement), "nodes".
    """
    judge = _judge(planned.model, samples, config, ops)
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
_Made = tuple[Planned, Sequence[Any]]
_Step = Callable[[Planned, Samples, PTQConfig, Ops, _Tell | None], _Made]


def _judge(model: Model, samples: Samples, config: PTQConfig, ops: Ops) -> NoiseMeter | None:
    """Measures plans on held-out samples; None where there are too few, or no real output."""
    if not any(_steps(config)) or _count(samples) < FEWEST_SAMPLES or model.exact.issuperset(model.graph.outputs):
        return None
    judging = held_out(np.arange(_count(samples)))
    return meter(model, {t: a[judging] for t, a in samples.items()}, config, ops)


def _noted(planned: Planned, where: str, asked: str, change: str) -> Planned:
    note = Note(where, asked, "not applied", f"on held-out samples it would take the outputs from {change}")
    return replace(planned, plan=replace(planned.plan, notes=(*planned.plan.notes, note)))


def _count(samples: Samples) -> int:
    return len(next(iter(samples.values())))


def _db(noise: float) -> float:
    """SNR in dB of a share of noise."""
    return float(-10 * np.log10(max(noise, 1e-30)))
