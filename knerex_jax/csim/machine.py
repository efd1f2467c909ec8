"""The machine: memories, and commands that run on them one after the other."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from knerex_jax.csim.elementwise import activate, align, mul, table
from knerex_jax.csim.host import island, lookup
from knerex_jax.csim.layout import addresses, element_bytes, load, store
from knerex_jax.csim.mac import mac, matmul
from knerex_jax.csim.memory import Memory
from knerex_jax.csim.move import move
from knerex_jax.csim.window import interp, max_pool, pool_sum
from knerex_jax.errors import SimulationError
from knerex_jax.npu.isa import Buffer, Command, Compute, Constant, Dma, Load, NpuProgram, Port, Tile
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Interp,
    Island,
    Lookup,
    Mac,
    MatMul,
    MaxPool,
    Move,
    Mul,
    PoolSum,
    Table,
)

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]

_WIDTHS = {"int8": 1, "int16": 2, "int32": 4, "int64": 8}


class Machine:
    """One program on its memories.

    Attributes:
      program: what runs.
      memories: name -> memory.
    """

    def __init__(self, program: NpuProgram, weight: bytes) -> None:
        """Checks that nothing that lives at the same time overlaps.

        Raises:
          SimulationError: it does, or the weight segment has another size.
        """
        self.program = program
        self.memories = {name: Memory(name, size) for name, size in program.sizes}
        self.memories["weight"].fill(weight)
        self._spans = [self._span(b) for b in program.buffers]
        self._check_overlaps()
        self._last = {t: self._last_write(n) for t, n in program.tensors}

    def run(
        self, inputs: Mapping[str, bytes], *, taps: Collection[str] = (), progress: Progress | None = None
    ) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
        """Runs all commands on one sample.

        Args:
          inputs: name -> bytes of its buffer, as a driver lays them out.
          taps: tensors of `program.tensors` wanted, too.
          progress: called with (commands run, commands).

        Returns:
          Name of an output -> bytes of its buffer (0 where nothing is written); and the taps, codes as int32, plain
          values as they are.

        Raises:
          SimulationError: with the number of the command and the nodes it stands for.
        """
        for name, memory in self.memories.items():
            if name != "weight":
                memory.forget(0, len(memory.data))
        for port in self.program.inputs:
            data = np.frombuffer(inputs[port.name], np.uint8)
            buffer = self.program.buffers[port.buffer]
            self.memories[buffer.memory].write(buffer.offset + np.arange(len(data)), data)
        after: dict[int, list[str]] = {}
        for t in taps:
            after.setdefault(self._last[t], []).append(t)
        numbers = dict(self.program.tensors)
        found = {t: self._whole(numbers[t]) for t in after.get(-1, ())}
        for k, command in enumerate(self.program.commands):
            try:
                self._step(k, command)
            except SimulationError as error:
                raise SimulationError(
                    error.what, where=f"command {k}, {_name(command)}: {error.where}", fix=error.fix
                ) from error
            found |= {t: self._whole(numbers[t]) for t in after.get(k, ())}
            if progress is not None:
                progress(k + 1, len(self.program.commands))
        for port in self.program.outputs:
            self._whole(port.buffer)  # every byte of it has to be there
        return {port.name: self._raw(port.buffer) for port in self.program.outputs}, found

    def _step(self, k: int, command: Command) -> None:
        match command:
            case Dma(source=source, target=target):
                self._check_transfer(k, source, target)
                self._store(self._buffer(k, target), _box(target), self._load(self._buffer(k, source), _box(source)))
            case Load():
                data = self.memories["weight"].read(np.arange(command.source, command.source + command.size))
                self.memories["sram"].write(np.arange(command.target, command.target + command.size), data)
            case Compute():
                self._compute(k, command)

    def _compute(self, k: int, command: Compute) -> None:
        i = command.instruction
        on_chip = command.engine != "host" and not isinstance(i, Move)
        for tile in (*command.operands, *command.results):
            if on_chip and self.program.buffers[tile.buffer].memory != "sram":
                raise SimulationError("a part is not on chip", where=i.name, fix="compile again")
        operands = [self._load(self._buffer(k, t), _box(t)) for t in command.operands]
        constants = {c.name: self._constant(c) for c in command.constants}
        made = self._results(command, operands, constants)
        for tile, value in zip(command.results, made, strict=True):
            box = _box(tile)
            shape = tuple(b - a for a, b in box)
            self._store(self._buffer(k, tile), box, np.asarray(value).reshape(shape))

    def _results(self, command: Compute, operands: list[np.ndarray], constants: Arrays) -> Sequence[np.ndarray]:
        i = command.instruction
        if isinstance(i, Island):
            buffers = [self.program.buffers[t.buffer] for t in command.results]
            bits = {t: b.bits for t, b in zip(i.outputs, buffers, strict=True) if b.bits}
            return island(i, dict(zip(i.inputs, operands, strict=True)), constants, bits)
        shape = tuple(b - a for a, b in _box(command.results[0]))
        match i:
            case Mac():
                return [mac(i, operands[0], constants, shape)]
            case MatMul():
                return [matmul(i, operands[0], operands[1], constants)]
            case Activate():
                return [activate(i, operands[0], constants)]
            case Table():
                return [table(i, operands[0], constants)]
            case Align():
                return [align(i, operands, constants)]
            case Mul():
                return [mul(i, operands[0], operands[1], constants)]
            case PoolSum():
                return [pool_sum(i, operands[0], constants, shape)]
            case MaxPool():
                return [max_pool(i, operands[0], constants, shape)]
            case Interp():
                return [interp(i, operands[0], constants)]
            case Move():
                return [move(i, operands, constants)]
            case Lookup():
                return [lookup(i, operands, constants)]
        raise SimulationError("no rule for it", where=type(i).__name__, fix="use the simulator of its version")

    def _constant(self, c: Constant) -> np.ndarray:
        count = int(np.prod(c.shape, dtype=np.int64))
        memory = self.memories[c.memory]
        if c.dtype == "int4":
            pairs = memory.read(np.arange(c.offset, c.offset + (count + 1) // 2))
            codes = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count].astype(np.int64)
            return np.where(codes > 7, codes - 16, codes).reshape(c.shape)
        size = _WIDTHS.get(c.dtype) or np.dtype(c.dtype).itemsize
        raw = memory.read(np.arange(c.offset, c.offset + count * size))
        value = raw.view(np.dtype(c.dtype).newbyteorder("<")).reshape(c.shape)
        return value.astype(np.dtype(c.dtype))

    def _buffer(self, k: int, tile: Tile) -> Buffer:
        life = self.program.lifetimes[tile.buffer]
        if not life.first <= k <= life.last:
            raise SimulationError(f"buffer {tile.buffer} does not live", where="lifetimes", fix="compile again")
        return self.program.buffers[tile.buffer]

    def _load(self, buffer: Buffer, box: Sequence[tuple[int, int]]) -> np.ndarray:
        return load(self.memories[buffer.memory], buffer, self._places(buffer, box))

    def _store(self, buffer: Buffer, box: Sequence[tuple[int, int]], values: np.ndarray) -> None:
        if buffer.memory == "weight":
            raise SimulationError("writes constants", where="weight", fix="compile again")
        store(self.memories[buffer.memory], buffer, self._places(buffer, box), values)

    def _places(self, buffer: Buffer, box: Sequence[tuple[int, int]]) -> np.ndarray:
        return addresses(buffer, [a for a, _ in box], [b for _, b in box], self.program.platform)

    def _whole(self, number: int) -> np.ndarray:
        buffer = self.program.buffers[number]
        values = self._load(buffer, _all(buffer))
        return values.astype(np.int32) if buffer.bits else values

    def _raw(self, number: int) -> bytes:
        """All bytes of a buffer, to the end of its last line."""
        buffer, (start, end) = self.program.buffers[number], self._spans[number]
        stop = end if buffer.format == "RAW" else start + -(-(end - start) // 16) * 16
        return self.memories[buffer.memory].data[start:stop].tobytes()

    def _check_transfer(self, k: int, source: Tile, target: Tile) -> None:
        a, b = self._buffer(k, source), self._buffer(k, target)
        if (a.memory == "sram") == (b.memory == "sram"):
            raise SimulationError("a transfer within one side", where=f"{a.memory} to {b.memory}", fix="compile again")
        if (a.format, a.bits, a.dtype) != (b.format, b.bits, b.dtype):
            raise SimulationError(f"{a.format} to {b.format}", where="transfer", fix="compile again")
        if [q - p for p, q in _box(source)] != [q - p for p, q in _box(target)]:
            raise SimulationError("boxes of different shapes", where="transfer", fix="compile again")
        for buffer, tile in ((a, source), (b, target)):
            if not _at_an_entry(buffer, tile.start):
                raise SimulationError(f"begins within an entry: {tile.start}", where=buffer.format, fix="compile again")

    def _last_write(self, number: int) -> int:
        """Place of the last command that writes a buffer; -1 for inputs and constants."""
        last = -1
        for k, command in enumerate(self.program.commands):
            match command:
                case Dma(target=target):
                    last = k if target.buffer == number else last
                case Compute(results=results):
                    last = k if any(t.buffer == number for t in results) else last
        return last

    def _span(self, buffer: Buffer) -> tuple[int, int]:
        """First byte of a buffer, and the one behind its last element."""
        if not all(buffer.shape):
            return buffer.offset, buffer.offset
        last = [n - 1 for n in buffer.shape]
        end = int(addresses(buffer, last, list(buffer.shape), self.program.platform).max())
        size = element_bytes(buffer) if buffer.format == "RAW" else 17 if buffer.format.endswith("HL") else 1
        return buffer.offset, end + size

    def _check_overlaps(self) -> None:
        held: dict[str, list[int]] = {}
        for n in sorted(range(len(self._spans)), key=lambda n: self.program.lifetimes[n].first):
            life, buffer = self.program.lifetimes[n], self.program.buffers[n]
            if life.last < life.first or buffer.memory == "weight":
                continue
            live = [m for m in held.get(buffer.memory, []) if self.program.lifetimes[m].last >= life.first]
            for m in live:
                if self._spans[m][0] < self._spans[n][1] and self._spans[n][0] < self._spans[m][1]:
                    raise SimulationError(
                        f"buffers {m} and {n} overlap while both live", where=buffer.memory, fix="compile again"
                    )
            held[buffer.memory] = [*live, n]


def quantize(port: Port, values: np.ndarray, bits: int) -> np.ndarray:
    """The boundary rule: float32 product, half to even, saturated.

    Raises:
      SimulationError: a value that is not finite.
    """
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise SimulationError("a value that is no number or infinite", where=port.name, fix="mend the data")
    limit = 1 << (bits - 1)
    with np.errstate(over="ignore"):
        scaled = np.rint(values * np.float32(port.factor))
    return np.clip(scaled, -limit, limit - 1).astype(np.int32)


def dequantize(port: Port, codes: np.ndarray) -> np.ndarray:
    """Codes in real units, float32."""
    return codes.astype(np.float32) * np.float32(port.inverse)


def _at_an_entry(buffer: Buffer, start: Sequence[int]) -> bool:
    rank = len(buffer.shape)
    c = buffer.axis if buffer.axis is not None else (1 if rank > 2 else rank - 1)
    others = [k for k in range(rank) if k != c]
    match buffer.format.removesuffix("HL"):
        case "1W16C8B":
            return start[c] % 16 == 0
        case "4W4C8B":
            return start[c] % 4 == 0
        case "16W1C8B":
            return not others or start[others[-1]] % 16 == 0
    return True


def _all(buffer: Buffer) -> list[tuple[int, int]]:
    return [(0, n) for n in buffer.shape]


def _box(tile: Tile) -> list[tuple[int, int]]:
    return list(zip(tile.start, tile.stop, strict=True))


def _name(command: Command) -> str:
    if isinstance(command, Compute):
        return f"{type(command.instruction).__name__.lower()} of {', '.join(command.instruction.nodes)}"
    return type(command).__name__.lower()
