"""The mode "mixbw": widths by node from measured sensitivity, within a budget for computing at 16 bits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.errors import PlanError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.mixing import mac_groups, mac_nodes, settled
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.overrides import NO_OVERRIDES, Overrides
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.request import Side, WidthRequest
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import Structure, analyse, is_weighted
from knerex_jax.refine.afford import Limit, afford
from knerex_jax.refine.sensitivity import Fixed, lean, output_noise, run_float
from knerex_jax.targets.spec import Target

_EXACT = {"mip_rel_gap": 0.0}


@dataclass(frozen=True)
class Unit:
    """Nodes whose width is one decision.

    Attributes:
      name: its first node.
      nodes: nodes that multiply.
      makers: nodes whose outputs they read, for a decision about data.
      weighted: those with weights, for a decision about weights.
      free: whether 8 bits are possible; if not, it stays at 16 and pays for it.
    """

    name: str
    nodes: tuple[str, ...]
    makers: tuple[str, ...] = ()
    weighted: tuple[str, ...] = ()
    free: bool = True

    @property
    def sides(self) -> tuple[Side, ...]:
        """What it decides about."""
        return (*(("data",) if self.makers else ()), *(("weight",) if self.weighted else ()))

    def narrow(self, request: WidthRequest, side: Side, bits: int = 8) -> WidthRequest:
        """The request with one side of this unit at other bits."""
        if side == "data":
            return replace(request, nodes={**request.nodes, **dict.fromkeys(self.makers, bits)})
        return replace(request, weight_nodes={**request.weight_nodes, **dict.fromkeys(self.weighted, bits)})


@dataclass(frozen=True)
class Candidate:
    """One side of one unit at 8 bits, everything else at 16.

    Attributes:
      side: "data" or "weight".
      nodes: nodes that multiply.
      cost: share of the model's cost that they have.
      snr_db: of the model's outputs on the samples; low means sensitive.
      bits: what it gets, 8 or 15.
    """

    side: Side
    nodes: tuple[str, ...]
    cost: float
    snr_db: float
    bits: int


@dataclass(frozen=True)
class Mixed:
    """Chosen widths.

    Attributes:
      request: to plan with.
      candidates: every measured one, the most sensitive first.
      predicted_snr: dB, of the model's outputs: what all its 8-bit sides do alone, added up.
      share: of the cost that runs at 16 bits.
      notes: where the budget could not be kept.
    """

    request: WidthRequest
    candidates: tuple[Candidate, ...]
    predicted_snr: float
    share: float
    notes: tuple[Note, ...] = ()


def choose_widths(
    model: Model,
    ranges: Ranges,
    request: WidthRequest,
    target: Target,
    inputs: Mapping[str, Any],
    *,
    sides: Collection[Side] = ("data", "weight"),
    budget: float = 0.2,
    costs: Mapping[str, float] | None = None,
    limit: Limit | None = None,
    policy: RangePolicy | None = None,
    overrides: Overrides = NO_OVERRIDES,
    registry: Mapping[str, OpDef] = REGISTRY,
    batch_size: int = 16,
) -> Mixed:
    """Gives 16 bits to the nodes whose 8 bits hurt the model's output most for what they cost.

    Every side of every unit is measured alone at 8 bits, all else at 16, with the integers of its plan. Noise adds up
    as long as it is small, so the units that get 16 bits are those with most noise in total that the budget allows.

    Args:
      model: decomposed.
      ranges: of its tensors, at both cuts.
      request: widths of what is not ranked: 15 bits, inputs and outputs of the model and the CPU included.
      target: platform with 8 and 15 bits.
      inputs: samples to measure on, name -> [N, ...] in place of the batch axis.
      sides: what is ranked; with both, a node counts as 16 bits if either its data or its weights have them.
      budget: share of the total cost that may run at 16 bits.
      costs: node -> cost; None: its multiplications (`mac_nodes`).
      limit: of the estimated time or bytes of an inference, instead of the budget.
      policy: how ranges are widened.
      overrides: what the user imposes on single tensors; a width is no decision then, but counts.
      registry: operator records.
      batch_size: samples per compiled step.

    Raises:
      PlanError: no legal plan.
      ModelError: the inputs do not fit the model.
      ConfigError: the model has no real output.
    """
    structure = analyse(model, target, registry)
    cost = dict(mac_nodes(model, structure) if costs is None else costs)
    units = make_units(model, structure, target, registry, sides, overrides.widths)
    reference = run_float(model, inputs, registry, batch_size)
    plan = partial(plan_model, model, ranges, target=target, policy=policy, overrides=overrides, registry=registry)
    base = plan(request)

    def planned(asked: WidthRequest) -> Planned:
        return plan(asked, slots=base.slots)

    plans, tried = [lean(base)], []
    for unit in units:
        for side in unit.sides if unit.free else ():
            if (made := _narrowed(unit, side, request, base, planned)) is not None:
                plans.append(made)
                tried.append((unit, side))
    noise = output_noise(plans, reference, batch_size=batch_size)
    floor, added = noise[0], dict(zip(tried, np.maximum(noise[1:] - noise[0], 0), strict=True))
    free = [u for u in units if u.free and all((u, s) in added for s in u.sides)]
    harm = {u.name: float(sum(added[u, s] for s in u.sides)) for u in free}
    prices = {u.name: sum(cost.get(n, 0) for n in u.nodes) for u in units}
    total = sum(prices.values()) or 1
    unavoidable = sum(prices[u.name] for u in units if u.name not in harm)

    def asked(wide: Collection[str]) -> WidthRequest:
        narrowed = request
        for unit in free:
            for side in unit.sides if unit.name not in wide else ():
                narrowed = unit.narrow(narrowed, side)
        return narrowed

    if limit is None:
        wide = spend(budget * total - unavoidable, {name: prices[name] for name in harm}, harm)
        notes = _notes(budget, (unavoidable + sum(prices[name] for name in wide)) / total)
    else:
        got = afford(limit, list(harm), lambda names: planned(asked(names)), lambda b, p: spend(b, p, harm))
        wide, notes = set(got.wide), got.notes(limit)
    narrow = {u.name for u in free} - wide
    candidates = [
        Candidate(s, u.nodes, prices[u.name] / total, to_db(floor + n), 8 if u.name in narrow else 15)
        for (u, s), n in added.items()
    ]
    share = (unavoidable + sum(prices[name] for name in wide)) / total
    return Mixed(
        request=asked(wide),
        candidates=tuple(sorted(candidates, key=lambda c: c.snr_db)),
        predicted_snr=to_db(floor + sum(harm[name] for name in narrow)),
        share=share,
        notes=notes,
    )


def make_units(
    model: Model, structure: Structure, target: Target, registry: Mapping[str, OpDef], sides: Collection[Side],
    pinned: Mapping[str, int],
) -> tuple[Unit, ...]:  # fmt: skip
    """The decisions there are.

    Data: nodes that read common tensors, if none of these belongs to the boundary, the CPU, a decomposed operator or a
    constant, and `pinned` (tensor -> bits) gives none 15 bits and not all of them 8. Weights: a node. Both: the nodes
    of one decision about data, and their weights.
    """
    weighted = {n.name for n in model.graph.nodes if is_weighted(n, model, registry)}
    if "data" not in sides:
        return tuple(Unit(n, (n,), weighted=(n,)) for n in mac_nodes(model, structure) if n in weighted)
    keep = settled(model, structure, cpu_nodes(model, structure, target, registry))
    units = []
    for g in mac_groups(model, structure):
        bits = {pinned.get(t) for t in g.operands}
        narrow = bits == {8}
        units.append(
            Unit(
                g.name, g.nodes, () if narrow else g.makers,
                tuple(n for n in g.nodes if n in weighted) if "weight" in sides else (),
                free=narrow or (keep.isdisjoint(g.operands) and 15 not in bits),
            )
        )  # fmt: skip
    return tuple(units)


def _narrowed(unit: Unit, side: Side, request: WidthRequest, base: Planned, planned: Any) -> Fixed | None:
    """The plan with one side of a unit at 8 bits; None where that needs a shift that does not exist."""
    try:
        return lean(planned(unit.narrow(request, side)), base)
    except PlanError:
        return None


def spend(budget: float, prices: Mapping[str, float], gains: Mapping[str, float]) -> set[str]:
    """What to buy for the largest total gain that the budget allows."""
    names = [n for n in prices if gains[n] > 0 and prices[n] <= budget]
    if not names:
        return set()
    # Gains span many orders of magnitude: in units of the largest one the solver's tolerances do no harm.
    gain = np.asarray([gains[n] for n in names]) / max(gains[n] for n in names)
    unit = budget or 1
    limit = LinearConstraint(np.asarray([[prices[n] / unit for n in names]]), ub=budget / unit)
    bought = milp(-gain, constraints=limit, integrality=np.ones(len(names)), bounds=Bounds(0, 1), options=_EXACT)
    return {n for n, taken in zip(names, bought.x, strict=True) if taken > 0.5}


def to_db(noise: float) -> float:
    """SNR in dB of relative noise."""
    return float("inf") if noise <= 0 else -10 * float(np.log10(noise))


def _notes(budget: float, share: float) -> tuple[Note, ...]:
    if share <= budget:
        return ()
    why = (
        "nodes that read inputs of the model, what the CPU or decomposed operators make, or what quan_config gives 16 "
        "bits, stay at 16 bits"
    )
    return (Note("flops_ratio", f"{budget:g}", f"{share:.3f}", why),)


def write_candidates(candidates: Sequence[Candidate], folder: Path) -> tuple[Path, ...]:
    """Writes what was measured: `data/sensitivity.json` and `weight/sensitivity.json`, the most sensitive first."""
    written = []
    for side in sorted({c.side for c in candidates}):
        path = folder / side / "sensitivity.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(c) for c in candidates if c.side == side]
        path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        written.append(path)
    return tuple(written)
