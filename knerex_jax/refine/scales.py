"""Scale search: ranges chosen for what they cost at the outputs of the model, in its integers.

The range of a channel decides two things at once: the step of its codes, and, since weights absorb the scales of what
they read, how finely the weights behind it are rounded. Which matters more differs from tensor to tensor. Two numbers
per group of tensors that share scales are searched: the guard of small channels, and a factor on all ranges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.overrides import Overrides
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import Structure
from knerex_jax.refine.noise import NoiseMeter
from knerex_jax.refine.split import held_out
from knerex_jax.targets.spec import Target

GUARDS = (0, 1, 2, 3, 4, 8)
FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1)

_LEAST_GAIN = 0.01
"""A change has to lower the noise by this share: less is chance."""


@dataclass(frozen=True)
class Setting:
    """How the ranges of a group are made: guarded at `layer * 2**-guard_bits`, then times `factor`."""

    guard_bits: int
    factor: float


@dataclass(frozen=True)
class ScaleSearch:
    """What the search found.

    Attributes:
      planned: the best plan by held-out noise: the given one, that of the best single setting, or that of all settings.
      overrides: the ranges that give it; empty where the given plan was best.
      settings: group (its first tensor) -> setting after the descent.
      single: the best setting for all groups alike.
      noise: held-out noise at the outputs, 1 / SNR, of "given", "single" and "each".
      chosen: which of these `planned` is.
    """

    planned: Planned
    overrides: Overrides
    settings: Mapping[str, Setting]
    single: Setting
    noise: Mapping[str, float]
    chosen: str


def search_scales(
    model: Model,
    ranges: Ranges,
    request: WidthRequest,
    inputs: Mapping[str, np.ndarray],
    *,
    target: Target,
    policy: RangePolicy | None = None,
    registry: Mapping[str, OpDef] = REGISTRY,
    descend: bool = True,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> ScaleSearch:
    """Searches one setting for all groups, then group by group in topological order.

    About ten plans are made and emulated for the single setting, and ten more for every group.

    Args:
      model: decomposed and bound.
      ranges: as measured.
      request: widths.
      inputs: name -> [N, ...] in place of the batch axis; one of every four samples judges, the others are searched on.
      target: platform.
      policy: how ranges are widened where nothing is searched.
      registry: operator records.
      descend: whether to search group by group, too.
      batch_size: samples per compiled step.
      progress: called with (groups searched, groups).

    Raises:
      PlanError: the given ranges have no legal plan.
      ConfigError: no output is a real number.
    """
    policy = policy or RangePolicy()
    base = plan_model(model, ranges, request, target, policy=policy, registry=registry)
    judged = held_out(np.arange(len(next(iter(inputs.values())))))
    meter = NoiseMeter.of(model, inputs, registry, batch_size)
    learn, judge = meter.part(~judged), meter.part(judged)
    groups = free_groups(base.structure, ranges)

    def plan(settings: Mapping[str, Setting]) -> Planned:
        chosen = setting_overrides(settings, groups, base, ranges, policy)
        return plan_model(
            model, ranges, request, target, policy=policy, slots=base.slots, overrides=chosen, registry=registry
        )

    def best(settings: Mapping[str, Setting], names: Sequence[str], noise: float) -> tuple[dict[str, Setting], float]:
        """The best guard, then the best factor, of some groups alike."""
        kept = dict(settings)
        for candidates in ([("guard_bits", g) for g in GUARDS], [("factor", f) for f in FACTORS]):
            found = dict(kept)
            for key, value in candidates:
                tried = {**kept, **{n: replace(kept[n], **{key: value}) for n in names}}
                if tried != kept and (n := learn(plan(tried))) < noise * (1 - _LEAST_GAIN):
                    found, noise = tried, n
            kept = found
        return kept, noise

    start = dict.fromkeys(groups, Setting(policy.guard_bits, 1.0))
    single, noise = best(start, tuple(groups), learn(base))
    each = single
    for k, name in enumerate(groups if descend else ()):
        each, noise = best(each, (name,), noise)
        if progress is not None:
            progress(k + 1, len(groups))
    plans = {"given": base, "single": plan(single), "each": plan(each)}
    held = {key: judge(p) for key, p in plans.items()}
    chosen = min(held, key=lambda key: held[key])
    settings = {"given": {}, "single": single, "each": each}[chosen]
    common = next(iter(single.values()), Setting(policy.guard_bits, 1.0))
    overrides = setting_overrides(settings, groups, base, ranges, policy)
    return ScaleSearch(plans[chosen], overrides, each, common, held, chosen)


def free_groups(structure: Structure, ranges: Ranges) -> dict[str, tuple[str, ...]]:
    """Tensors that share scales, by the first of them, in topological order.

    Model outputs keep their range, and so does what reaches one by data movement alone.
    """
    found: list[tuple[set[int], list[str]]] = []
    for t in structure.tensors:
        if t not in ranges.tensors or t in structure.leaving or t in structure.hidden:
            continue
        mine, members = {int(c) for c in structure.classes[t]}, [t]
        for other in [g for g in found if not mine.isdisjoint(g[0])]:
            found.remove(other)
            mine, members = mine | other[0], other[1] + members
        found.append((mine, members))
    order = {t: k for k, t in enumerate(structure.tensors)}
    sorted_groups = sorted((sorted(members, key=order.__getitem__) for _, members in found), key=lambda m: order[m[0]])
    return {members[0]: tuple(members) for members in sorted_groups}


def setting_overrides(
    settings: Mapping[str, Setting],
    groups: Mapping[str, tuple[str, ...]],
    base: Planned,
    ranges: Ranges,
    policy: RangePolicy,
) -> Overrides:
    """The ranges that settings stand for. Groups that are set as the policy would have it are left to it."""
    usual = Setting(policy.guard_bits, 1.0)
    absmax = {
        t: _absmax(t, setting, base, ranges, policy)
        for name, setting in settings.items()
        if setting != usual
        for t in groups[name]
    }
    return Overrides(low={t: -a for t, a in absmax.items()}, high=absmax)


def _absmax(tensor: str, setting: Setting, base: Planned, ranges: Ranges, policy: RangePolicy) -> np.ndarray:
    """The guarded range, float64 [C] or [1], within what the operator can give."""
    record, bits = ranges[tensor], base.plan.formats[tensor].bits
    own = np.asarray(record.channel_absmax(bits), np.float64)
    layer = np.full(1, max(record.layer_absmax(bits), float(own.max(initial=0))))
    whole = record.values_per_channel < policy.evidence or tensor in base.structure.layer
    absmax = layer if whole else np.maximum(own, layer * 2.0**-setting.guard_bits)
    absmax = absmax * (setting.factor * 2.0 ** policy.headroom_bits[bits])
    return np.minimum(absmax, base.structure.bounds.get(tensor, np.inf))
