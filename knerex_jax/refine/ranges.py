"""Range search: which rule makes the ranges, judged by the integers on samples that no range was measured on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.noise import NoiseMeter


@dataclass(frozen=True)
class RangeSearch:
    """What the search found.

    Attributes:
      chosen: label of the best plan.
      planned: that plan.
      noise: label -> energy of the error over energy of the signal, mean over the outputs.
    """

    chosen: str
    planned: Planned
    noise: Mapping[str, float]


def search_ranges(
    plans: Mapping[str, Planned], meter: NoiseMeter, progress: Callable[[int, int], None] | None = None
) -> RangeSearch:
    """Measures all plans and takes the best; of equals the first.

    Plans of one program share one compiled emulator.

    Args:
      plans: label -> plan.
      meter: samples that the ranges of no plan rest on.
      progress: called with (plans measured, plans).
    """
    for same in _by_program(list(plans.values())):
        meter.prepare_for(same)
    noise = {}
    for label, planned in plans.items():
        noise[label] = meter(planned)
        if progress is not None:
            progress(len(noise), len(plans))
    chosen = min(noise, key=lambda label: noise[label])
    return RangeSearch(chosen, plans[chosen], noise)


def _by_program(plans: Sequence[Planned]) -> list[list[Planned]]:
    groups: dict[object, list[Planned]] = {}
    for planned in plans:
        groups.setdefault(planned.program, []).append(planned)
    return list(groups.values())
