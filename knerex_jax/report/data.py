"""The sections of a report that only it needs, from what a run has in its hands."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from knerex_jax.calibrate.measured import Measured
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.check import CheckReport
from knerex_jax.diagnose.budget import error_budget
from knerex_jax.diagnose.suggest import merge_entries, suggest_overrides
from knerex_jax.flow import Ops
from knerex_jax.graph.ir import Model
from knerex_jax.npu.isa import NpuProgram
from knerex_jax.performance.evaluation import Evaluation
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.planner import Planned
from knerex_jax.report.schedule import schedule
from knerex_jax.report.tensors import output_rows, tensor_sections

BUDGET_SAMPLES = 16
"""Calibration samples of the error budget."""

Samples = Mapping[str, np.ndarray]


def quantized_sections(
    *,
    config: PTQConfig,
    origin: Model,
    planned: Planned,
    measured: Measured,
    ranges: Ranges,
    samples: Samples,
    reference: Samples,
    found: Samples,
    ops: Ops,
) -> dict[str, Any]:
    """What a quantized model shows inside, and its error budget where the config asks for it.

    Args:
      config: of the run.
      origin: the user's model.
      planned: the plan.
      measured: counts of the calibration data.
      ranges: what the plan was made with.
      samples: calibration samples, name -> [N, ...].
      reference: float outputs for them.
      found: outputs of the integers for them, dequantized.
      ops: operator records.
    """
    factor = config.outlier_factor
    return {
        "outputs": output_rows(planned, reference, found, origin),
        **tensor_sections(planned, measured, ranges, samples, factor, ops),
        "error_budget": _budget(planned, samples, ops) if config.error_budget else None,
    }


def common_sections(
    config: PTQConfig, support: CheckReport | None, program: NpuProgram | None, evaluation: Evaluation | None
) -> dict[str, Any]:
    """What every mode shows: operator support, the schedule of the compiled program, and how to repeat the run."""
    return {
        "support": None if support is None else support.to_json(),
        "schedule": None if program is None or evaluation is None else schedule(program, evaluation),
        "repeat": repeat(config),
    }


def repeat(config: PTQConfig) -> dict[str, str]:
    """The command and the Python call of a run; data that were given as objects have to be put in by the reader."""
    defaults = {f.name: f.default for f in fields(PTQConfig)}
    said, called = ["knerex ptq"], []
    for name, value in config.to_json().items():
        if value == defaults[name]:
            continue
        if isinstance(value, str) and value.startswith("<"):
            said.append(f"--{name.replace('_', '-')} YOUR_DATA")
            called.append(f"{name}={name}")
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        said.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
        called.append(f"{name}={value!r}")
    return {"command": " ".join(said), "python": f"kx.run_ptq({', '.join(called)})"}


def _budget(planned: Planned, samples: Samples, ops: Ops) -> dict[str, Any] | None:
    """The error budget with what would win back accuracy; None where no output is quantized."""
    if not any(t in planned.plan.formats for t in planned.model.graph.outputs):
        return None
    budget = error_budget(planned, samples, registry=ops, samples=BUDGET_SAMPLES)
    suggestions = suggest_overrides(budget, planned)
    return budget.to_json() | {
        "suggestions": [dict(vars(s)) for s in suggestions],
        "quan_config": merge_entries(suggestions),
    }
