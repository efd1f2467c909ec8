"""One cell of a sweep: settings in, a row of figures out. Pure functions on plain data."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.api import SNR_SAMPLES, run_ptq
from knerex_jax.artifacts.bie import Bie
from knerex_jax.calibrate.measured import Measured
from knerex_jax.deliver import compile_or_note
from knerex_jax.errors import KnerexError
from knerex_jax.flow import make_plan, measure, open_calibration, open_model, ranges_of, sigmoid_outputs
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import output_snr
from knerex_jax.ops import REGISTRY
from knerex_jax.performance.evaluation import evaluation_of
from knerex_jax.performance.subject import origins_of, subject_of_compiled
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.config import PTQConfig, make_config
from knerex_jax.runtime import FixedModel, FloatModel
from knerex_jax.sweep.grid import Cell

Row = dict[str, Any]
"""Column -> value: the key and setting of a cell, `status` "ok" or "failed", and its figures or its `error`."""


@dataclass(frozen=True)
class Shared:
    """What cells of one group have in common.

    Attributes:
      model: decomposed.
      measured: counts of the calibration data, for the range settings of all these cells.
      samples: the calibration samples on which SNR is stated, name -> [N, ...].
      reference: the float model's outputs for them.
    """

    model: Model = field(repr=False)
    measured: Measured
    samples: Mapping[str, np.ndarray] = field(repr=False)
    reference: Mapping[str, np.ndarray] = field(repr=False)


def can_share(config: PTQConfig) -> bool:
    """Whether a cell needs no more than counts of its data: nothing is searched or learned from the samples."""
    return not (config.learns or config.range_search or config.ranked or config.counts)


def share(configs: Sequence[PTQConfig], progress: Callable[[int], None] | None = None) -> Shared:
    """Calibrates once for configs of one group.

    Raises:
      KnerexError: model or data are not usable.
    """
    config = configs[0]
    _, model = open_model(config)
    source = open_calibration(config.np_txt, model, config)
    measured = measure(model, source, config, also=configs[1:], progress=progress)
    samples = source.arrays(SNR_SAMPLES)
    return Shared(model, measured, samples, FloatModel(model).run(samples, batch_size=config.batch_size))


def run_cell(cell: Cell, shared: Shared | None) -> Row:
    """The figures of one cell; what fails is a row with the error.

    Args:
      cell: its settings.
      shared: of its group, from `share`; None runs the whole flow.

    Returns:
      `key`, the setting, `status`; then `snr_db` (the worst output), `snr_db:<output>` each, `fps` and `weight_bytes`
      of the compiled model (None if it does not compile), `seconds`; or `error`, and `again` False where another try
      would end the same.
    """
    row, started = {"key": cell.key, **cell.setting}, time.perf_counter()
    try:
        config = make_config(**cell.options)
        found = _whole(config) if shared is None else _planned(config, shared)
    except Exception as e:  # one cell, whatever happens to it, does not end the others
        failed = {"status": "failed", "error": f"{type(e).__name__}: {' '.join(str(e).split())}"}
        return row | failed | ({"again": False} if isinstance(e, KnerexError) else {})
    return row | {"status": "ok", **found, "seconds": round(time.perf_counter() - started, 2)}


def _planned(config: PTQConfig, shared: Shared) -> Row:
    """A plan of the shared counts, run on the shared samples."""
    planned = make_plan(shared.model, ranges_of(shared.measured, config), config)
    on_cpu = cpu_nodes(shared.model, planned.structure, config.target, REGISTRY)
    header = {"cpu_nodes": list(on_cpu), "origins": origins_of(planned.model)}
    bie = Bie(planned.program, planned.constants, planned.plan, header)
    outputs = FixedModel(bie).run(shared.samples, batch_size=config.batch_size)
    compiled, _ = compile_or_note(bie, config)
    fps = weights = None
    if compiled is not None:
        name = Path(str(config.p_onnx)).stem
        fps = evaluation_of(subject_of_compiled(name, compiled.program, config, planned.model)).fps
        weights = dict(compiled.program.sizes).get("weight", 0)
    behind = sigmoid_outputs(config, shared.model.graph.outputs)
    return _figures(output_snr(shared.reference, outputs, behind), fps, weights)


def _whole(config: PTQConfig) -> Row:
    """The whole flow, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_ptq(config, p_output=folder, mode=1)
    built, found = result.report["compiled"], result.evaluation
    return _figures(result.snr_db, found and found.fps, built and built["bytes"]["weight"])


def _figures(snr: Mapping[str, float], fps: float | None, weight_bytes: int | None) -> Row:
    each = {f"snr_db:{t}": round(float(v), 2) for t, v in snr.items()}
    worst = min(each.values(), default=None)
    return {"snr_db": worst, **each, "fps": fps and round(fps, 2), "weight_bytes": weight_bytes}
