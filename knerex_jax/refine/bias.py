"""Bias adjustment: the mean error of every accumulator moves into its bias. Section 7 of the contract."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Literal

import numpy as np

from knerex_jax.errors import PlanError
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.build import ProgramView
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.program import Constants
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.refine.bias_nodes import Integers, Weighted, foreseen, integers_of, view_of, weighted_nodes, with_biases
from knerex_jax.refine.bias_run import Batch, Passes
from knerex_jax.refine.bias_sequential import MOST_SAMPLES, Sequential
from knerex_jax.refine.bias_sums import LARGEST
from knerex_jax.refine.bias_totals import Totals
from knerex_jax.refine.split import FEWEST_SAMPLES
from knerex_jax.refine.spool import open_spool
from knerex_jax.targets.spec import Target

BiasMode = Literal["parallel", "sequential"]

_FIT, _HELD = (0,), (1,)


@dataclass(frozen=True)
class BiasRecord:
    """What became of one node's correction. Errors are in real units, before a fused activation.

    Attributes:
      node: weighted node.
      kept: whether its bias was changed.
      delta: root mean square over channels of the correction, i.e. of the mean error of the fitted samples.
      held_before: the same of the mean error of the held-out samples; None where none is held out.
      held_after: what the correction leaves (or would leave) of it.
      why: reason why it was not kept, else empty.
    """

    node: str
    kept: bool
    delta: float
    held_before: float | None
    held_after: float | None
    why: str = ""


@dataclass(frozen=True)
class BiasAdjusted:
    """An adjusted plan.

    Attributes:
      planned: made again of the model with adjusted biases (`planned.refined`); formats unchanged.
      records: one per weighted node that has a bias, in order.
      samples: how many were fitted, how many held out.
      spool_bytes: most bytes that were spilled to disk; 0 if all samples were kept in memory.
    """

    planned: Planned
    records: tuple[BiasRecord, ...]
    samples: tuple[int, int]
    spool_bytes: int = 0


def adjust_bias(
    planned: Planned,
    inputs: Batch | Iterable[Batch],
    mode: BiasMode = "sequential",
    *,
    target: Target,
    batch_size: int = 32,
    registry: Mapping[str, OpDef] = REGISTRY,
    progress: Callable[[int, int], None] | None = None,
) -> BiasAdjusted:
    """Adds the mean error of every accumulator to the bias of its node.

    One of every four samples is held out (none below 8 samples; the plan then carries a note). A node's correction is
    kept if it lowers the error of the held-out samples. The result does not depend on the batch size.

    Args:
      planned: what is adjusted; the float values are those of `planned.model`, the biases those of `planned.refined`.
      inputs: samples, name -> [N, ...] in place of the model's batch axis, or an iterable of such batches; read once.
      mode: "parallel": each node sees its quantized float input. "sequential": each node sees what the corrected nodes
        before it make; the same as correcting one node at a time and running everything again for the next.
      target: platform of the plan.
      batch_size: samples per step; sequentially, the number of samples up to which what waits between two nodes is
        kept in memory. With more it is spilled to disk, and its size is logged before.
      registry: operator records.
      progress: called with the nodes that are done, and all.

    Raises:
      ModelError: the samples do not fit the model.
      ConfigError: the disk has no room for what has to be spilled.
    """
    view = view_of(planned, planned.refined, target, registry)
    weighted = weighted_nodes(planned, view)
    if not weighted:
        return BiasAdjusted(planned, (), (0, 0))
    passes = Passes(planned.program, planned.constants, planned.model, weighted, registry)
    blocks = passes.blocks(inputs)
    if mode == "parallel":
        adjustment = Adjustment(view, planned.constants, weighted, progress)
        *_, (_, sums) = passes.floats(blocks, parallel=True)
        for k, node in enumerate(weighted):
            fixed = passes.fixed(k, sums.fixed[node.name], sums.samples)
            adjustment.decide(node, passes.totals(k, sums, fixed))
        return adjustment.adjusted(planned)
    run = Sequential(passes)
    first = list(islice(blocks, -(-min(batch_size, MOST_SAMPLES) // passes.at_once)))
    rest = list(islice(blocks, 1))
    if not rest:
        adjustment = Adjustment(view, planned.constants, weighted, progress, foresees=True)
        *_, (_, sums) = passes.floats(first)
        if run.in_one_trace(first, sums, adjustment.decide):
            made = adjustment.adjusted(planned)
            if adjustment.foresaw(made.planned):
                return made
    adjustment = Adjustment(view, planned.constants, weighted, progress)
    with open_spool(on_disk=bool(rest)) as spool:
        run.by_stages(chain(first, rest, blocks), spool, adjustment.decide)
        spilled = spool.peak if rest else 0
    return adjustment.adjusted(planned, spilled)


@dataclass
class Adjustment:
    """The decisions of one run, node by node.

    Attributes:
      view: the model whose biases are adjusted, under its plan.
      constants: its integers.
      weighted: the nodes, in order.
      progress: called with the nodes that are done, and all.
      foresees: new integers are foreseen where they may be, and have to be confirmed (`foresaw`).
      integers: node -> new integers, of the nodes whose correction is kept.
      biases: node -> adjusted bias, float32 [O], likewise.
      records: node -> record, of those so far.
      samples: how many were fitted, how many held out.
    """

    view: ProgramView
    constants: Constants
    weighted: Sequence[Weighted]
    progress: Callable[[int, int], None] | None = None
    foresees: bool = False
    integers: dict[str, Integers] = field(default_factory=dict)
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    records: dict[str, BiasRecord] = field(default_factory=dict)
    samples: tuple[int, int] = (0, 0)

    def decide(self, node: Weighted, totals: Totals) -> Integers | None:
        """The node's new integers if its correction is kept; notes the outcome."""
        fitted, held = (n // node.positions for n in totals.values)
        judged = fitted + held >= FEWEST_SAMPLES
        self.samples = (fitted, held) if judged else (fitted + held, 0)
        record, delta = _judge(node, totals, judged)
        if record.kept:
            bias = np.float32(node.bias.astype(np.float64) + delta)
            try:
                self.integers[node.name] = self._integers(node, bias)
                self.biases[node.name] = bias
            except PlanError as error:
                record = replace(record, kept=False, why=str(error).splitlines()[0])
        self.records[node.name] = record
        if self.progress is not None:
            self.progress(len(self.records), len(self.weighted))
        return self.integers.get(node.name)

    def _integers(self, node: Weighted, bias: np.ndarray) -> Integers:
        found = foreseen(node, bias, self.constants[node.name]) if self.foresees else None
        if found is not None:
            return found
        view = replace(self.view, model=with_biases(self.view.model, {node.name: bias}))
        return integers_of(view, node.name)[1]

    def foresaw(self, made: Planned) -> bool:
        """Whether the ordinary rules give the integers of the decisions."""
        return all(
            np.array_equal(value, made.constants[name][key])
            for name, integers in self.integers.items()
            for key, value in integers.items()
        )

    def adjusted(self, planned: Planned, spilled: int = 0) -> BiasAdjusted:
        """The plan made again with all biases that were kept.

        Args:
          planned: what is adjusted.
          spilled: bytes that were spilled to disk.
        """
        made = refine_plan(planned, with_biases(planned.refined, self.biases), self.view.target, self.view.registry)
        made = replace(made, plan=replace(made.plan, notes=(*made.plan.notes, *self._notes)))
        return BiasAdjusted(made, self._in_order, self.samples, spilled)

    @property
    def _in_order(self) -> tuple[BiasRecord, ...]:
        return tuple(self.records[w.name] for w in self.weighted)

    @property
    def _notes(self) -> tuple[Note, ...]:
        """Which requests were not met."""
        found = []
        if self.samples[1] == 0:
            found.append(
                Note(
                    "bias adjustment",
                    "corrections judged on held-out samples",
                    "every correction kept",
                    f"{self.samples[0]} samples are fewer than {FEWEST_SAMPLES}: none can be held out",
                )  # fmt: skip
            )
        refused = [r for r in self._in_order if r.why]
        if refused:
            found.append(
                Note(
                    f"bias of {', '.join(r.node for r in refused)}",
                    "adjusted",
                    "left as it was",
                    "; ".join(dict.fromkeys(r.why for r in refused)),
                )  # fmt: skip
            )
        return tuple(found)


def _judge(node: Weighted, totals: Totals, judged: bool) -> tuple[BiasRecord, np.ndarray]:
    """The correction by the fitted samples' mean error, float64 [O], and whether it helps the held-out ones.

    The mean squared error of p on held-out samples changes by sum_c (delta_c**2 - 2 delta_c mean_c).
    """
    if not totals.exact:
        why = f"float values that are not finite or not below {LARGEST:.3g} cannot be summed exactly"
        return BiasRecord(node.name, False, 0.0, None, None, why), np.zeros(len(node.bias))
    delta = totals.mean_error(_FIT if judged else _FIT + _HELD, node.unit)
    if not judged:
        return BiasRecord(node.name, True, _rms(delta), None, None), delta
    mean = totals.mean_error(_HELD, node.unit)
    worse = not (delta**2 - 2 * delta * mean).sum() < 0
    why = "the error of held-out samples does not shrink" if worse else ""
    return BiasRecord(node.name, not worse, _rms(delta), _rms(mean), _rms(mean - delta), why), delta


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float(values @ values) / len(values))
