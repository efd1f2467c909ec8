"""What was measured once, and the ranges that any rule makes of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from knerex_jax.calibrate.cuts import complement, cut_ranges, is_final
from knerex_jax.calibrate.hints import data_hints
from knerex_jax.calibrate.mmse import Clips, Setting, search
from knerex_jax.calibrate.npz import read_npz, write_npz
from knerex_jax.calibrate.ranges import Cut, Ranges, TensorRange
from knerex_jax.calibrate.sigmoid import is_counted, sigmoid_clips
from knerex_jax.calibrate.state import CalibrationState, TensorState
from knerex_jax.errors import ArtifactError, ConfigError

_KIND = "measured calibration data"


@dataclass(frozen=True)
class RangeRule:
    """How ranges follow from counted magnitudes.

    Attributes:
      method: "percentage" or "mmse".
      pct: percentage: share of magnitudes kept for 8-bit types; 1 gives the exact minimum and maximum.
      pct_wide: the share for 15-bit types.
      percentile: mmse: share of the largest magnitudes that are candidates.
      outlier_factor: mmse: weight of clipped errors.
      sigmoids: model outputs that a sigmoid outside the model follows.
    """

    method: str = "percentage"
    pct: float = 0.999
    pct_wide: float = 0.999999
    percentile: float = 0.001
    outlier_factor: float = 1.0
    sigmoids: tuple[str, ...] = ()

    @property
    def setting(self) -> Setting:
        """What the search is asked for."""
        return Setting(self.percentile, self.outlier_factor)

    def clips(self, outputs: Collection[str]) -> bool:
        """Whether sigmoids follow all of these outputs, so that what saturates them need not be told apart."""
        return all(t in self.sigmoids for t in outputs)


@dataclass(frozen=True)
class Measured:
    """Calibration data as counts: all that `ranges_of` needs, whatever the rule.

    Attributes:
      state: of all observed tensors; states of other data can be merged into it.
      outputs: model output -> shape.
      constants: tensors that keep their exact range always.
      leaving: observed tensor that leaves the model as it is, moved at most -> the outputs that hold it. These keep
        their exact range unless a sigmoid follows.
      notes: on the accuracy of the counts.
      model: hash of the model's files (`graph.files.model_sha256`); empty where it is not known.
    """

    state: CalibrationState = field(repr=False)
    outputs: Mapping[str, tuple[int, ...]]
    constants: frozenset[str] = frozenset()
    leaving: Mapping[str, frozenset[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    model: str = ""

    def merge(self, *others: "Measured") -> "Measured":
        """What was measured on all the data together; commutative and associative.

        Raises:
          ConfigError: these are not of one model and one kind of measurement.
        """
        models = {m.model for m in (self, *others)} - {""}
        alike = all((m.outputs, m.constants, m.leaving) == (self.outputs, self.constants, self.leaving) for m in others)
        if not alike or len(models) > 1:
            raise ConfigError("these are of different models", where="merge", fix="merge what one model gave")
        notes = tuple(sorted({note for m in (self, *others) for note in m.notes}))
        state = self.state.merge(*(m.state for m in others))
        return replace(self, state=state, notes=notes, model=next(iter(models), ""))

    def save(self, path: str | Path) -> None:
        """Writes an `.npz`, whole or not at all.

        Raises:
          ArtifactError: it cannot be written.
        """
        meta, arrays = self.state.packed()
        leaving = {t: sorted(held) for t, held in self.leaving.items()}
        own = {
            "outputs": self.outputs, "constants": sorted(self.constants), "leaving": leaving, "notes": self.notes,
            "model": self.model,
        }  # fmt: skip
        write_npz(path, _KIND, {**meta, **own}, arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Measured":
        """Reads what `save` wrote.

        Raises:
          ArtifactError: missing, damaged, of another kind or newer.
        """
        meta, arrays = read_npz(path, _KIND)
        try:
            outputs = {t: tuple(shape) for t, shape in meta["outputs"].items()}
            state = CalibrationState.unpacked(meta, arrays)
            leaving = {t: frozenset(held) for t, held in meta["leaving"].items()}
            constants, notes, model = frozenset(meta["constants"]), tuple(meta["notes"]), meta.get("model", "")
            return cls(state, outputs, constants, leaving, notes, model)
        except (KeyError, TypeError, AttributeError) as e:
            raise ArtifactError(f"incomplete: {e}", where=str(path), fix="measure and save again") from e


def is_enough(
    state: TensorState, rules: Sequence[RangeRule], *, leaving: Collection[str] = (), constant: bool = False
) -> bool:
    """Whether one tensor is counted down to what these rules will ask.

    Args:
      state: of the tensor.
      rules: that will be asked.
      leaving: outputs that hold its values.
      constant: whether it keeps its exact range always.
    """
    if leaving:
        return is_counted(state) or not any(rule.clips(leaving) for rule in rules)
    kept = {share for rule in rules for share in _shares(rule)}
    return constant or is_final(state, sorted(kept))


def _shares(rule: RangeRule) -> tuple[float, ...]:
    """Shares of magnitudes above which everything has to be counted."""
    return (complement(rule.percentile),) if rule.method == "mmse" else (rule.pct, rule.pct_wide)


def ranges_of(measured: Measured, rules: Sequence[RangeRule]) -> list[Ranges]:
    """Ranges by every rule; many rules cost little more than one.

    What the counts cannot tell is an upper bound, with a hint.
    """
    tensors: list[dict[str, TensorRange]] = [{} for _ in rules]
    bounded: list[list[str]] = [[] for _ in rules]
    states = measured.state.tensors
    inner = {t: s for t, s in states.items() if t not in measured.constants and t not in measured.leaving}
    cuts_of = dict(zip(inner, _inner(inner.values(), rules), strict=True))
    for t, state in states.items():
        cuts = _exact(state, len(rules)) if t in measured.constants else None
        cuts = cuts or cuts_of.get(t) or _output(state, measured.leaving[t], rules)
        for i, (narrow, wide, final) in enumerate(cuts):
            tensors[i][t] = TensorRange(narrow, wide, state.axis, state.values)
            bounded[i] += [] if final else [t]
    return [
        Ranges(found, measured.state.samples, rule.pct, rule.pct_wide, _hints(measured, rule, unknown), rule.method)
        for found, rule, unknown in zip(tensors, rules, bounded, strict=True)
    ]


_Cuts = list[tuple[Cut, Cut, bool]]
"""Per rule the narrow and the wide range, and whether they are final."""


def _exact(state: TensorState, count: int) -> _Cuts:
    ((cut, _),) = cut_ranges(state, (1.0,))
    return [(cut, cut, True)] * count


def _output(state: TensorState, outputs: Collection[str], rules: Sequence[RangeRule]) -> _Cuts:
    (exact, *_) = _exact(state, 1)
    clipped = [rule.clips(outputs) for rule in rules]
    if not any(clipped):
        return [exact] * len(rules)
    clips, final = sigmoid_clips(state)
    narrow, wide = (_clipped(state, clip, np.broadcast_to(clip, state.channels)) for clip in clips)
    return [(narrow, wide, final) if clip else exact for clip in clipped]


def _inner(states: Collection[TensorState], rules: Sequence[RangeRule]) -> Iterator[_Cuts]:
    settings = [rule.setting for rule in rules if rule.method == "mmse"]
    shares = [share for rule in rules if rule.method != "mmse" for share in (rule.pct, rule.pct_wide)]
    # All tensors are searched side by side.
    searched = search(states, settings) if settings else [[]] * len(states)
    for state, found in zip(states, searched, strict=True):
        clips, cuts = iter(found), iter(cut_ranges(state, shares) if shares else ())
        yield [
            _searched(state, next(clips)) if rule.method == "mmse" else _pair(next(cuts), next(cuts)) for rule in rules
        ]


def _pair(narrow: tuple[Cut, bool], wide: tuple[Cut, bool]) -> tuple[Cut, Cut, bool]:
    return narrow[0], wide[0], narrow[1] and wide[1]


def _searched(state: TensorState, clips: Clips) -> tuple[Cut, Cut, bool]:
    narrow, wide = (_clipped(state, layer, each) for layer, each in zip(clips.layer, clips.channels, strict=True))
    return narrow, wide, clips.final


def _clipped(state: TensorState, layer: np.ndarray, channels: np.ndarray) -> Cut:
    """The exact ranges, as far as they lie within +-clip."""
    low, high = (np.clip(end, -channels, channels).astype(np.float32) for end in (state.low, state.high))
    return Cut(float(max(state.low.min(), -layer)), float(min(state.high.max(), layer)), low, high)


def _hints(measured: Measured, rule: RangeRule, bounded: Sequence[str]) -> tuple[str, ...]:
    pct = 1.0 if rule.method == "mmse" else rule.pct
    hints = [*data_hints(measured.state.samples, pct, measured.outputs), *measured.notes]
    if bounded:
        which = f"{len(bounded)} tensors (first: {bounded[0]})"
        hints.append(f"{which} have outliers so far out that their ranges are bounds only")
    return tuple(hints)
