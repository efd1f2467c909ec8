"""What the machine forbids: commands that do not fit their buffers, and buffers that do not fit each other."""

from collections.abc import Sequence

import numpy as np

from knerex_jax.csim.layout import byte_size
from knerex_jax.errors import SimulationError
from knerex_jax.npu.isa import Buffer, Compute, Load, NpuProgram, Tile
from knerex_jax.program.primitives import Island, Lookup, Move


def spans(program: NpuProgram) -> list[tuple[int, int]]:
    """First byte of every buffer, and the one behind its last; bytes that belong to no element included."""
    return [(b.offset, b.offset + byte_size(b, program.platform)) for b in program.buffers]


def check_places(program: NpuProgram, places: Sequence[tuple[int, int]]) -> None:
    """Buffers that live at the same time do not overlap.

    Raises:
      SimulationError: two do.
    """
    held: dict[str, list[int]] = {}
    for n in sorted(range(len(places)), key=lambda n: program.lifetimes[n].first):
        life, buffer = program.lifetimes[n], program.buffers[n]
        if life.last < life.first or buffer.memory == "weight":
            continue
        live = [m for m in held.get(buffer.memory, []) if program.lifetimes[m].last >= life.first]
        for m in live:
            if places[m][0] < places[n][1] and places[n][0] < places[m][1]:
                raise _wrong(f"buffers {m} and {n} overlap while both live", buffer.memory)
        held[buffer.memory] = [*live, n]


def check_transfer(a: Buffer, source: Tile, b: Buffer, target: Tile) -> None:
    """A Dma goes between the two sides, in one format, from the beginning of an entry to that of another.

    Raises:
      SimulationError: it does not.
    """
    if (a.memory == "sram") == (b.memory == "sram"):
        raise _wrong("a transfer within one side", f"{a.memory} to {b.memory}")
    if (a.format, a.bits, a.dtype) != (b.format, b.bits, b.dtype):
        raise _wrong(f"{a.format} to {b.format}", "transfer")
    if extent(source) != extent(target):
        raise _wrong("boxes of different shapes", "transfer")
    for buffer, tile in ((a, source), (b, target)):
        if not _at_an_entry(buffer, tile.start):
            raise _wrong(f"begins within an entry: {tile.start}", buffer.format)


def check_load(command: Load, buffer: Buffer) -> None:
    """A Load fills bytes of its own buffer.

    Raises:
      SimulationError: it writes elsewhere.
    """
    inside = buffer.offset <= command.target and command.target + command.size <= buffer.offset + int(
        np.prod(buffer.shape)
    )
    if buffer.memory != "sram" or buffer.dtype != "uint8" or buffer.format != "RAW" or not inside:
        raise _wrong(f"{command.size} bytes to {command.target}, outside of buffer {command.buffer}", "load")


def check_compute(command: Compute, operands: Sequence[Buffer], results: Sequence[Buffer]) -> None:
    """The engine reaches its tensors, and these have the widths of the instruction.

    Raises:
      SimulationError: it does not, or they have not.
    """
    i = command.instruction
    for buffer in (*operands, *results):
        if command.engine == "host" and buffer.memory == "sram":
            raise _wrong("a part on chip, which the host does not see", i.name)
        if command.engine != "host" and not isinstance(i, Move) and buffer.memory != "sram":
            raise _wrong("a part is not on chip", i.name)
    if isinstance(i, Island | Lookup):
        return
    wanted = getattr(i, "x_bits", ())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    if [b.bits for b in operands] != list(wanted) or [b.bits for b in results] != [i.bits]:
        found = ", ".join(str(b.bits) for b in (*operands, *results))
        raise _wrong(f"codes of {found} bits instead of {', '.join(map(str, (*wanted, i.bits)))}", i.name)


def extent(tile: Tile) -> tuple[int, ...]:
    """Shape of a box."""
    return tuple(b - a for a, b in zip(tile.start, tile.stop, strict=True))


def _at_an_entry(buffer: Buffer, start: Sequence[int]) -> bool:
    rank = len(buffer.shape)
    if not rank:
        return True
    c = buffer.axis if buffer.axis is not None else (1 if rank > 2 else rank - 1)
    others = [k for k in range(rank) if k != c]
    match buffer.order:
        case "1W16C8B":
            return start[c] % 16 == 0
        case "4W4C8B":
            return start[c] % 4 == 0
        case "16W1C8B":
            return not others or start[others[-1]] % 16 == 0
    return True


def _wrong(what: str, where: str) -> SimulationError:
    return SimulationError(what, where=where, fix="compile again")
