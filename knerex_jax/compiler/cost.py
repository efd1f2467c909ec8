"""What commands cost: time by engine, bytes moved, and the whole program with engines side by side.

The formulas are ours: bytes over bandwidth plus a start, products over multipliers, elements over lanes. Their figures
(`targets/machine.py`) are not fitted to the published frame rates yet. Time on the host is not modelled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from knerex_jax.compiler.layout import up, view
from knerex_jax.npu.isa import Buffer, Command, Compute, Dma, Load, NpuProgram, Tile
from knerex_jax.program.primitives import Interp, Mac, MatMul, MaxPool, PoolSum
from knerex_jax.targets.machine import MACHINES, Machine

START_CYCLES = 64
"""Before the first byte or product of a command."""

LANES = 16
"""Elements per cycle of what is not a product: one entry."""


@dataclass(frozen=True)
class CommandCost:
    """What one command asks for.

    Attributes:
      engine: "rdma", "wdma", "getw", "cfunc", "pfunc" or "host".
      seconds: of its engine, alone.
      moved: bytes to or from DRAM.
      products: multiplications.
    """

    engine: str
    seconds: float
    moved: int = 0
    products: int = 0


@dataclass(frozen=True)
class Estimate:
    """A whole program.

    Attributes:
      seconds: with engines side by side, each in order, waiting for what it needs.
      serial_seconds: one command after the other.
      costs: of every command.
      finish: of every command, in seconds from the start.
    """

    seconds: float
    serial_seconds: float
    costs: tuple[CommandCost, ...] = field(repr=False)
    finish: tuple[float, ...] = field(repr=False)

    def moved(self, *engines: str) -> int:
        """Bytes that these engines move."""
        return sum(c.moved for c in self.costs if c.engine in engines)


def estimate(program: NpuProgram, machine: Machine | None = None) -> Estimate:
    """Runs the clock of a program, not its arithmetic."""
    machine = machine or MACHINES[program.platform]
    costs = tuple(cost(c, program.buffers, machine) for c in program.commands)
    finish = _timeline(program, costs)
    return Estimate(max(finish, default=0.0), sum(c.seconds for c in costs), costs, tuple(finish))


def cost(command: Command, buffers: Sequence[Buffer], machine: Machine) -> CommandCost:
    """One command alone."""
    start = START_CYCLES / (machine.megahertz * 1e6)
    match command:
        case Load(size=size):
            return CommandCost("getw", start + size / (machine.getw * 1e9), size)
        case Dma(source=source, target=target):
            size = tile_bytes(source, buffers[source.buffer])
            reads = buffers[target.buffer].memory == "sram"
            rate = machine.rdma if reads else machine.wdma
            return CommandCost("rdma" if reads else "wdma", start + size / (rate * 1e9), size)
        case Compute(engine="host"):
            return CommandCost("host", 0.0)
        case Compute():
            cycles, products = _work(command, machine)
            seconds, moved = start + cycles / (machine.megahertz * 1e6), 0
            for tile, rate in _in_dram(command, buffers, machine):
                size = tile_bytes(tile, buffers[tile.buffer])
                moved += size
                seconds += size / (rate * 1e9)
            return CommandCost(command.engine, seconds, moved, products)


def tile_bytes(tile: Tile, buffer: Buffer) -> int:
    """Bytes of the entries that a box touches."""
    shape = tuple(b - a for a, b in zip(tile.start, tile.stop, strict=True))
    if buffer.format == "RAW":
        return prod(shape) * (8 if not buffer.bits else 1 if buffer.bits == 8 else 2)
    c, h, w = view(shape, buffer.axis)
    size = {"1W16C8B": up(c, 16) * h * w, "16W1C8B": c * h * up(w, 16), "4W4C8B": up(c, 4) * h * up(w, 4)}
    return size[buffer.format.removesuffix("HL")] * (1 if buffer.bits == 8 else 2)


def _in_dram(command: Compute, buffers: Sequence[Buffer], machine: Machine) -> Iterator[tuple[Tile, float]]:
    """Tiles that data movement reads and writes in DRAM itself, with the rate."""
    for tile in command.operands:
        if buffers[tile.buffer].memory != "sram":
            yield tile, machine.rdma
    for tile in command.results:
        if buffers[tile.buffer].memory != "sram":
            yield tile, machine.wdma


def _work(command: Compute, machine: Machine) -> tuple[float, int]:
    """Cycles and multiplications of a part."""
    i = command.instruction
    made = sum(prod(b - a for a, b in zip(t.start, t.stop, strict=True)) for t in command.results)
    read = [prod(b - a for a, b in zip(t.start, t.stop, strict=True)) for t in command.operands]
    products = 0
    if isinstance(i, Mac) and i.kind != "diagonal":
        weight = next(c for c in command.constants if c.name == "weight").shape
        positions = read[0] if i.kind == "conv_transpose" else made
        products = positions * prod(weight[1:])
        if i.kind == "conv_transpose":
            products = positions * prod(weight) // weight[0]
        pace = machine.macs * (0.5 if i.x_bits == 15 else 1.0) * (0.5 if i.weight_bits == 15 else 1.0)
        return max(products / pace, made / LANES), products
    if isinstance(i, MatMul):
        last = command.operands[0]
        products = made * (last.stop[-1] - last.start[-1])
        pace = machine.macs * (0.5 if 15 in i.x_bits else 1.0)
        return max(products / pace, made / LANES), products
    if isinstance(i, Interp):
        taps = prod(c.shape[-1] for c in command.constants if c.name.startswith("weight"))
        return made * taps / LANES, made * taps
    if isinstance(i, MaxPool | PoolSum):
        return (made * prod(i.window.kernel) if i.window else sum(read)) / LANES, 0
    return max(made, *read) / LANES, 0


def _timeline(program: NpuProgram, costs: Sequence[CommandCost]) -> list[float]:
    """When every command ends: engines run in order, side by side, and wait for data and for room."""
    free: dict[str, float] = {}
    written = [0.0] * len(program.buffers)  # when the last writer of a buffer ends
    used = [0.0] * len(program.buffers)  # when the last command on it ends
    room = _Room(program)
    finish = []
    loaded: dict[int, int] = {}  # offset on chip -> buffer of the constants there
    for command, spent in zip(program.commands, costs, strict=True):
        reads, writes = _tiles(command)
        if isinstance(command, Load):
            loaded[command.target] = command.buffer
        if isinstance(command, Compute) and spent.engine != "host" and command.constants[:1]:
            first = command.constants[0]
            reads += [loaded[first.offset]] if first.memory == "sram" else []
        ready = [written[n] for n in reads] + [max(used[n], room.free_at(n, used)) for n in writes]
        end = max([free.get(spent.engine, 0.0), *ready]) + spent.seconds
        free[spent.engine] = end
        for n in (*reads, *writes):
            used[n] = max(used[n], end)
        for n in writes:
            written[n] = end
        finish.append(end)
    return finish


def _tiles(command: Command) -> tuple[list[int], list[int]]:
    """Numbers of the buffers that a command reads and writes."""
    match command:
        case Dma(source=source, target=target):
            return [source.buffer], [target.buffer]
        case Load(buffer=buffer):
            return [], [buffer]
        case Compute(operands=operands, results=results):
            return [t.buffer for t in operands], [t.buffer for t in results]


class _Room:
    """Who held the bytes of a buffer on chip before."""

    def __init__(self, program: NpuProgram) -> None:
        self.program = program
        self.held: list[tuple[int, int, int]] = []  # (offset, end, buffer)
        self.known: set[int] = set()

    def free_at(self, number: int, used: Sequence[float]) -> float:
        """When those that held these bytes are done with them."""
        buffer = self.program.buffers[number]
        if buffer.memory != "sram" or number in self.known:
            return 0.0
        self.known.add(number)
        c, h, w = view(buffer.shape, buffer.axis)
        size = up(c, 16) * h * up(w, 16 if buffer.format.startswith("16W") else 1) * (2 if buffer.bits == 15 else 1)
        start, end = buffer.offset, buffer.offset + size
        before = [n for a, b, n in self.held if a < end and start < b]
        self.held = [r for r in self.held if not (start <= r[0] and r[1] <= end)] + [(start, end, number)]
        return max((used[n] for n in before), default=0.0)
