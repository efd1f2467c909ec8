"""From a decomposed model and its ranges to a planned model: structure, slots, formats, program."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.program import Program
from knerex_jax.quantize.assemble import assemble
from knerex_jax.quantize.bitwidth import WidthRequest, assign_widths
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.rescale import Slots, find_slots, insert_slots
from knerex_jax.quantize.solve import RangePolicy, channel_absmax, solve
from knerex_jax.quantize.structure import Structure, analyse
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
      UnsupportedOpError: an operator without a fixed-point rule.
    """
    policy = policy or RangePolicy()

    def solved(model: Model, ranges: Ranges) -> tuple[Structure, QuantPlan, Mapping[str, np.ndarray]]:
        structure = analyse(model, target, registry)
        widths = assign_widths(model, structure, request, target, registry)
        absmax = channel_absmax(model, structure, ranges, widths, policy)
        return structure, solve(model, structure, absmax, widths, target), absmax

    if slots is None:
        structure, plan, absmax = solved(model, ranges)
        slots = find_slots(model, structure, plan, absmax)
    planned, copies = insert_slots(model, slots)
    structure, plan, _ = solved(planned, ranges.with_copies(copies))
    plan = replace(plan, rescales=tuple(copies))
    program, constants = assemble(planned, plan, target, registry)
    return Planned(planned, structure, plan, slots, program, constants)
