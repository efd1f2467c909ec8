"""Entries of a `quan_config` that would win back accuracy, and how much, predicted from an error budget."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knerex_jax.diagnose.budget import ErrorBudget
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.primitives import Activate, MaxPool, Move
from knerex_jax.quantize.config import HEADROOM_16B
from knerex_jax.quantize.planner import Planned
from knerex_jax.targets import TARGETS

LEAST_GAIN_DB = 0.1
"""A smaller gain of the worst output is no suggestion."""

_FOLLOWERS = (Move, MaxPool, Activate)
"""Instructions that pass codes on: at 8 bits behind 15 they would only round later."""


@dataclass(frozen=True)
class Suggestion:
    """One change of a plan; it counts on those ranked before it.

    Attributes:
      entries: quan_config entries, selector -> values.
      why: what it removes, in words.
      gain_db: predicted gain of the worst output by this change.
      cumulative_db: by this and all earlier ones.
      snr_db: output -> predicted SNR with this and all earlier ones.
    """

    entries: Mapping[str, Mapping[str, Any]]
    why: str
    gain_db: float
    cumulative_db: float
    snr_db: Mapping[str, float]


@dataclass(frozen=True)
class _Change:
    """Entries, and the factors that they put on the noise of tensors: (power of clip, of round and align)."""

    entries: Mapping[str, Mapping[str, Any]]
    factors: Mapping[str, tuple[float, float]]
    why: str


@dataclass(frozen=True)
class _State:
    """Noise that is left after changes.

    Attributes:
      left: (tensor, source) -> factor on its power.
    """

    left: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def changed(self, change: _Change) -> "_State":
        left = dict(self.left)
        for t, (clip, step) in change.factors.items():
            for source, factor in (("clip", clip), ("round", step), ("align", step)):
                left[t, source] = left.get((t, source), 1.0) * factor
        return _State(left)

    def snr_db(self, budget: ErrorBudget) -> dict[str, float]:
        """Output -> predicted SNR. What falls is taken out of the error; what grows is new, independent noise."""
        predicted = {}
        for output, traces in budget.traces.items():
            error, added = traces.error.copy(), 0.0
            for key, factor in self.left.items():
                part = traces.parts.get(key)
                if part is not None:
                    error -= (1 - math.sqrt(min(factor, 1.0))) * part
                    added += max(factor - 1, 0.0) * float(np.sum(part**2))
            before, after = float(np.sum(traces.error**2)), float(np.sum(error**2)) + added
            gain = 10 * math.log10(before / after) if before and after else 0.0
            predicted[output] = budget.snr_db[output] + gain
        return predicted


def merge_entries(suggestions: Iterable[Suggestion]) -> dict[str, dict[str, Any]]:
    """One `quan_config` of several suggestions; of two values for the same key the later one wins."""
    merged: dict[str, dict[str, Any]] = {}
    for s in suggestions:
        for selector, values in s.entries.items():
            merged.setdefault(selector, {}).update(values)
    return merged


def suggest_overrides(
    budget: ErrorBudget, planned: Planned, *, count: int = 8, headroom_16b: float = HEADROOM_16B
) -> tuple[Suggestion, ...]:
    """Ranks what would help most, each on top of the earlier ones.

    Candidates are, for every tensor: 15 bits, where the platform has them; and a range that holds all values the budget
    saw. Either takes along the tensors that only pass the same codes on. What quantized weights cost is left as it is:
    no entry changes their width.

    Args:
      budget: of the plan.
      planned: the plan.
      count: at most that many.
      headroom_16b: bits of headroom that data of 15 bits get (`PTQConfig.wide_headroom`).

    Returns:
      Suggestions, the best first, each with a gain of 0.1 dB or more at the worst output.
    """
    changes, state, snr = _changes(budget, planned, headroom_16b), _State(), dict(budget.snr_db)
    before = min(snr.values())
    found: list[Suggestion] = []
    while len(found) < count and changes:
        outcomes = [(state.changed(c).snr_db(budget), c) for c in changes]
        predicted, best = max(outcomes, key=lambda o: (min(o[0].values()), sum(o[0].values())))
        gain = min(predicted.values()) - min(snr.values())
        if not gain >= LEAST_GAIN_DB:
            break
        state, snr = state.changed(best), predicted
        changes.remove(best)
        found.append(Suggestion(best.entries, best.why, gain, min(snr.values()) - before, snr))
    return tuple(found)


def _changes(budget: ErrorBudget, planned: Planned, headroom_16b: float) -> list[_Change]:
    wider = 15 in TARGETS[budget.platform].data_bits
    finer = 2.0 ** (2 * (8 - 15 + headroom_16b))  # noise power of rounding to 15 bits over that of 8 bits
    found = []
    for row in budget.rows:
        chain = _chain(planned, row.tensor)
        if wider and row.bits == 8:
            narrow = [t for t in chain if planned.plan.formats[t].bits == 8]
            entries = {_selector(planned, t): {"bitwidth": 15} for t in narrow}
            factors = dict.fromkeys(narrow, (0.0, finer))
            found.append(_change(planned, entries, factors, f"{row.tensor} in 15 bits"))
        if any(loss.clip for loss in row.losses.values()):
            ranges = {t: _range(budget, planned, t) for t in chain}
            entries = {_selector(planned, t): entry for t, (entry, _) in ranges.items()}
            factors = {t: (0.0, coarser) for t, (_, coarser) in ranges.items()}
            found.append(_change(planned, entries, factors, f"{row.tensor} with the range of all its values"))
    return found


def _change(
    planned: Planned,
    entries: Mapping[str, Mapping[str, Any]],
    factors: Mapping[str, tuple[float, float]],
    why: str,
) -> _Change:
    """Without entries for rescales, which follow what they copy."""
    return _Change({s: e for s, e in entries.items() if s not in planned.plan.rescales}, factors, why)


def _chain(planned: Planned, tensor: str) -> tuple[str, ...]:
    """A tensor and those that only pass its codes on, in order."""
    chain = {tensor: None}
    for i in planned.program.instructions:
        passes = isinstance(i, _FOLLOWERS) or i.name in planned.plan.rescales
        if passes and not chain.keys().isdisjoint(i.inputs):
            chain[i.outputs[0]] = None
    return tuple(chain)


def _selector(planned: Planned, tensor: str) -> str:
    """The node that makes a tensor; a model input is selected by its own name."""
    node = planned.model.graph.producer.get(tensor)
    return tensor if node is None else node.name


def _range(budget: ErrorBudget, planned: Planned, tensor: str) -> tuple[dict[str, Any], float]:
    """The entry for a range as it is but where values exceed it, and how much more noise its rounding then makes."""
    f, (low, high) = planned.plan.formats[tensor], budget.spans[tensor]
    held = data_limits(f.bits)[1] / f.factor
    reach = np.maximum(held, np.maximum(-low, high))
    coarser = float(np.mean((reach / held) ** 2))
    ends = {"min": np.maximum(low, -reach), "max": reach}
    return {k: v.tolist() if v.size > 1 else float(v[0]) for k, v in ends.items()}, coarser
