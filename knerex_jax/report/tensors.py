"""What the report says of single tensors: sizes of values, ranges, codes, SNR, and the channels of outputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from knerex_jax.artifacts.report import format_row, range_source
from knerex_jax.calibrate.measured import Measured
from knerex_jax.calibrate.mmse import SEARCHED, ErrorCurve, error_curves
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.calibrate.state import TensorState, middle
from knerex_jax.diagnose.layers import VALUE_BINS, Layer, trace_layers
from knerex_jax.diagnose.measure import cut_by_design
from knerex_jax.diagnose.rows import BAD_BELOW_DB, as_db, is_responsible
from knerex_jax.flow import Ops
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.quantize.planner import Planned

SAMPLES = 4
"""Calibration samples on which the report states what happens inside; SNR per output rests on more."""

NOISE_FLOOR = 1e-4
"""A channel whose float values vary by less than this share of the tensor's largest does not count as collapsed."""

_LISTED = 16
"""So many channels are named."""

Samples = Mapping[str, np.ndarray]


def tensor_sections(
    planned: Planned, measured: Measured, ranges: Ranges, samples: Samples, outlier_factor: float, ops: Ops
) -> dict[str, Any]:
    """The sections "layers" (by formatted tensor), "tensors" (distributions), "first_bad" and "layer_samples".

    Args:
      planned: the plan.
      measured: counts of the calibration data.
      ranges: what the plan was made with.
      samples: calibration samples; the first `SAMPLES` are used.
      outlier_factor: of the search whose error is shown.
      ops: operator records.
    """
    states = measured.state.tensors
    own = {t: range_source(planned, t, states) for t in planned.plan.formats}
    counted = {t: s for t, s in own.items() if s is not None and len(states[s].keys)}
    limits = {t: _largest(states[s]) for t, s in own.items() if s is not None and t not in counted}
    found = trace_layers(planned, samples, registry=ops, samples=SAMPLES, limits={t: v for t, v in limits.items() if v})
    sources = dict.fromkeys(counted.values())
    curves = dict(zip(sources, error_curves([states[s] for s in sources], outlier_factor), strict=True))
    designed = cut_by_design(planned)
    layers = {t: _layer_row(layer, t in designed) for t, layer in found.items()}
    count = min(SAMPLES, len(next(iter(samples.values()))))
    tensors: dict[str, Any] = {}
    for t, layer in found.items():
        source = own[t]
        row: dict[str, Any] = {"codes": layer.codes.tolist()}
        if t in counted:
            state = states[counted[t]]
            row["values"] = {"limit": _short(_largest(state)), "counts": _histogram(state), "of": "calibration data"}
            row["search"] = _curve_row(curves[counted[t]])
        elif layer.values is not None:
            row["values"] = {"limit": _short(limits[t]), "counts": layer.values.tolist(), "of": f"{count} samples"}
        if source is not None:
            cuts = {bits: ranges[source].cut(bits) for bits in SEARCHED}
            row["cuts"] = {str(b): [_short(float(c.layer_min)), _short(float(c.layer_max))] for b, c in cuts.items()}
        tensors[t] = row
    return {
        "layer_samples": count, "layers": layers, "first_bad": first_bad(planned, layers), "tensors": tensors,
        "input_tensors": [_input_row(planned, t, own[t], ranges) for t in planned.program.inputs if t in own],
    }  # fmt: skip


def first_bad(planned: Planned, layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The first tensor in order below 20 dB for which its own node is responsible."""
    for i in planned.program.instructions:
        for t in i.outputs:
            row = layers.get(t)
            if row and row["accumulated_db"] < BAD_BELOW_DB and row["responsible"]:
                return {"node": i.name, "tensor": t, "accumulated_db": row["accumulated_db"]}
    return None


def output_rows(planned: Planned, reference: Samples, found: Samples, origin: Model) -> dict[str, Any]:
    """Every output channel by channel: a channel that has become constant is lost, whatever the SNR of the whole.

    Args:
      planned: the plan.
      reference: float outputs, name -> [N, ...].
      found: the same of the integers, dequantized.
      origin: the user's model, to know outputs of a Softmax, where channels too small for a code are no fault.
    """
    rows = {}
    for t, value in reference.items():
        if t not in planned.plan.formats:
            continue
        ref, got = (_by_channel(planned, t, v) for v in (value, found[t]))
        moves = np.ptp(ref, axis=1) > NOISE_FLOOR * max(float(np.abs(ref).max(initial=0.0)), np.finfo(np.float32).tiny)
        still = np.ptp(got, axis=1) == 0
        collapsed = np.flatnonzero(moves & still)
        made_by = origin.graph.producer.get(t)
        worst = int(np.argmin(each := [snr_db(r, g) for r, g in zip(ref, got, strict=True)])) if len(ref) else 0
        rows[t] = {
            "channels": len(ref),
            "constant": bool(still.all() and moves.any() and np.ptp(got) == 0),
            "collapsed": len(collapsed),
            "collapsed_channels": collapsed[:_LISTED].tolist(),
            "worst_channel": worst,
            "worst_channel_db": each[worst] if each else None,
            "probabilities": made_by is not None and made_by.op_type == "Softmax",
        }
    return rows


def _by_channel(planned: Planned, tensor: str, value: np.ndarray) -> np.ndarray:
    """[C, everything else] of [N, ...]; the samples stand in place of the model's batch axis, where that is 1."""
    rank = len(planned.model.graph.shape(tensor))
    axis = planned.structure.axes.get(tensor)
    place = (axis if axis is not None else min(1, rank - 1)) - (rank - value.ndim)
    return np.moveaxis(value, place, 0).reshape(value.shape[place], -1) if place > 0 else value.reshape(1, -1)


def _input_row(planned: Planned, tensor: str, source: str | None, ranges: Ranges) -> dict[str, Any]:
    shape = list(planned.program.shapes[tensor])
    return {"name": tensor, "op": "Input", "tensor": tensor, "shape": shape} | format_row(
        planned.plan.formats[tensor], None if source is None else ranges[source]
    )


def _layer_row(layer: Layer, designed: bool) -> dict[str, Any]:
    s = layer.sums
    alone, accumulated = (as_db(noise / s.signal) if s.signal else float("inf") for noise in (s.alone, s.noise))
    moves, still = s.float_span[0] < s.float_span[1], s.fixed_span[0] == s.fixed_span[1]
    return {
        "alone_db": alone,
        "accumulated_db": accumulated,
        "responsible": is_responsible(alone, accumulated, cut_by_design=designed),
        "at_limits": _short((s.low_codes + s.high_codes) / s.count),
        "dead_channels": int((moves & still).sum()),
        "channels": int(s.float_span.shape[1]),
        "cut_by_design": designed,
    }


def _largest(state: TensorState) -> float:
    return float(max(np.abs(state.low).max(), np.abs(state.high).max()))


def _histogram(state: TensorState) -> list[int]:
    """Values by size in `VALUE_BINS` bins over -largest .. largest; what is not counted finely lies around 0."""
    half, largest = VALUE_BINS // 2, _largest(state)
    bins = 1 << state.bits
    sign, octave = state.keys >> 8 & 1, state.keys & 255
    size = middle((octave[:, None] << state.bits) + np.arange(bins), state.bits)
    with np.errstate(over="ignore"):
        place = np.minimum((size / np.float32(largest) * half).astype(np.int64), half - 1)
    place = np.where(sign[:, None] == 1, half - 1 - place, half + place)
    counts = np.bincount(place.ravel(), state.counts.ravel(), VALUE_BINS)
    rest = state.size - counts.sum()
    below = rest // 2 if state.low.min() < 0 else 0
    counts[half - 1] += below
    counts[half] += rest - below
    return counts.astype(np.int64).tolist()


def _curve_row(curve: ErrorCurve) -> dict[str, Any]:
    """SNR in dB by clip, for 8 and 15 bits."""
    rows = {"clip": [_short(c) for c in curve.clips.tolist()]}
    for bits, errors in zip(SEARCHED, curve.errors, strict=True):
        rows[f"snr_db_{bits}"] = [round(as_db(e / curve.signal), 2) if e > 0 else None for e in errors.tolist()]
    return rows


def _short(x: float) -> float:
    return float(f"{x:.5g}")
