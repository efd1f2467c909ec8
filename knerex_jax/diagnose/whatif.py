"""What a plan would be with a few settings changed, and how good: planned again, emulated without compiling again."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.artifacts.bie import Bie, load_bie
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.data.sources import open_source
from knerex_jax.diagnose.refined import as_stored, carried_over
from knerex_jax.emulator.run import Emulator
from knerex_jax.errors import ArtifactError, ConfigError, PlanError
from knerex_jax.graph.ir import Model
from knerex_jax.metrics import output_snr
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.load import load_onnx
from knerex_jax.ops.opdef import OpDef
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.program.bounds import Bounds, StepBound, bound_program
from knerex_jax.program.program import Constants, Program
from knerex_jax.quantize.overrides import resolve
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.planner import Planned, carried_by_slots, plan_model
from knerex_jax.quantize.quan_config import QuanConfig, read_quan_config
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.rescale import Slots
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import analyse
from knerex_jax.runtime import FixedModel, FloatModel
from knerex_jax.targets import TARGETS

_REFINED = frozenset({"weight_rounding", "bias_adjustment"})
"""Records of a report behind which integers are not what formats alone make of the model."""


@dataclass(frozen=True)
class Trial:
    """A plan and its emulation.

    Attributes:
      planned: formats, notes, program, integers.
      fixed: runs it; on the compiled functions of an earlier trial where those hold.
    """

    planned: Planned
    fixed: FixedModel


@dataclass(frozen=True)
class WhatIf:
    """A planned model whose settings can be tried out.

    Every width is pinned to what the plan has. Formats, and slots where they still serve, are found as for the plan;
    what is changed is an entry of `quan_config`, and comes on top of those the plan was made with. Learned weights and
    adjusted biases stay: a node whose formats do not change keeps its integers.

    Attributes:
      model: decomposed, without rescale slots: what was given to `plan_model`.
      ranges: what it was planned with.
      planned: the plan to start from.
      policy: how ranges were widened.
      quan_config: the overrides it was made with.
      registry: operator records.
      behind_sigmoid: outputs whose SNR is measured behind a sigmoid.
    """

    model: Model
    ranges: Ranges
    planned: Planned
    policy: RangePolicy = field(default_factory=RangePolicy)
    quan_config: QuanConfig = field(default_factory=dict, hash=False)
    registry: Mapping[str, OpDef] = field(default_factory=lambda: REGISTRY, repr=False, hash=False)
    behind_sigmoid: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: str | Path, *, ops: Mapping[str, OpDef] = REGISTRY) -> "WhatIf":
        """Reads a folder that `run_ptq` wrote.

        Raises:
          ArtifactError: a file is missing or damaged, or this version does not come to the same plan.
        """
        folder = Path(folder)
        report = _report(folder / "model_fx_report.json")
        if report["learned"].get("fine_tuning", {}).get("kept"):
            raise ArtifactError(
                "its formats were fine-tuned: they do not follow from its ranges, so it cannot be planned again",
                where=str(folder), fix="ask about the run without fine-tuning",
            )  # fmt: skip
        stem = report["model"]["name"]
        bie = load_bie(folder / f"{stem}.bie")
        model = decompose_model(load_onnx(folder / f"{stem}.origin.onnx", ops=ops), ops)
        ranges = Ranges.load(folder / "calibration.npz")
        applied = report["applied"]
        policy = RangePolicy(
            guard_bits=applied["guard_bits"],
            headroom_bits={8: 0, 15: applied["headroom_16b"]},
            output_headroom=applied["output_headroom"],
        )
        quan_config = read_quan_config(report["requested"]["quan_config"]) or {}
        planned = _plan(model, ranges, bie.plan, policy, quan_config, {}, slots=None, carried={}, registry=ops)
        refined = not _REFINED.isdisjoint(report["learned"])
        apart = frozenset(planned.plan.weight_bits) if refined else frozenset()
        if planned.program != bie.program or not _same_integers(planned.constants, bie.constants, apart):
            raise ArtifactError(
                "planned again from its ranges, the model is another one", where=str(folder),
                fix="quantize again with this version",
            )  # fmt: skip
        planned = as_stored(planned, bie.constants, ops) if refined else planned
        return cls(model, ranges, planned, policy, quan_config, ops, tuple(report.get("behind_sigmoid", ())))

    @cached_property
    def base(self) -> Trial:
        """The plan as it is."""
        return self._trial(self.planned)

    def change(self, quan_config: Any) -> Trial:
        """Plans again with other settings.

        Args:
          quan_config: in any form that `read_quan_config` takes; selectors that the plan was made with keep other keys.

        Raises:
          ConfigError: malformed, or a selector that names nothing.
          PlanError: no legal plan.
        """
        change = read_quan_config(quan_config) or {}
        settings = (self.model, self.ranges, self.planned.plan, self.policy, self.quan_config, change)
        carried = carried_by_slots(self.model, self.planned.model)
        try:
            planned = _plan(*settings, slots=self.planned.slots, carried=carried, registry=self.registry)
        except PlanError:  # a product that clashes with what is imposed needs one more slot
            planned = _plan(*settings, slots=None, carried=carried, registry=self.registry)
        return self._trial(carried_over(self.planned, planned, self.registry))

    def snr_db(self, trial: Trial, inputs: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, float]:
        """SNR of every output against the float model, in dB; behind its sigmoid where one follows.

        Args:
          trial: of this plan or a changed one.
          inputs: name -> [N, ...] in place of the model's batch axis.
          batch_size: samples per compiled step.
        """
        reference = self._float.run(inputs, batch_size=batch_size)
        found = trial.fixed.run(inputs, batch_size=batch_size)
        return output_snr(reference, found, self.behind_sigmoid)

    @property
    def compiled(self) -> int:
        """How many emulators were made so far; all trials of one share its compiled functions."""
        return sum(len(held) for held in self._emulators.values())

    def read(self, data: Any, *, preprocess: Any = None, layout: str | None = None) -> dict[str, np.ndarray]:
        """Evaluation data in any form that `open_source` takes, as name -> [N, ...].

        Args:
          data: a path, arrays, or an iterator.
          preprocess: for images, as for calibration.
          layout: of arrays where it is ambiguous.

        Raises:
          ModelError: it does not fit the model.
        """
        types = {t: self.model.graph.types[t] for t in self.model.graph.inputs}
        return open_source(data, types, preprocess=preprocess, layout=layout).arrays()

    @cached_property
    def _float(self) -> FloatModel:
        return FloatModel(self.model, self.registry)

    @cached_property
    def _emulators(self) -> dict[Program, list[Emulator]]:
        return {}

    def _trial(self, planned: Planned) -> Trial:
        bie = Bie(planned.program, planned.constants, planned.plan, {})
        return Trial(planned, FixedModel(bie, self._emulator(planned)))

    def _emulator(self, planned: Planned) -> Emulator:
        """One whose methods hold for a plan."""
        bounds = bound_program(planned.program, planned.constants)
        held = self._emulators.setdefault(planned.program, [])
        for emulator in held:
            if emulator.covers(bounds):
                return emulator
        held.append(Emulator(planned.program, _with_slack(planned.program, bounds)))
        return held[-1]


def parse_settings(settings: Iterable[str], quan_config: Any = None) -> QuanConfig:
    """Settings written NODE.KEY=VALUE, VALUE in JSON or a word, on top of a `quan_config`; NODE may hold dots itself.

    Raises:
      ConfigError: one is not written like that, or malformed.
    """
    merged = read_quan_config(quan_config) or {}
    for text in settings:
        target, _, value = text.rpartition("=")
        selector, _, key = target.rpartition(".")
        if not selector:
            raise _unreadable(text)
        try:
            parsed = value if value in ("int8", "int16") else json.loads(value)
        except ValueError as e:
            raise _unreadable(text) from e
        merged = _merged(merged, read_quan_config({selector: {key: parsed}}) or {})
    return merged


def _unreadable(text: str) -> ConfigError:
    return ConfigError(f"cannot read the setting {text!r}", where="--set", fix="write it as NODE.KEY=VALUE")


def _plan(
    model: Model,
    ranges: Ranges,
    base: QuantPlan,
    policy: RangePolicy,
    quan_config: QuanConfig,
    change: QuanConfig,
    *,
    slots: Slots | None,
    carried: Mapping[str, str],
    registry: Mapping[str, OpDef],
) -> Planned:
    """A plan with the widths of another, apart from those that are changed."""
    target = TARGETS[base.platform]
    structure = analyse(model, target, registry)
    before, after = (resolve(c, model, structure, target) for c in (quan_config, _merged(quan_config, change)))
    changed = {t: bits for t, bits in after.widths.items() if before.widths.get(t) != bits}
    # What carries a changed tensor through a rescale slot follows it.
    widths = {t: f.bits for t, f in base.formats.items() if carried.get(t) not in changed} | changed
    weights = {n: bits for n, bits in base.weight_bits.items() if n in model.graph.node}
    slot_weights = [bits for n, bits in base.weight_bits.items() if n not in weights]
    request = WidthRequest(weights=slot_weights[0] if slot_weights else 8, weight_nodes=weights)
    return plan_model(
        model, ranges, request, target, policy=policy, slots=slots,
        overrides=replace(after, widths=widths), registry=registry,
    )  # fmt: skip


def _merged(base: QuanConfig, change: QuanConfig) -> QuanConfig:
    """Changed selectors come last, with the keys that they had and do not change."""
    return {s: e for s, e in base.items() if s not in change} | {s: base.get(s, {}) | e for s, e in change.items()}


def _with_slack(program: Program, bounds: Bounds) -> Bounds:
    """Bounds under which every shift has its general form, so that another radix alone needs no other method."""
    rules = {i.name: i.rule for i in program.instructions}

    def widened(name: str, step: StepBound) -> StepBound:
        # A weighted node with 32-bit partial sums has no shift at its entry, whatever the radix.
        entry = step.entry if rules[name] == "mac" else _around_zero(step.entry)
        return replace(step, entry=entry, shift=_around_zero(step.shift))

    return replace(bounds, steps=tuple((name, widened(name, step)) for name, step in bounds.steps))


def _around_zero(span: tuple[int, int]) -> tuple[int, int]:
    return min(span[0], -1), max(span[1], 1)


def _same_integers(ours: Constants, theirs: Constants, apart: frozenset[str]) -> bool:
    """Whether all integers are equal, apart from those of some nodes."""
    return ours.keys() == theirs.keys() and all(
        group.keys() == theirs[name].keys()
        and (name in apart or all(np.array_equal(v, theirs[name][k]) for k, v in group.items()))
        for name, group in ours.items()
    )


def _report(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        fix = "give the folder that run_ptq wrote"
        raise ArtifactError(f"cannot read the report: {e}", where=str(path), fix=fix) from e
