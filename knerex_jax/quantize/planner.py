"""From a decomposed model and its ranges to a planned model: structure, slots, formats, program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.errors import PlanError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.program import Program
from knerex_jax.quantize.assemble import assemble
from knerex_jax.quantize.bitwidth import WidthRequest, assign_widths
from knerex_jax.quantize.plan import QuantPlan
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
      constants: the program's integers.
    """

    model: Model
    structure: Structure
    plan: QuantPlan
    slots: Slots
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
      registry: operator records.

    Raises:
      PlanError: no legal plan, or a shift out of range; names the node.
      UnsupportedOpError: an operator that has neither an integer rule nor a reference to run on the host.
    """
    policy = policy or RangePolicy()
    attempt = partial(_attempt, model, ranges, request, target, policy, registry)
    slots = _search(attempt, model) if slots is None else slots
    try:
        made = attempt(slots)
    except ScaleClash as clash:
        raise _no_scale(clash.tensor) from clash
    plan = replace(made.plan, rescales=tuple(made.copies))
    program, constants = assemble(made.model, plan, target, registry)
    return Planned(made.model, made.structure, plan, slots, program, constants)


@dataclass(frozen=True)
class _Attempt:
    """A plan with given slots; `free`: the ranges by channel, before any are made per layer."""

    model: Model
    structure: Structure
    plan: QuantPlan
    copies: Mapping[str, str]
    free: Mapping[str, np.ndarray]
    target: Target


def _attempt(
    model: Model,
    ranges: Ranges,
    request: WidthRequest,
    target: Target,
    policy: RangePolicy,
    registry: Mapping[str, OpDef],
    slots: Slots,
) -> _Attempt:
    axes = analyse(model, target, registry).axes if slots else {}
    planned, copies = insert_slots(model, slots, axes)
    structure = with_copies(analyse(planned, target, registry), copies, planned)
    widths = assign_widths(planned, structure, request, target, registry)
    absmax = channel_absmax(planned, structure, ranges, widths, policy)
    free = channel_absmax(planned, replace(structure, layer=frozenset()), ranges, widths, policy)
    return _Attempt(planned, structure, solve(planned, structure, absmax, widths, target), copies, free, target)


def _search(attempt: Callable[[Slots], _Attempt], model: Model) -> Slots:
    """The slots a model needs with these ranges: behind products that nothing else fits, then the profitable ones.

    Raises:
      PlanError: the scale of a product fits nowhere.
    """
    behind: Slots = ()
    found: Slots | None = None
    while True:
        try:
            made = attempt((*behind, *(found or ())))
        except ScaleClash as clash:
            y = clash.tensor
            if y in dict(behind) or y not in model.graph.types:  # a rescale behind it did not help
                raise _no_scale(y) from clash
            readers = () if y in model.graph.outputs else tuple(n.name for n in model.graph.readers[y])
            behind = (*behind, (y, readers))
            continue
        if found is not None:
            return (*behind, *found)
        found = find_slots(made.model, made.structure, made.plan, made.free, made.target)
        if not found:
            return behind


def _no_scale(tensor: str) -> PlanError:
    return PlanError(
        "its scale is the product of its operands' scales, but another tensor imposes one, too",
        where=f"tensor {tensor}", fix="insert a BatchNormalization by ones behind the multiplication",
    )  # fmt: skip
