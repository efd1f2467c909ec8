"""What makes a plan better at the same widths: the choice of the range rule, scales, weight codes, biases.

Each step is judged on samples it did not learn from, and keeps what it was given where it does not help.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.data.sources import Source
from knerex_jax.errors import ConfigError
from knerex_jax.flow import Ops, analyze, make_plan, measure, ranges_of_each
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.bias import adjust_bias
from knerex_jax.refine.noise import NoiseMeter
from knerex_jax.refine.ranges import search_ranges
from knerex_jax.refine.rounding import learn_rounding
from knerex_jax.runtime import FloatModel

Samples = Mapping[str, np.ndarray]
"""Input name -> [N, ...] in place of the model's batch axis."""

HELD_OUT_EVERY = 4
"""Every fourth sample judges, the others teach."""

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
    held: Samples,
    config: PTQConfig,
    *,
    ops: Ops = REGISTRY,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> RangeChoice:
    """Tries range rules and guards, each planned from three quarters of the samples and judged on the others.

    Args:
      model: decomposed.
      source: calibration data; every fourth of the first samples is taken out for the judgement.
      held: these samples.
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
    count = len(next(iter(held.values())))
    taken = frozenset(range(HELD_OUT_EVERY - 1, HELD_OUT_EVERY * count, HELD_OUT_EVERY))
    teaching = replace(
        source,
        count=None if source.count is None else source.count - count,
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
    found = search_ranges(plans, meter(model, held, config, ops), tell)
    chosen = configs[found.chosen]
    snr = {label: float(-10 * np.log10(max(n, 1e-30))) for label, n in found.noise.items()}
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
    """Learned weight codes and adjusted biases, as far as the config asks for them.

    Args:
      planned: formats, which stay.
      samples: calibration samples.
      config: weight_rounding, optimize.
      ops: operator records.
      progress: called with (stage, nodes done, nodes).

    Returns:
      The plan with its refined constants, and the records of the steps as plain data.
    """
    done: dict[str, Any] = {}

    def tell(stage: str) -> Callable[[int, int], None]:
        return lambda k, total: None if progress is None else progress(stage, k, total)

    if config.weight_rounding == "learned":
        rounded = learn_rounding(
            planned, samples, target=config.target, registry=ops, batch_size=config.batch_size, progress=tell("round")
        )
        planned, done["weight_rounding"] = rounded.planned, [asdict(r) for r in rounded.records]
    if config.optimize:
        adjusted = adjust_bias(
            planned, samples, config.bias_mode, target=config.target, batch_size=config.batch_size, registry=ops,
            progress=tell("adjust biases"),
        )  # fmt: skip
        planned, done["bias_adjustment"] = adjusted.planned, [asdict(r) for r in adjusted.records]
    return planned, done
