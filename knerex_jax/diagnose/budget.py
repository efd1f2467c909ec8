"""The error budget: what every node of a plan costs at the model's outputs, and what for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from knerex_jax.diagnose.measure import Measured, TensorSums, cut_by_design, measure
from knerex_jax.diagnose.rows import BudgetRow, ErrorBudget, Loss, Traces, as_db
from knerex_jax.errors import ConfigError
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.params import Gates

__all__ = ["BudgetRow", "ErrorBudget", "Loss", "error_budget"]


def error_budget(
    planned: Planned,
    inputs: Mapping[str, Any],
    *,
    registry: Mapping[str, OpDef] = REGISTRY,
    samples: int = 16,
    batch_size: int = 8,
    probes: int = 4,
    seed: int = 0,
) -> ErrorBudget:
    """Finds what every node costs at the model's outputs.

    A source of error (the rounding of one tensor, the weights of one node, ...) is measured where it arises, in the
    integer run, and carried to the outputs by derivatives on the way from the float model to it; so the cost of a
    hundred nodes is that of a few passes backwards. Where that does not add up to the measured error, the largest
    sources are put into the float model one by one, and what they add there is measured. Losses are powers.

    Args:
      planned: plan, model and integers.
      inputs: name -> float array [N, ...] in place of the batch axis.
      registry: operator records.
      samples: how many of them to use, the first ones.
      batch_size: samples per compiled step; memory grows with it.
      probes: random vectors per sample and output; a loss is within about 4.3 * sqrt(2 / (samples * probes)) dB.
      seed: of the vectors.

    Raises:
      ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
      ConfigError: the model has no quantized output, or a count is not positive.
    """
    for option, count in (("samples", samples), ("batch_size", batch_size), ("probes", probes)):
        if count < 1:
            raise ConfigError(f"{option} has to be 1 or more", where=f"{option}={count}", fix="correct the value")
    outputs = tuple(t for t in planned.model.graph.outputs if t in planned.plan.formats)
    if not outputs:
        raise ConfigError("no output is quantized", where="error_budget", fix="integers and masks need no budget")
    measured = measure(
        planned, inputs, registry=registry, samples=samples, batch_size=batch_size, probes=probes, seed=seed
    )
    signal = {t: float(measured.tensors[t].signal) for t in outputs}
    rows = tuple(_row(planned, measured, node, tensor, signal) for node, tensor in _made(planned))
    traces = {t: _traces(measured, rows, k) for k, t in enumerate(outputs)}
    return ErrorBudget(
        rows=rows,
        snr_db={t: _snr_db(signal[t], float(measured.tensors[t].noise)) for t in outputs},
        traces=traces,
        spans={t: s.float_span for t, s in measured.tensors.items()},
        samples=measured.samples,
        platform=planned.plan.platform,
    )


def _made(planned: Planned) -> list[tuple[str, str]]:
    """(node, tensor) of every formatted tensor in order; model inputs carry their own name."""
    program = planned.program
    made = [(t, t) for t in program.inputs] + [(i.nodes[0], t) for i in program.instructions for t in i.outputs]
    return [(node, t) for node, t in made if t in planned.plan.formats]


def _row(planned: Planned, measured: Measured, node: str, tensor: str, signal: Mapping[str, float]) -> BudgetRow:
    graph, plan, sums = planned.model.graph, planned.plan, measured.tensors[tensor]
    kinds = [graph.node[n].op_type for n in (node, plan.fused.get(node)) if n in graph.node]
    values, by_design = float(sums.count), tensor in cut_by_design(planned)
    return BudgetRow(
        node=node, op="+".join(kinds) or "Input", tensor=tensor, bits=plan.formats[tensor].bits,
        weight_bits=plan.weight_bits.get(node),
        losses={t: _loss(measured.slopes, node, tensor, k, signal[t], by_design) for k, t in enumerate(signal)},
        alone_db=_snr_db(float(sums.signal), float(sums.alone)),
        accumulated_db=_snr_db(float(sums.signal), float(sums.noise)),
        at_low=float(sums.low_codes) / values, at_high=float(sums.high_codes) / values,
        dead_channels=_dead(sums), channels=sums.float_span.shape[1], cut_by_design=by_design,
        injected=tuple(
            "align" if s == "rest" else s
            for s, n in sorted(measured.injected)
            if n == (node if s in ("weight", "bias") else tensor)
        ),
    )  # fmt: skip


def _loss(slopes: Gates, node: str, tensor: str, output: int, signal: float, cut_by_design: bool) -> Loss:
    def part(found: Mapping[str, np.ndarray], name: str) -> float:
        return _ratio(float((found[name][:, output] ** 2).mean(1).sum()), signal) if name in found else 0.0

    return Loss(
        clip=0.0 if cut_by_design else part(slopes.clip, tensor), round=part(slopes.round, tensor),
        weight=part(slopes.weight, node), bias=part(slopes.bias, node), align=part(slopes.rest, tensor),
    )  # fmt: skip


def _traces(measured: Measured, rows: Sequence[BudgetRow], output: int) -> Traces:
    """What the rows add to one output."""
    held = {
        (r.tensor, part): found[name][:, output].reshape(-1)
        for r in rows
        for part, found, name in (
            ("clip", measured.slopes.clip, r.tensor),
            ("round", measured.slopes.round, r.tensor),
            ("weight", measured.slopes.weight, r.node),
            ("bias", measured.slopes.bias, r.node),
            ("align", measured.slopes.rest, r.tensor),
        )
        if name in found and not (part == "clip" and r.cut_by_design)
    }
    return Traces(held, measured.errors[:, output].reshape(-1))


def _dead(sums: TensorSums) -> int:
    alive, still = sums.float_span[0] < sums.float_span[1], sums.fixed_span[0] == sums.fixed_span[1]
    return int((alive & still).sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else (math.inf if part else 0.0)


def _snr_db(signal: float, noise: float) -> float:
    return -as_db(_ratio(signal, noise)) if noise else math.inf
