"""The machine: memories, and commands that run on them one after the other."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from knerex_jax.csim.elementwise import activate, align, mul, table
from knerex_jax.csim.host import island, lookup
from knerex_jax.csim.layout import addresses, load, store
from knerex_jax.csim.legal import check_compute, check_load, check_places, check_transfer, extent, spans
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
        self._spans = spans(program)
        check_places(program, self._spans)
        self._constants: list[int] = []  # buffers of constants that live
        self._born: dict[int, list[int]] = {}
        for n, life in enumerate(program.lifetimes):
            self._born.setdefault(life.first, []).append(n)
        self._last = {t: self._last_write(n) for t, n in program.tensors}

    def run(
        self,
        inputs: Mapping[str, bytes],
        *,
        taps: Collection[str] = (),
        sink: Callable[[str, np.ndarray], None] | None = None,
        progress: Progress | None = None,
    ) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
        """Runs all commands on one sample.

        Args:
          inputs: name -> bytes of its buffer, as a driver lays them out.
          taps: tensors of `program.tensors` wanted, too.
          sink: called with each tap once it is complete, and takes it; without, they are collected.
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
        self._constants = []
        for port in self.program.inputs:
            data = np.frombuffer(inputs[port.name], np.uint8)
            start, stop = self._spans[port.buffer]
            if len(data) != stop - start:
                raise SimulationError(
                    f"{len(data)} bytes for a buffer of {stop - start}",
                    where=port.name,
                    fix="lay it out as ioinfo says",
                )
            self.memories[self.program.buffers[port.buffer].memory].write(np.arange(start, stop), data)
        after: dict[int, list[str]] = {}
        for t in taps:
            after.setdefault(self._last[t], []).append(t)
        numbers = dict(self.program.tensors)
        found: dict[str, np.ndarray] = {}
        take = found.__setitem__ if sink is None else sink
        for t in after.get(-1, ()):
            take(t, self._whole(numbers[t]))
        for k, command in enumerate(self.program.commands):
            try:
                self._begin(k)
                self._step(k, command)
            except SimulationError as error:
                raise SimulationError(
                    error.what, where=f"command {k}, {_name(command)}: {error.where}", fix=error.fix
                ) from error
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # what numpy and onnx object to
                raise SimulationError(
                    f"{type(error).__name__}: {error}", where=f"command {k}, {_name(command)}", fix="compile again"
                ) from error
            for t in after.get(k, ()):
                take(t, self._whole(numbers[t]))
            if progress is not None:
                progress(k + 1, len(self.program.commands))
        return {port.name: self._output(port) for port in self.program.outputs}, found

    def _begin(self, k: int) -> None:
        """What lay where a life begins means nothing any more."""
        self._constants = [n for n in self._constants if self.program.lifetimes[n].last >= k]
        for n in self._born.get(k, ()):
            buffer = self.program.buffers[n]
            if buffer.memory != "weight":
                self.memories[buffer.memory].forget(*self._spans[n])
            if buffer.memory == "sram" and buffer.dtype == "uint8":
                self._constants.append(n)

    def _step(self, k: int, command: Command) -> None:
        match command:
            case Dma(source=source, target=target):
                a, b = self._buffer(k, source), self._buffer(k, target)
                check_transfer(a, source, b, target)
                self._store(b, _box(target), self._load(a, _box(source)))
            case Load():
                check_load(command, self._living(k, command.buffer))
                data = self.memories["weight"].read(np.arange(command.source, command.source + command.size))
                self.memories["sram"].write(np.arange(command.target, command.target + command.size), data)
            case Compute():
                self._compute(k, command)

    def _compute(self, k: int, command: Compute) -> None:
        read, written = ([self._buffer(k, t) for t in tiles] for tiles in (command.operands, command.results))
        check_compute(command, read, written)
        operands = [self._load(b, _box(t)) for b, t in zip(read, command.operands, strict=True)]
        constants = {c.name: self._constant(c) for c in command.constants}
        made = self._results(command, operands, constants)
        for buffer, tile, value in zip(written, command.results, made, strict=True):
            if np.shape(value) != extent(tile):
                raise SimulationError(
                    f"a result of shape {np.shape(value)}", where=f"{extent(tile)}", fix="compile again"
                )
            self._store(buffer, _box(tile), np.asarray(value))

    def _results(self, command: Compute, operands: list[np.ndarray], constants: Arrays) -> Sequence[np.ndarray]:
        i = command.instruction
        if isinstance(i, Island):
            buffers = [self.program.buffers[t.buffer] for t in command.results]
            bits = {t: b.bits for t, b in zip(i.outputs, buffers, strict=True) if b.bits}
            return island(i, dict(zip(i.inputs, operands, strict=True)), constants, bits)
        shape = extent(command.results[0])
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
            self._check_loaded(c, (count + 1) // 2)
            pairs = memory.read(np.arange(c.offset, c.offset + (count + 1) // 2))
            codes = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count].astype(np.int64)
            return np.where(codes > 7, codes - 16, codes).reshape(c.shape)
        size = _WIDTHS.get(c.dtype) or np.dtype(c.dtype).itemsize
        self._check_loaded(c, count * size)
        raw = memory.read(np.arange(c.offset, c.offset + count * size))
        value = raw.view(np.dtype(c.dtype).newbyteorder("<")).reshape(c.shape)
        return value.astype(np.dtype(c.dtype))

    def _check_loaded(self, c: Constant, size: int) -> None:
        """Constants on chip lie in a buffer that lives and was loaded for them."""
        if c.memory == "sram" and not any(
            self._spans[n][0] <= c.offset and c.offset + size <= self._spans[n][1] for n in self._constants
        ):
            raise SimulationError(f"no buffer of constants holds {c.name}", where="sram", fix="compile again")

    def _buffer(self, k: int, tile: Tile) -> Buffer:
        return self._living(k, tile.buffer)

    def _living(self, k: int, number: int) -> Buffer:
        life = self.program.lifetimes[number]
        if not life.first <= k <= life.last:
            raise SimulationError(f"buffer {number} does not live", where="lifetimes", fix="compile again")
        return self.program.buffers[number]

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

    def _output(self, port: Port) -> bytes:
        """All bytes of an output's buffer; every one that belongs to an element has to be there."""
        try:
            self._whole(port.buffer)
        except SimulationError as error:
            raise SimulationError(error.what, where=f"output {port.name}: {error.where}", fix=error.fix) from error
        start, stop = self._spans[port.buffer]
        return self.memories[self.program.buffers[port.buffer].memory].data[start:stop].tobytes()

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


def quantize(port: Port, values: np.ndarray, bits: int) -> np.ndarray:
    """The boundary rule: float32 product, half to even, saturated.

    Raises:
      SimulationError: a value that is not finite.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
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


def _all(buffer: Buffer) -> list[tuple[int, int]]:
    return [(0, n) for n in buffer.shape]


def _box(tile: Tile) -> list[tuple[int, int]]:
    return list(zip(tile.start, tile.stop, strict=True))


def _name(command: Command) -> str:
    if isinstance(command, Compute):
        return f"{type(command.instruction).__name__.lower()} of {', '.join(command.instruction.nodes)}"
    return type(command).__name__.lower()
