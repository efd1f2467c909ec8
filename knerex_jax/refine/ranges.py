"""Range search: which rule makes the ranges, judged by what its integers give at the outputs of the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from knerex_jax.quantize.planner import Planned
from knerex_jax.refine.noise import NoiseMeter

ROUND = 4
"""Of so many plans, and on so many times the samples, one goes on to the last round."""

FEWEST = 3
"""So many go on to the last round at least."""


@dataclass(frozen=True)
class RangeSearch:
    """What the search found.

    Attributes:
      chosen: label of the best plan.
      planned: that plan.
      noise: label -> energy of the error over energy of the signal, mean over the outputs; of all samples for the plans
        of the last round, of a quarter of them for the others.
      finalists: labels of the last round, the best first.
    """

    chosen: str
    planned: Planned
    noise: Mapping[str, float]
    finalists: tuple[str, ...]


def search_ranges(
    plans: Mapping[str, Planned], meter: NoiseMeter, progress: Callable[[int, int], None] | None = None
) -> RangeSearch:
    """Measures all plans on a quarter of the samples, the best quarter of them on all, and takes the best of those.

    Plans of one program share one compiled emulator; of equals the first is taken.

    Args:
      plans: label -> plan.
      meter: samples to judge by.
      progress: called with (plans measured, plans to measure).
    """
    meter.prepare_for(list(plans.values()))
    last = max(-(-len(plans) // ROUND), min(FEWEST, len(plans)))
    noise: dict[str, float] = {}

    def measure(labels: Sequence[str], judge: NoiseMeter, before: int) -> list[str]:
        for k, label in enumerate(labels):
            noise[label] = judge(plans[label])
            if progress is not None:
                progress(before + k + 1, len(plans) + last)
        return sorted(labels, key=lambda label: noise[label])

    first = measure(list(plans), meter.part(slice(None, None, ROUND)), 0)
    finalists = measure(first[:last], meter, len(plans))
    return RangeSearch(finalists[0], plans[finalists[0]], noise, tuple(finalists))
