"""How much of what a command asks for, in amounts that only the command decides; `cost.py` puts a price on each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from knerex_jax.compiler.layout import up, view
from knerex_jax.npu.isa import Buffer, Command, Compute, Constant, Dma, Load, Tile
from knerex_jax.program.primitives import Interp, Mac, MatMul, MaxPool, Move, Mul, PoolSum, Table
from knerex_jax.targets.machine import GRANULE

AMOUNTS = (
    "commands", "kernels", "pointwise", "depthwise", "elements", "functions", "pooled", "rearranged", "read", "written",
    "loaded",
)  # fmt: skip
"""What has a price: commands; multiplications of convolutions with the granule filled up (of larger kernels, of 1 x 1,
of single channels); elements that are summed, compared or interpolated; elements that go through a table or a product
(an activation such as Swish); elements under the windows of poolings; bytes rearranged, read, written and loaded."""


@dataclass(frozen=True)
class Work:
    """One command.

    Attributes:
      engine: "rdma", "wdma", "getw", "cfunc", "pfunc" or "host".
      amounts: in the order of `AMOUNTS`; all 0 on the host.
      products: multiplications that the arithmetic needs.
    """

    engine: str
    amounts: tuple[float, ...]
    products: int = 0

    @property
    def moved(self) -> int:
        """Bytes to or from DRAM."""
        return int(sum(self.amounts[-3:]))


def work_of(command: Command, buffers: Sequence[Buffer], block: int) -> Work:
    """What a command asks for.

    Args:
      command: of a program.
      buffers: of the program.
      block: taps of a side that a kernel is rounded up to.
    """
    match command:
        case Load(size=size):
            return Work("getw", _amounts(commands=1, loaded=size))
        case Dma(source=source, target=target):
            size = tile_bytes(source, buffers[source.buffer])
            if buffers[target.buffer].memory == "sram":
                return Work("rdma", _amounts(commands=1, read=size))
            return Work("wdma", _amounts(commands=1, written=size))
        case Compute(engine="host"):
            return Work("host", _amounts())
        case Compute():
            read, written = (
                sum(tile_bytes(t, buffers[t.buffer]) for t in side if buffers[t.buffer].memory != "sram")
                for side in (command.operands, command.results)
            )
            streamed = sum(constant_bytes(c) for c in command.constants if c.memory == "weight")
            own, products = _computed(command, block)
            if isinstance(command.instruction, Move):
                sides = (command.operands, command.results)
                own = {"rearranged": max(sum(tile_bytes(t, buffers[t.buffer]) for t in side) for side in sides)}
            return Work(
                command.engine, _amounts(commands=1, read=read, written=written, loaded=streamed, **own), products
            )


def _amounts(**given: float) -> tuple[float, ...]:
    return tuple(given.get(name, 0) for name in AMOUNTS)


def tile_bytes(tile: Tile, buffer: Buffer) -> int:
    """Bytes of the entries that a box touches."""
    shape = extent(tile)
    if buffer.format == "RAW":
        return prod(shape) * (8 if not buffer.bits else 1 if buffer.bits == 8 else 2)
    c, h, w = view(shape, buffer.axis)
    size = {"1W16C8B": up(c, 16) * h * w, "16W1C8B": c * h * up(w, 16), "4W4C8B": up(c, 4) * h * up(w, 4)}
    return size[buffer.order] * (1 if buffer.bits == 8 else 2)


def constant_bytes(constant: Constant) -> int:
    """Bytes of a constant, in whole entries."""
    bits = {"int4": 4, "int8": 8, "int16": 16, "int32": 32}.get(constant.dtype, 64)
    return up(-(-prod(constant.shape) * bits // 8), 16)


def extent(tile: Tile) -> tuple[int, ...]:
    """Shape of a box."""
    return tuple(b - a for a, b in zip(tile.start, tile.stop, strict=True))


def _computed(command: Compute, block: int) -> tuple[dict[str, float], int]:
    """Amounts of a computation, and its multiplications."""
    i = command.instruction
    made = sum(prod(extent(t)) for t in command.results)
    read = [prod(extent(t)) for t in command.operands]
    if isinstance(i, Mac) and i.kind != "diagonal":
        return _convolved(command, i, block)
    if isinstance(i, MatMul):
        rows, columns = extent(command.results[0])[:-1], extent(command.results[0])[-1]
        depth = extent(command.operands[0])[-1]
        return {"pointwise": planes(*i.x_bits) * _padded(prod(rows), 1, 1, depth, columns)}, made * depth
    if isinstance(i, Interp):
        taps = prod(c.shape[-1] for c in command.constants if c.name.startswith("weight"))
        return {"elements": made * taps}, made * taps
    if isinstance(i, MaxPool | PoolSum):
        return {"pooled": made * prod(i.window.kernel) if i.window else sum(read)}, 0
    return {"functions" if isinstance(i, Table | Mul) else "elements": max(made, *read)}, 0


def planes(x_bits: int, weight_bits: int) -> float:
    """How many products of bytes a product takes: 15-bit operands are split in two, 4-bit weights go in pairs."""
    return (2 if x_bits == 15 else 1) * {4: 0.5, 8: 1, 15: 2}[weight_bits]


def _convolved(command: Compute, i: Mac, block: int) -> tuple[dict[str, float], int]:
    """A convolution or a dense product."""
    weight = next(c for c in command.constants if c.name == "weight").shape
    made = extent(command.results[0])
    parts = planes(i.x_bits, i.weight_bits)
    if i.kind == "dense":
        return {"pointwise": parts * _padded(prod(made[:-1]), 1, 1, weight[1], made[-1])}, prod(made) * weight[1]
    h, w = made[0] * prod(made[2:-1]), made[-1]
    kernel, deep, out = weight[2:], weight[1] if i.kind == "conv" else weight[0] // i.group, made[1] // i.group
    if i.kind == "conv":
        products = prod(made) * prod(weight[1:])
    else:
        products = prod(extent(command.operands[0])) * prod(weight) // weight[0]
    if deep == 1 and out == 1 and i.group > 1:
        return {"depthwise": parts * h * up(w, GRANULE[2]) * prod(kernel) * up(made[1], GRANULE[0])}, products
    if prod(kernel) == 1:
        return {"pointwise": parts * i.group * _padded(h, w, 1, deep, out)}, products
    taps = prod(up(k, block) for k in kernel)
    # A transposed convolution runs over the picture with zeros filled in: its products by zero cost as much.
    return {"kernels": parts * i.group * _padded(h, w, taps, deep, out)}, products


def _padded(h: int, w: int, taps: int, deep: int, out: int) -> int:
    """Multiplications with the granule filled up; pictures of up to four channels have a layout of their own."""
    channels, outputs, columns = GRANULE
    return h * (up(w, columns) if w > 1 else 1) * taps * (4 if deep <= 4 else up(deep, channels)) * up(out, outputs)


def tiles(command: Command) -> tuple[list[int], list[int]]:
    """Numbers of the buffers that a command reads and writes."""
    match command:
        case Dma(source=source, target=target):
            return [source.buffer], [target.buffer]
        case Load(buffer=buffer):
            return [], [buffer]
        case Compute(operands=operands, results=results):
            return [t.buffer for t in operands], [t.buffer for t in results]


def touches(commands: Sequence[Command]) -> Iterator[tuple[list[int], list[int]]]:
    """Numbers of the buffers that each command reads, constants on chip included, and writes."""
    loaded: dict[int, int] = {}  # offset on chip -> buffer of the constants there
    for command in commands:
        reads, writes = tiles(command)
        if isinstance(command, Load):
            loaded[command.target] = command.buffer
        elif isinstance(command, Compute) and command.constants and command.constants[0].memory == "sram":
            reads = [*reads, loaded[command.constants[0].offset]]
        yield reads, writes


def waits(commands: Sequence[Command], buffers: Sequence[Buffer], engines: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """For every command the earlier ones that have to end first: engines run in order and wait for data and for room.

    Of each engine only the last one is named, because it ends last.
    """
    last: dict[str, int] = {}  # engine -> its command before
    writer: dict[int, int] = {}  # buffer -> command that wrote it last
    users: dict[int, dict[str, int]] = {}  # buffer -> engine -> last command on it
    room = _Room(buffers)
    for k, ((reads, writes), engine) in enumerate(zip(touches(commands), engines, strict=True)):
        before = {engine: last[engine]} if engine in last else {}
        ended = [j for n in reads if (j := writer.get(n)) is not None]
        for n in writes:
            for m in (n, *room.before(n)):
                ended += users.get(m, {}).values()
        for j in ended:
            before[engines[j]] = max(before.get(engines[j], -1), j)
        yield tuple(before.values())
        last[engine] = k
        for n in (*reads, *writes):
            users.setdefault(n, {})[engine] = k
        writer |= dict.fromkeys(writes, k)


class _Room:
    """Who held the bytes of a buffer on chip before."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._held: list[tuple[int, int, int]] = []  # (offset, end, buffer)
        self._known: set[int] = set()

    def before(self, number: int) -> list[int]:
        """Buffers that had these bytes, the first time that a buffer is asked for."""
        buffer = self._buffers[number]
        if buffer.memory != "sram" or number in self._known:
            return []
        self._known.add(number)
        c, h, w = view(buffer.shape, buffer.axis)
        size = up(c, 16) * h * up(w, 16 if buffer.format.startswith("16W") else 1) * (2 if buffer.bits == 15 else 1)
        start, end = buffer.offset, buffer.offset + size
        found = [n for a, b, n in self._held if a < end and start < b]
        self._held = [r for r in self._held if not (start <= r[0] and r[1] <= end)] + [(start, end, number)]
        return found
