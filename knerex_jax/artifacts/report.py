"""The machine-readable report: what was asked, what was done, how good it is, with what it was made."""

import platform as host
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from knerex_jax.calibrate.ranges import Ranges, TensorRange
from knerex_jax.fixedpoint.qformat import QFormat, data_limits
from knerex_jax.graph.ir import Model
from knerex_jax.program.bounds import Bounds, StepBound
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.planner import Planned

FLAG_BELOW_DB = 20.0
"""Output SNR below which a result is flagged (the published rule of thumb)."""


FORMAT = 2
"""Of the report; 2 added the score, what happens inside, schedule and support."""


def created() -> str:
    """The time now, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"python": host.python_version()}
    for package in ("knerex-jax", "jax", "jaxlib", "numpy", "onnx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def node_rows(planned: Planned, ranges: Ranges) -> list[dict[str, Any]]:
    """Per instruction: nodes, tensors, types, weights and measured range."""
    model, rows = planned.model, []
    for i in planned.program.instructions:
        row = {
            "name": i.name,
            "op": "+".join(model.graph.node[n].op_type for n in i.nodes),
            "primitive": i.rule,
            "nodes": list(i.nodes),
            "origin": list(dict.fromkeys(o for n in i.nodes for o in model.graph.node[n].origin)),
            "tensor": i.output,
            "inputs": [t for t in i.inputs if t],
            "outputs": list(i.outputs),
            "shape": list(planned.program.shapes[i.output]),
        }
        f = planned.plan.formats.get(i.output)
        if f is None:
            rows.append(row | {"exact": model.graph.types[i.output].dtype})
            continue
        source = range_source(planned, i.output, ranges)
        row |= format_row(f, None if source is None else ranges[source])
        bits = next((planned.plan.weight_bits[n] for n in i.nodes if n in planned.plan.weight_bits), None)
        row["weight_bits"] = bits
        if bits is not None:
            row["weights"] = _weight_row(planned.constants[i.name])
        rows.append(row)
    return rows


def range_source(planned: Planned, tensor: str, known: Container[str]) -> str | None:
    """The observed tensor that has the values of another one; None if there is none."""
    while tensor not in known and tensor in planned.structure.aliases:
        tensor, _ = planned.structure.aliases[tensor]
    # A rescale slot is not observed itself: it carries what it copies.
    return tensor if tensor in known else None


def format_row(f: QFormat, found: TensorRange | None) -> dict[str, Any]:
    """A format, and the range that it was made for."""
    cut = None if found is None else found.cut(f.bits)
    reach = data_limits(f.bits)[1] / f.factor.astype(np.float64)
    return {
        "bits": f.bits,
        "per_channel": len(f.radix) > 1,
        "radix": [int(f.radix.min()), int(f.radix.max())],
        "scale": [float(f.scale.min()), float(f.scale.max())],
        "reach": [float(reach.min()), float(reach.max())],
        "range": None if cut is None else [float(cut.layer_min), float(cut.layer_max)],
    }


def _weight_row(constants: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Shape and formats of integer weights."""
    radix, scale = constants["weight_radix"], constants["weight_scale"]
    return {
        "shape": list(constants["weight"].shape),
        "radix": [int(radix.min()), int(radix.max())],
        "scale": [float(scale.min()), float(scale.max())],
    }


def overflow_row(name: str, step: StepBound) -> dict[str, Any]:
    """The overflow proof of one accumulator: width, largest value any input can give, channels that saturate."""
    return {"name": name, "width": step.width, "largest": step.value, "saturating_channels": step.saturating}


def report_data(
    *,
    config: PTQConfig,
    origin: Model,
    name: str,
    model_hash: str,
    planned: Planned,
    ranges: Ranges,
    bounds: Bounds,
    learned: Mapping[str, Any],
    snr_db: Mapping[str, float],
    snr_samples: int,
    on_cpu: Sequence[str],
    compiled: Mapping[str, Any] | None,
    match: Mapping[str, Any] | None,
    performance: Mapping[str, Any] | None,
    qdq_deviation: Mapping[str, Any],
    timings_s: Mapping[str, float],
    sections: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `model_fx_report.json`, without its score.

    `learned`: records of range search, rounding, biases; `on_cpu`: nodes that the NPU leaves to the CPU; `compiled`,
    `match`, `performance`: of the compiled program, its comparison and its estimate, None where there is none;
    `qdq_deviation`: by output; `sections`: further ones.
    """
    proofs = [overflow_row(name, step) for name, step in bounds.steps]
    return {
        "format": FORMAT,
        "created": created(),
        "model": {
            "name": name,
            "sha256": model_hash,
            "nodes": len(origin.graph.nodes),
            "parameters": int(sum(c.size for c in origin.constants.values())),
        },
        "requested": config.to_json(),
        "applied": config.applied(),
        "notes": [vars(n) for n in planned.plan.notes],
        "hints": list(ranges.hints),
        "learned": dict(learned),
        "snr_db": dict(snr_db),
        "snr_samples": snr_samples,
        "flagged": [t for t, v in snr_db.items() if v < FLAG_BELOW_DB],
        "nodes": node_rows(planned, ranges),
        "rescales": list(planned.plan.rescales),
        "cpu_nodes": list(on_cpu),
        "islands": [
            {"node": n, "op": planned.model.graph.node[n].op_type, "why": why}
            for n, why in planned.structure.islands.items()
        ],
        "overflow": {
            "total": len(proofs),
            "proven": len(proofs) - len(bounds.unproven),
            "saturating": list(bounds.unproven),
            "by_instruction": proofs,
        },
        "compiled": compiled,
        "bit_true_match": match,
        "performance": performance,
        "qdq_deviation": dict(qdq_deviation),
        **sections,
        "timings_s": dict(timings_s),
        "versions": versions(),
    }
