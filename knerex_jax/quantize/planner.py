"""From a decomposed model and its ranges to a planned model: structure, slots, formats, program."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.errors import PlanError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.program import Program
from knerex_jax.quantize.assemble import assemble
from knerex_jax.quantize.bitwidth import Widths, assign_widths
from knerex_jax.quantize.overrides import NO_OVERRIDES, Overrides
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.rescale import Slots, find_slots, insert_slots
from knerex_jax.quantize.solve import RangePolicy, ScaleClash, channel_absmax, solve
from knerex_jax.quantize.structure import Structure, analyse, with_copies
from knerex_jax.targets.spec import Target


@dataclass(frozen=True)
class Planned:
    """A model with a plan, and the program that follows from both.

    Attributes:
      model: the decomposed model, rescale slots included.
      structure: its constraint problem.
      slots: the rescale slots; pass them to `plan_model` to plan again for the same program.
      refined: the model the integers were made of: `model`, or `model` with adjusted biases and weights that lie on
        their grid.
      constants: the program's integers.
    """

    model: Model
    structure: Structure
    plan: QuantPlan
    slots: Slots
    refined: Model
    program: Program
    constants: Mapping[str, Mapping[str, np.ndarray]] = field(hash=False)


def plan_model(
    model: Model,
    ranges: Ranges,
    request: WidthRequest,
    target: Target,
    *,
    policy: RangePolicy | None = None,
    slots: Slots | None = None,
    overrides: Overrides = NO_OVERRIDES,
    registry: Mapping[str, OpDef] = REGISTRY,
) -> Planned:
    """Plans a decomposed model.

    Args:
      model: decomposed and bound.
      ranges: of every tensor in `analyse(model, target, registry).observed`.
      request: widths in significant bits.
      target: platform.
      policy: how ranges are widened.
      slots: rescale slots of an earlier plan; None finds them from these ranges.
      overrides: what is imposed on single tensors; what would leave no legal plan is withdrawn, with a note.
      registry: operator records.

    Raises:
      PlanError: no legal plan, or a shift out of range; names the node.
      UnsupportedOpError: an operator that has neither an integer rule nor a reference to run on the host.
    """
    problem = _Problem(model, ranges, request, target, policy or RangePolicy(), registry, overrides)
    try:
        made = problem.search() if slots is None else problem.attempt(slots)
        while True:
            plan = replace(made.plan, rescales=_inserted(model, made.model))
            try:
                program, constants = assemble(made.model, plan, target, registry)
            except PlanError as error:
                problem = problem.without(error, made)
                made = problem.attempt(made.slots)
            else:
                return Planned(made.model, made.structure, plan, made.slots, made.model, program, constants)
    except ScaleClash as clash:
        raise _no_scale(clash.tensor) from clash


def refine_plan(planned: Planned, refined: Model, target: Target, registry: Mapping[str, OpDef] = REGISTRY) -> Planned:
    """The same formats with other constants: adjusted biases, weights that lie on their grid.

    Args:
      planned: what was planned.
      refined: `planned.model` with other constants, or more of them (a bias where there was none).
      target: platform.
      registry: operator records.

    Raises:
      PlanError: a shift is out of range; names the node.
    """
    program, constants = assemble(refined, planned.plan, target, registry)
    return replace(planned, refined=refined, program=program, constants=constants)


@dataclass(frozen=True)
class _Attempt:
    """A plan with given slots."""

    model: Model
    structure: Structure
    plan: QuantPlan
    slots: Slots
    copies: Mapping[str, str]
    widths: Widths


@dataclass(frozen=True)
class _Problem:
    """What all attempts at a plan have in common."""

    model: Model
    ranges: Ranges
    request: WidthRequest
    target: Target
    policy: RangePolicy
    registry: Mapping[str, OpDef]
    overrides: Overrides

    @cached_property
    def base(self) -> Structure:
        """The constraint problem without slots."""
        return analyse(self.model, self.target, self.registry)

    def attempt(self, slots: Slots) -> _Attempt:
        """Plans with given slots.

        Raises:
          ScaleClash: the scale of a product fits nowhere.
        """
        planned, copies = insert_slots(self.model, slots, self.base.axes)
        structure = with_copies(analyse(planned, self.target, self.registry), copies, planned) if slots else self.base
        widths = assign_widths(
            planned, structure, self.request, self.target, self.registry,
            pinned=self.overrides.widths, carried=carried_by_slots(self.model, planned),
        )  # fmt: skip
        why = "the tensor has one format for all channels"
        overrides = self.overrides.withdraw(structure.layer, why, lists_only=True)
        absmax = channel_absmax(planned, structure, self.ranges, widths, self.policy, overrides)
        plan = solve(planned, structure, absmax, widths, self.target, overrides)
        return _Attempt(planned, structure, plan, slots, copies, widths)

    def search(self) -> _Attempt:
        """The slots a model needs with these ranges: behind products that nothing else fits, then the profitable ones.

        Raises:
          ScaleClash: the scale of a product fits nowhere.
        """
        behind: Slots = ()
        # An imposed format may need a slot behind a product, but makes none profitable.
        found: Slots = replace(self, overrides=self.overrides.free()).search().slots if self.overrides.imposed else ()
        looked = bool(self.overrides.imposed)
        while True:
            try:
                made = self.attempt((*behind, *found))
            except ScaleClash as clash:
                behind = (*behind, self._slot_behind(clash, behind))
                continue
            if not looked:
                looked, found = True, self._profitable(made)
            if made.slots == (*behind, *found):
                return made

    def _slot_behind(self, clash: ScaleClash, behind: Slots) -> tuple[str, tuple[str, ...]]:
        """A slot between a product and its readers."""
        y, graph = clash.tensor, self.model.graph
        if y in dict(behind) or y not in graph.types:  # a rescale behind it did not help
            raise clash
        return y, () if y in graph.outputs else tuple(n.name for n in graph.readers[y])

    def without(self, error: PlanError, made: _Attempt) -> "_Problem":
        """The same without the overrides around a node that has no legal shift.

        Raises:
          PlanError: the error itself, where no override is to blame.
        """
        graph, fused = made.model.graph, made.structure.fused
        around = {
            t
            for n in graph.nodes
            if error.where == f"node {n.name}"
            for m in (n, graph.node[fused.get(n.name, n.name)])
            for t in (*m.inputs, *m.outputs)
        }
        around |= {made.copies[t] for t in around if t in made.copies}
        if around.isdisjoint(self.overrides.numbers):
            raise error
        return replace(self, overrides=self.overrides.withdraw(around, f"{error.what} ({error.where})"))

    def _profitable(self, made: _Attempt) -> Slots:
        """The slots that win back channels, judged by the ranges before any are made per layer."""
        by_channel = replace(made.structure, layer=frozenset())
        free = channel_absmax(made.model, by_channel, self.ranges, made.widths, self.policy, self.overrides)
        return find_slots(made.model, made.structure, made.plan, free, self.target)


def carried_by_slots(model: Model, planned: Model) -> dict[str, str]:
    """Tensors that only rescale slots brought in -> the tensor whose values they carry."""
    before, carried = model.graph, {}
    for node in planned.graph.nodes:
        old = before.node.get(node.name)
        for k, t in enumerate(node.outputs):
            if t and t not in before.types:
                carried[t] = carried.get(node.inputs[0], node.inputs[0]) if old is None else old.outputs[k]
    return carried


def _inserted(before: Model, after: Model) -> tuple[str, ...]:
    """Names of the rescale nodes that slots brought in."""
    return tuple(
        n.name for n in after.graph.nodes if n.op_type == "BatchNormalization" and n.name not in before.graph.node
    )


def _no_scale(tensor: str) -> PlanError:
    return PlanError(
        "its scale is the product of its operands' scales, but another tensor imposes one, too",
        where=f"tensor {tensor}", fix="insert a BatchNormalization by ones behind the multiplication",
    )  # fmt: skip
