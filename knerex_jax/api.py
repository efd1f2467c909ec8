"""The stages as functions, and `run_ptq` that chains them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.calibrate.run import calibrate
from knerex_jax.data.sources import Source
from knerex_jax.graph.read import read_model
from knerex_jax.graph.simplify import load_proto, simplify
from knerex_jax.ops.bind import bind

from knerex_jax.graph.ir import Model
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import analyse

Progress = Callable[[str, int, int | None], None]
"""(stage, samples done, samples in total or None)."""


@dataclass(frozen=True)
class PTQResult:
    """What a run produced.

    Attributes:
      paths: "origin", "decomposed", "scaled", "bie", "report_json" -> file.
      snr_db: output name -> SNR in dB on `snr_samples` calibration samples.
      plan: formats and notes.
      bit_true_match: None until a second executor exists in this package's own flow.
      report: the content of report_json.
    """

    paths: Mapping[str, Path]
    snr_db: Mapping[str, float]
    plan: QuantPlan
    bit_true_match: bool | None
    report: Mapping[str, Any] = field(repr=False)
    planned: Planned = field(repr=False)
    ranges: Ranges = field(repr=False)


def load_onnx(
    path: str | Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    registry: Mapping[str, OpDef] = REGISTRY,
) -> Model:
    """Reads and simplifies an ONNX file to a bound model with static shapes and batch 1.

    Raises:
      ModelError: not readable, or a dimension stays unknown (the message names it).
      UnsupportedOpError: an operator has no rule.
    """
    return bind(read_model(simplify(load_proto(path), input_shapes=input_shapes)), registry)


def analyze(model: Model, source: Any, config: PTQConfig, *, progress: Callable[[int], None] | None = None) -> Ranges:
    """Measures the ranges of every tensor that the plan of this model needs.

    Raises:
      ModelError: the data does not fit the model, or holds NaN or infinity.
    """
    graph = model.graph
    source = source if isinstance(source, Source) else open_config_source(source, model, config)
    observed = analyse(model, config.target, REGISTRY).observed
    fn, params = lower_float(model, taps=observed)
    return calibrate(
        fn, params, source, observed, {t: graph.types[t] for t in graph.types if t in observed or t in graph.inputs},
        pct=config.data_analysis_pct, pct_wide=config.percentage_16b, exact=graph.outputs,
        batch_size=config.batch_size, threads=config.data_analysis_threads, progress=progress,
    )  # fmt: skip


def make_plan(model: Model, ranges: Ranges, config: PTQConfig, *, base: Planned | None = None) -> Planned:
    """Plans a decomposed model; with `base`, for the same program (the base's rescale slots are kept)."""
    policy = RangePolicy(guard_bits=config.guard_bits)
    return plan_model(
        model, ranges, config.widths, config.target, policy=policy, slots=None if base is None else base.slots
    )
