"""The stages of a run as functions: read, measure, ranges, widths, plan, refinements."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from knerex_jax.artifacts.report import versions
from knerex_jax.calibrate import measured as calibrated
from knerex_jax.calibrate import run as calibration
from knerex_jax.calibrate.checkpoint import CHECKPOINT, Checkpoints
from knerex_jax.calibrate.measured import Measured, RangeRule
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.calibrate.reading import Measurement
from knerex_jax.data.shapes import shapes_from_data
from knerex_jax.data.sources import Source, open_source
from knerex_jax.errors import ConfigError
from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import declared_shapes
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.constant import is_constant_operand
from knerex_jax.ops.island import host_call
from knerex_jax.ops.load import load_onnx
from knerex_jax.ops.opdef import OpDef
from knerex_jax.parallel import processes
from knerex_jax.parallel.devices import data_mesh
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.mixing import mixed_request
from knerex_jax.quantize.overrides import NO_OVERRIDES, Overrides, resolve
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import Structure, analyse
from knerex_jax.refine.afford import Limit
from knerex_jax.refine.mixed import Mixed, choose_widths
from knerex_jax.suggest import nearest

Ops = Mapping[str, OpDef]
"""Operator records by name: `REGISTRY`, or {**REGISTRY, "domain::MyOp": MY_OP}."""

RANK_SAMPLES = 16
"""Calibration samples on which mixbw measures sensitivity."""


def decompose_onnx(path: str | Path, config: PTQConfig | None = None, *, ops: Ops = REGISTRY) -> Model:
    """Reads an ONNX file and brings it into the operators that are quantized."""
    shapes = None if config is None else config.input_shape
    return decompose_model(load_onnx(path, input_shapes=shapes, ops=ops), ops)


def open_model(config: PTQConfig, *, ops: Ops = REGISTRY) -> tuple[Model, Model]:
    """The model of a config as it is, and decomposed; dynamic inputs as the config or the calibration data have them.

    Raises:
      ConfigError: the config names no model or no data.
      ModelError: it cannot be read, or a dimension stays unknown.
      UnsupportedOpError: an operator has no rule.
    """
    for option in ("p_onnx", "np_txt"):
        require(config, option)
    path = Path(str(config.p_onnx))
    shapes = shapes_from_data(declared_shapes(path), config.np_txt, config.layout)
    origin = load_onnx(path, input_shapes={**shapes, **(config.input_shape or {})}, ops=ops)
    return origin, decompose_model(origin, ops)


def require(config: PTQConfig, option: str) -> None:
    """Raises ConfigError where an option is missing."""
    if getattr(config, option) is None:
        fix = f"give {option} (--{option.replace('_', '-')})"
        raise ConfigError(f"{option} is missing", where="PTQConfig", fix=fix)


def open_calibration(data: Any, model: Model, config: PTQConfig) -> Source:
    """Calibration data in any accepted form as a `Source` of samples for this model.

    Raises:
      ModelError: the data does not fit the model.
      ConfigError: its form is not known, or its layout is ambiguous.
    """
    if isinstance(data, Source):
        return data
    types = {t: model.graph.types[t] for t in model.graph.inputs}
    return open_source(data, types, layout=config.layout, preprocess=config.preprocess)


def measure(
    model: Model,
    data: Any,
    config: PTQConfig,
    *,
    also: Iterable[PTQConfig] = (),
    progress: Callable[[int], None] | None = None,
    ops: Ops = REGISTRY,
    checkpoints: Checkpoints | None = None,
) -> Measured:
    """Reads the calibration data once for any number of range settings: counts of every tensor a plan needs.

    Args:
      model: decomposed and bound.
      data: a `Source`, or anything `open_source` takes.
      config: platform, range settings, batch size, threads.
      also: further configs that `ranges_of` will be asked for; only their range settings are read.
      progress: called with the number of samples read so far; starts again with every reading.
      ops: operator records.
      checkpoints: from `checkpoints_of`: where the state is kept meanwhile, and where to go on from; None keeps none.

    Returns:
      What `ranges_of` turns into ranges, for any widths of the config's platform; it can be saved and merged.

    Raises:
      ModelError: the data does not fit the model, or holds NaN or infinity.
      UnsupportedOpError: an operator has no integer rule and does not run on the host.
    """
    return measure_parts(model, [data], config, also=also, progress=progress, ops=ops, checkpoints=checkpoints)[0]


def measure_parts(
    model: Model,
    parts: Sequence[Any],
    config: PTQConfig,
    *,
    also: Iterable[PTQConfig] = (),
    progress: Callable[[int], None] | None = None,
    ops: Ops = REGISTRY,
    checkpoints: Checkpoints | None = None,
) -> list[Measured]:
    """`measure` for several sets of data, each for itself: with the compiled steps of one. They can be merged."""
    structure = observed_structure(model, config, ops)
    observed = structure.observed
    constants = [n.outputs[0] for n in model.graph.nodes if is_constant_operand(n, model)]
    fn, params = lower_float(model, taps=observed, registry=ops)
    sources = [open_calibration(data, model, config) for data in parts]
    measurement = Measurement(
        fn, params, observed, model.graph.types, config.batch_size, config.data_analysis_threads, progress,
        _mesh(config, sources),
    )  # fmt: skip
    return calibration.measure_parts(
        measurement, sources,
        [_range_rule(c, model.graph.outputs) for c in (config, *also)], outputs=model.graph.outputs,
        leaving={t: held for t, held in structure.leaving.items() if t in observed}, constants=constants,
        checkpoints=checkpoints,
    )  # fmt: skip


def observed_structure(model: Model, config: PTQConfig, ops: Ops = REGISTRY) -> Structure:
    """The constraint problem on a config's platform, which says what is counted.

    Raises:
      UnsupportedOpError: an operator has no integer rule and does not run on the host.
    """
    structure = analyse(model, config.target, ops)
    for node in model.graph.nodes:  # what cannot be assembled later is better told now
        if node.name in structure.islands or node.name in structure.plain:
            host_call(node, model, ops)
    return structure


def _mesh(config: PTQConfig, sources: Sequence[Source]) -> Mesh | None:
    """The devices that a calibration is worth spreading over."""
    per_device = config.batch_size * processes.count()
    counts = [source.count for source in sources if source.count is not None]
    known = len(counts) == len(sources)
    return data_mesh(config.devices, max(-(-count // per_device) for count in counts) if known else None)


def checkpoints_of(
    folder: Path,
    model: Model,
    source: Source,
    config: PTQConfig,
    *,
    also: Iterable[PTQConfig] = (),
    ops: Ops = REGISTRY,
    name: str = "",
) -> Checkpoints:
    """Where `measure` with the same arguments keeps its state, in a folder; `name` tells several there apart.

    The key is all that decides the counts: model, data, range settings, batch size, arithmetic, software, device.
    """

    @cache
    def key() -> str | None:
        if ops is not REGISTRY or (data := source.identity()) is None:  # what others' operators compute may change
            return None
        rules = [_range_rule(c, model.graph.outputs) for c in (config, *also)]
        device = [jax.default_backend(), jax.devices()[0].device_kind]
        settings = [config.platform, config.batch_size, rules, ARITH_VERSION, versions(), device]
        settings += [f"process {processes.index()} of {n}"] if (n := processes.count()) > 1 else []
        return "\n".join([_fingerprint(model), data, *map(repr, settings)])

    parts = [name] if name else []
    parts += [str(processes.index())] if processes.index() else []
    return Checkpoints(folder / ".".join([*parts, CHECKPOINT]), key)


def ranges_of(measured: Measured, config: PTQConfig) -> Ranges:
    """The ranges that a config asks for.

    A threshold that was not counted, because `measure` was not told of it, is an upper bound, with a hint.
    """
    return ranges_of_each(measured, [config])[0]


def ranges_of_each(measured: Measured, configs: Iterable[PTQConfig]) -> list[Ranges]:
    """`ranges_of` for many configs, which takes little longer than for one."""
    return calibrated.ranges_of(measured, [_range_rule(c, measured.outputs) for c in configs])


def analyze(
    model: Model,
    data: Any,
    config: PTQConfig,
    *,
    progress: Callable[[int], None] | None = None,
    ops: Ops = REGISTRY,
) -> Ranges:
    """Measures the ranges of every tensor that a plan of this model on any of its platform's widths needs.

    The same as `measure` and `ranges_of` for one config, and with the same arguments.
    """
    return ranges_of(measure(model, data, config, progress=progress, ops=ops), config)


def mix_widths(
    model: Model, ranges: Ranges, config: PTQConfig, samples: Mapping[str, np.ndarray], *, ops: Ops = REGISTRY
) -> Mixed:
    """The widths of single nodes by measured sensitivity, for a config with the mode mixbw.

    Args:
      model: decomposed.
      ranges: of its tensors.
      config: the ranked sides, and flops_ratio, or max_ms or max_mb.
      samples: to measure on, name -> [N, ...] in place of the batch axis; the first `RANK_SAMPLES` are used.
      ops: operator records.

    Raises:
      PlanError: no legal plan.
      ConfigError: the model has no output of real numbers, or an override is malformed.
    """
    return choose_widths(
        model, ranges, config.widths, config.target, {t: a[:RANK_SAMPLES] for t, a in samples.items()},
        sides=config.ranked, budget=config.flops_ratio, limit=_limit(model, config, ops), policy=_policy(config),
        overrides=_overrides(model, config, ops), registry=ops, batch_size=config.batch_size,
    )  # fmt: skip


def make_plan(
    model: Model,
    ranges: Ranges,
    config: PTQConfig,
    *,
    base: Planned | None = None,
    mixed: Mixed | None = None,
    ops: Ops = REGISTRY,
) -> Planned:
    """Plans a decomposed model.

    Args:
      model: decomposed.
      ranges: of its tensors.
      config: platform, widths, overrides by node.
      base: an earlier plan whose program and rescale slots are kept.
      mixed: what `mix_widths` chose; a config with the mode mixbw needs it.
      ops: operator records.

    Raises:
      PlanError: no legal plan.
      ConfigError: mixbw without `mixed`, or an override that is malformed.
    """
    if config.ranked and mixed is None:
        raise ConfigError(
            "mixbw measures the sensitivity of nodes first", where="make_plan",
            fix="use run_ptq, or pass mixed=mix_widths(model, ranges, config, samples)",
        )  # fmt: skip
    widths = config.widths if mixed is None else mixed.request
    if config.mixes:
        widths = mixed_request(model, analyse(model, config.target, ops), widths, ops, config.mixes)
    notes = config.notes() if mixed is None else (*config.notes(), *mixed.notes)
    slots = None if base is None else base.slots
    policy = _policy(config)
    planned = plan_model(
        model, ranges, widths, config.target, policy=policy, slots=slots,
        overrides=_overrides(model, config, ops), registry=ops,
    )  # fmt: skip
    return replace(planned, plan=replace(planned.plan, notes=(*notes, *planned.plan.notes)))


def _overrides(model: Model, config: PTQConfig, ops: Ops) -> Overrides:
    if not config.quan_config:
        return NO_OVERRIDES
    return resolve(config.quan_config, model, analyse(model, config.target, ops), config.target)


def _limit(model: Model, config: PTQConfig, ops: Ops) -> Limit | None:
    """What an inference may take, if the config says so."""
    for option, value in (("max_ms", config.max_ms), ("max_mb", config.max_mb)):
        if value is not None:
            host = cpu_nodes(model, analyse(model, config.target, ops), config.target, ops)
            return Limit(option, value, config.machine, tuple(host))
    return None


def _fingerprint(model: Model) -> str:
    """A hash of the graph and its constants."""
    found = hashlib.sha256(repr(model.graph).encode())
    for name, array in model.constants.items():
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return found.hexdigest()


def sigmoid_outputs(config: PTQConfig, outputs: Iterable[str]) -> tuple[str, ...]:
    """Which of a model's outputs a sigmoid outside the model follows, by a config.

    Raises:
      ConfigError: one of those named is no output; with a suggestion.
    """
    known = tuple(outputs)
    if config.quantize_mode != "post_sigmoid":
        return ()
    if config.sigmoid_outputs is None:
        return known
    for name in config.sigmoid_outputs:
        if name not in known:
            fix = nearest(name, known, f"the outputs are {', '.join(known)}")
            raise ConfigError(f"the model has no output {name!r}", where="sigmoid_outputs", fix=fix)
    return config.sigmoid_outputs


def _range_rule(config: PTQConfig, outputs: Iterable[str]) -> RangeRule:
    return RangeRule(
        method=config.datapath_range_method,
        pct=config.data_analysis_pct,
        pct_wide=config.wide_pct,
        percentile=config.percentile,
        outlier_factor=config.outlier_factor,
        sigmoids=sigmoid_outputs(config, outputs),
    )


def _policy(config: PTQConfig) -> RangePolicy:
    """How ranges are widened, by a config."""
    return RangePolicy(
        guard_bits=config.guard, headroom_bits={8: 0, 15: config.wide_headroom}, output_headroom=config.headroom
    )
