"""What the sequential bias adjustment costs beside one float and one fixed pass, on one batch."""

import statistics
import time
from typing import Any

import numpy as np
from subjects import Subject, first
from timing import cpu_seconds, load

from knerex_jax.artifacts.bie import Bie
from knerex_jax.flow import analyze, make_plan
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.config import make_config
from knerex_jax.refine.bias import Adjustment
from knerex_jax.refine.bias_nodes import view_of, weighted_nodes
from knerex_jax.refine.bias_run import Passes
from knerex_jax.refine.bias_sequential import Sequential
from knerex_jax.runtime import FixedModel, FloatModel


def planned_model(asked: Subject, platform: str, width: str, samples: int) -> Any:
    """(planned model, calibration data, target)."""
    config = make_config(platform=platform, datapath_bitwidth_mode=width, weight_bitwidth_mode=width)
    data = asked.calibration(samples)
    return make_plan(asked.model, analyze(asked.model, data, config), config), data, config.target


def fixed_model(planned: Any) -> FixedModel:
    return FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))


def cost(
    asked: Subject, batch: int, rounds: int, platform: str = "720", width: str = "int8", samples: int = 64
) -> dict[str, Any]:
    """In each round a float pass, a fixed pass, the adjustment with its decisions, and planning again with it."""
    planned, data, target = planned_model(asked, platform, width, samples)
    data = first(data, batch)
    view = view_of(planned, planned.refined, target, REGISTRY)
    weighted = weighted_nodes(planned, view)
    passes = Passes(planned.program, planned.constants, planned.model, weighted, REGISTRY)
    sequential, floating, fixed = Sequential(passes), FloatModel(planned.model), fixed_model(planned)

    def adjust() -> Adjustment:
        adjustment = Adjustment(view, planned.constants, weighted, foresees=True)
        blocks = list(passes.blocks(data))
        *_, (_, sums) = passes.floats(blocks)
        assert sequential.in_one_trace(blocks, sums, adjustment.decide)
        return adjustment

    start = time.perf_counter()
    done = [adjust()]
    compiled = {"first_adjustment_seconds": round(time.perf_counter() - start, 1)}

    def plan() -> None:
        assert done[0].foresaw(done[0].adjusted(planned).planned)

    runs = {
        "float": lambda: floating.run(data, batch_size=batch),
        "fixed": lambda: fixed.run(data, batch_size=batch),
        "adjust": adjust,
        "plan": plan,
    }
    turns = [{key: _seconds(run) for key, run in runs.items()} for _ in range(rounds + 1)][1:]
    row: dict[str, Any] = {key: round(statistics.median(r[key] for r in turns), 3) for key in runs}
    for label, parts in (("ratio", ("adjust",)), ("ratio_with_plan", ("adjust", "plan"))):
        ratios = [sum(r[p] for p in parts) / (r["float"] + r["fixed"]) for r in turns]
        row[label] = [round(float(np.quantile(ratios, q)), 2) for q in (0.5, 0, 1)]
    return {"batch": batch, "rounds": rounds, "load": load(), **compiled, **row}


def _seconds(run: Any) -> float:
    start = cpu_seconds()
    run()
    return cpu_seconds() - start
