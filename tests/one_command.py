"""NPU programs of a single command, written by hand: operands in, one instruction, its result out."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from knerex_jax.csim.machine import Machine
from knerex_jax.npu.isa import Buffer, Compute, Constant, Dma, Lifetime, NpuProgram, Port, Tile
from knerex_jax.program.primitives import Instruction, Island, Lookup, MaxPool, Move, PoolSum

Plain = np.ndarray
Coded = tuple[object, int]
"""(codes, bits)."""

_ROOM = 4096


def whole(buffer: int, shape: Sequence[int]) -> Tile:
    """All of a buffer."""
    return Tile(buffer, (0,) * len(shape), tuple(shape))


def raw(codes: object, bits: int) -> bytes:
    """Bytes of a RAW buffer: int8, or int16 that hold twice the code."""
    return (np.asarray(codes) * (1 if bits == 8 else 2)).astype("<i1" if bits == 8 else "<i2").tobytes()


def packed(constants: Mapping[str, object]) -> tuple[bytes, tuple[Constant, ...]]:
    """A weight segment of int64 (floats as they are), and the constants in it."""
    data, found = b"", []
    for name, values in constants.items():
        array = np.asarray(values)
        array = array if array.dtype.kind == "f" else array.astype(np.int64)
        found.append(Constant(name, "weight", len(data), array.dtype.name, array.shape))
        data += array.tobytes()
    return data, tuple(found)


def program(
    instruction: Instruction, operands: Sequence[Coded | Plain], constants: Mapping[str, object], shape: Sequence[int],
) -> tuple[NpuProgram, bytes, dict[str, bytes]]:  # fmt: skip
    """The program, its weight segment and the bytes of its inputs: every tensor has 4096 bytes of its own, RAW.

    Operands that are pairs are codes; others are plain values. NPU instructions find their operands on chip.
    """
    host = isinstance(instruction, Island | Lookup)
    weight, held = packed(constants)
    buffers: list[Buffer] = []
    data: dict[str, bytes] = {}
    moves: list[Dma] = []
    read: list[Tile] = []
    for k, operand in enumerate(operands):
        codes, bits = operand if isinstance(operand, tuple) else (operand, 0)
        array = np.asarray(codes)
        dtype = "" if bits else array.dtype.name
        data[f"x{k}"] = raw(array, bits) if bits else array.tobytes()
        buffers.append(Buffer("input", k * _ROOM, "RAW", array.shape, None, bits, dtype))
        read.append(whole(len(buffers) - 1, array.shape))
        if not host:
            buffers.append(Buffer("sram", k * _ROOM, "RAW", array.shape, None, bits, dtype))
            moves.append(Dma(read[-1], whole(len(buffers) - 1, array.shape)))
            read[-1] = moves[-1].target
    made = Buffer("output", 0, "RAW", tuple(shape), None, instruction.bits)
    inside = made if host else Buffer("sram", len(operands) * _ROOM, "RAW", tuple(shape), None, instruction.bits)
    buffers += [inside] if host else [inside, made]
    result = whole(len(buffers) - (1 if host else 2), shape)
    pooled = isinstance(instruction, MaxPool | PoolSum | Move)
    engine = "host" if host else "pfunc" if pooled else "cfunc"
    run = Compute(engine, instruction, tuple(read), (result,), held)
    commands = (*moves, run) if host else (*moves, run, Dma(result, whole(len(buffers) - 1, shape)))
    ports = tuple(Port(f"x{k}", k if host else 2 * k) for k in range(len(operands)))
    room = _ROOM * (len(operands) + 1)
    return (
        NpuProgram(
            arith_version=1, name="one", platform="720", inputs=ports, outputs=(Port("y", len(buffers) - 1),),
            buffers=tuple(buffers), lifetimes=(Lifetime(-1, len(commands)),) * len(buffers), commands=commands,
            tensors=(("y", len(buffers) - 1),),
            sizes=(("sram", room), ("input", room), ("output", room), ("working", 0), ("weight", len(weight))),
        ),
        weight,
        data,
    )  # fmt: skip


def execute(
    instruction: Instruction, operands: Sequence[Coded | Plain], constants: Mapping[str, object], shape: Sequence[int],
) -> list:  # fmt: skip
    """Codes of the result, as nested lists."""
    made, weight, data = program(instruction, operands, constants, shape)
    assert prod(shape) * 2 <= _ROOM
    return Machine(made, weight).run(data, taps=("y",))[1]["y"].tolist()
