"""What commands cost: time by engine, bytes moved, and the whole program with engines side by side.

The formulas are ours: every amount of `work.py` has one price, and the prices follow from the figures of a machine
(`targets/machines.json`), of which those that are not public are fitted to the published frame rates
(`experiments/ip_eval`). Time on the host is not modelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from knerex_jax.compiler.work import AMOUNTS, Work, waits, work_of
from knerex_jax.npu.isa import Buffer, Command, NpuProgram
from knerex_jax.targets.machine import MACHINES, Machine


@dataclass(frozen=True)
class CommandCost:
    """What one command asks for.

    Attributes:
      seconds: of its engine, alone.
      work: the amounts.
    """

    seconds: float
    work: Work

    @property
    def engine(self) -> str:
        """Who runs it."""
        return self.work.engine

    @property
    def moved(self) -> int:
        """Bytes to or from DRAM."""
        return self.work.moved

    @property
    def products(self) -> int:
        """Multiplications."""
        return self.work.products


@dataclass(frozen=True)
class Estimate:
    """A whole program.

    Attributes:
      seconds: with engines side by side, each in order, waiting for what it needs; `exposed` of what this hides of
        the time one after the other is added again.
      serial_seconds: computation and data movement one after the other; weights are loaded meanwhile.
      costs: of every command.
      finish: of every command side by side, in seconds from the start.
    """

    seconds: float
    serial_seconds: float
    costs: tuple[CommandCost, ...] = field(repr=False)
    finish: tuple[float, ...] = field(repr=False)

    def moved(self, *engines: str) -> int:
        """Bytes that these engines move."""
        return sum(c.moved for c in self.costs if c.engine in engines)


@cache
def prices(machine: Machine) -> tuple[float, ...]:
    """Seconds of one unit of every amount, in the order of `AMOUNTS`."""
    cycle = 1 / (machine.megahertz * 1e6)
    price = {
        "commands": machine.start * cycle,
        "kernels": cycle / (machine.macs * machine.sustained),
        "pointwise": cycle * machine.pointwise / (machine.macs * machine.sustained),
        "depthwise": cycle / machine.depthwise,
        "elements": cycle / machine.lanes,
        "functions": cycle / machine.functions,
        "pooled": cycle / machine.pool,
        "rearranged": cycle / machine.move,
        "read": 1e-9 / machine.rdma,
        "written": 1e-9 / machine.wdma,
        "loaded": 1e-9 / machine.getw,
    }
    return tuple(price[name] for name in AMOUNTS)


def estimate(program: NpuProgram, machine: Machine | None = None) -> Estimate:
    """Runs the clock of a program, not its arithmetic."""
    machine = machine or MACHINES[program.platform]
    costs = tuple(cost(c, program.buffers, machine) for c in program.commands)
    finish = timeline(program, costs)
    side_by_side = max(finish, default=0.0)
    serial = sum(c.seconds for c in costs if c.engine != "getw")
    return Estimate(side_by_side + machine.exposed * max(serial - side_by_side, 0.0), serial, costs, tuple(finish))


def cost(command: Command, buffers: Sequence[Buffer], machine: Machine) -> CommandCost:
    """One command alone."""
    work = work_of(command, buffers, machine.block)
    return CommandCost(sum(a * p for a, p in zip(work.amounts, prices(machine), strict=True) if a), work)


def timeline(program: NpuProgram, costs: Sequence[CommandCost]) -> list[float]:
    """When every command ends."""
    finish: list[float] = []
    before = waits(program.commands, program.buffers, [c.engine for c in costs])
    for spent, earlier in zip(costs, before, strict=True):
        finish.append(max((finish[j] for j in earlier), default=0.0) + spent.seconds)
    return finish
