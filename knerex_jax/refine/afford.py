"""A limit on what an inference may take, in milliseconds or bytes of the cost model, and what can be had within it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from knerex_jax.compiler.build import Request, compile_program
from knerex_jax.compiler.cost import estimate
from knerex_jax.errors import PlanError
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.planner import Planned
from knerex_jax.targets.machine import Machine

ROUNDS = 6
"""Costs of single decisions do not quite add up: so often the budget is lowered by what the last choice exceeded it."""


@dataclass(frozen=True)
class Limit:
    """What an inference may take at most.

    Attributes:
      option: the user's, "max_ms" or "max_mb".
      value: in its unit.
      machine: whose figures count.
      host: nodes that the platform leaves to its processor.
    """

    option: Literal["max_ms", "max_mb"]
    value: float
    machine: Machine
    host: tuple[str, ...] = ()

    def measure(self, planned: Planned) -> float:
        """Estimated milliseconds, or 10**6 bytes between DRAM and chip, of a compiled plan."""
        request = Request(planned.program, planned.constants, host=self.host, machine=self.machine)
        found = estimate(compile_program(request).program, self.machine)
        return found.seconds * 1e3 if self.option == "max_ms" else sum(c.moved for c in found.costs) / 1e6


@dataclass(frozen=True)
class Afforded:
    """What a limit allows.

    Attributes:
      wide: decisions for 16 bits.
      prices: decision -> what it alone adds to `least`.
      least: of an inference with none of them.
      reached: with those that were taken.
    """

    wide: frozenset[str]
    prices: Mapping[str, float]
    least: float
    reached: float

    def notes(self, limit: Limit) -> tuple[Note, ...]:
        """Whether the limit can be kept at all."""
        if self.least <= limit.value:
            return ()
        why = "that is what 8 bits take wherever they are possible"
        return (Note(limit.option, f"{limit.value:g}", f"{self.least:.4g}", why),)


def afford(
    limit: Limit,
    names: Sequence[str],
    planned: Callable[[frozenset[str]], Planned],
    choose: Callable[[float, Mapping[str, float]], set[str]],
) -> Afforded:
    """The best choice that keeps a limit, by the compiled program.

    Args:
      limit: of time or bytes.
      names: decisions.
      planned: the plan in which these decisions get 16 bits.
      choose: (budget, decision -> price) -> what to take.
    """
    least = limit.measure(planned(frozenset()))
    prices = {}
    for name in names:
        try:
            prices[name] = max(limit.measure(planned(frozenset((name,)))) - least, 0.0)
        except PlanError:  # it has no legal plan alone
            continue
    budget = limit.value - least
    for _ in range(ROUNDS if budget > 0 else 0):
        wide = frozenset(choose(budget, prices))
        reached = limit.measure(planned(wide))
        if reached <= limit.value:
            return Afforded(wide, prices, least, reached)
        budget -= reached - limit.value
        if budget <= 0:
            break
    return Afforded(frozenset(), prices, least, least)
