"""What the machine forbids is an error that names the command."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from helpers import Net, samples
from planning import plan

from knerex_jax.compiler.build import Compiled, Request, compile_program
from knerex_jax.csim.arithmetic import contract, multiply, shift_right
from knerex_jax.csim.machine import Machine
from knerex_jax.errors import ModelError, SimulationError
from knerex_jax.npu.isa import Buffer, Compute, Dma, Lifetime, Load, NpuProgram
from knerex_jax.npu_model import NpuModel
from knerex_jax.targets.machine import MACHINES


@pytest.fixture(scope="module")
def compiled() -> tuple[Compiled, dict[str, np.ndarray]]:
    net = Net({"x": (1, 3, 20, 24)})
    model = net.model(net.conv(net.add("Relu", net.conv("x", 40)), 24))
    data = samples(model, 2)
    planned = plan(model, data, "720")
    machine = replace(MACHINES["720"], sram=12_288)
    return compile_program(Request(planned.program, planned.constants, machine=machine)), {
        t: v[:1] for t, v in data.items()
    }


def place(program: NpuProgram, kind: type, skip: int = 0) -> int:
    """Place of a command of a kind."""
    return [k for k, c in enumerate(program.commands) if isinstance(c, kind)][skip]


def run(program: NpuProgram, weight: bytes, data: dict[str, np.ndarray]) -> None:
    NpuModel(program, weight).run(data)


def test_the_program_itself_runs(compiled):
    made, data = compiled
    assert NpuModel(made.program, made.weight).run(data)


@pytest.mark.parametrize("kind", [Dma, Load, Compute])
def test_a_command_left_out_is_a_read_of_nothing(compiled, kind):
    made, data = compiled
    gone = place(made.program, kind)
    commands = list(made.program.commands)
    commands[gone] = Load(0, 0, 0, len(made.program.buffers))
    program = msgspec.structs.replace(
        made.program, commands=tuple(commands),
        buffers=(*made.program.buffers, Buffer("sram", 0, "RAW", (0,), None, 0, "uint8")),
        lifetimes=(*made.program.lifetimes, Lifetime(gone, gone)),
    )  # fmt: skip
    with pytest.raises(SimulationError, match="nothing has written|no buffer of constants") as e:
        run(program, made.weight, data)
    assert e.value.where.startswith("command ") or e.value.where.startswith("output ")


def test_a_buffer_outside_of_its_memory(compiled):
    made, data = compiled
    k = place(made.program, Dma)
    number = made.program.commands[k].target.buffer
    buffers = list(made.program.buffers)
    buffers[number] = msgspec.structs.replace(buffers[number], offset=12_288)
    with pytest.raises(SimulationError, match="is outside of 12288 bytes") as e:
        run(msgspec.structs.replace(made.program, buffers=tuple(buffers)), made.weight, data)
    assert f"command {k}, dma" in e.value.where


def test_buffers_on_top_of_each_other(compiled):
    made, _ = compiled
    k = place(made.program, Compute)
    command = made.program.commands[k]
    a, b = command.operands[0].buffer, command.results[0].buffer
    buffers = list(made.program.buffers)
    buffers[b] = msgspec.structs.replace(buffers[b], offset=buffers[a].offset)
    with pytest.raises(SimulationError, match="overlap while both live"):
        Machine(msgspec.structs.replace(made.program, buffers=tuple(buffers)), made.weight)


def test_a_buffer_after_its_life(compiled):
    made, data = compiled
    number = made.program.commands[place(made.program, Dma)].target.buffer
    lives = list(made.program.lifetimes)
    lives[number] = msgspec.structs.replace(lives[number], last=lives[number].first)
    with pytest.raises(SimulationError, match="does not live"):
        run(msgspec.structs.replace(made.program, lifetimes=tuple(lives)), made.weight, data)


def test_a_transfer_that_begins_within_an_entry(compiled):
    made, data = compiled
    formats = [b.format for b in made.program.buffers]
    k, command = next(
        (k, c)
        for k, c in enumerate(made.program.commands)
        if isinstance(c, Dma) and formats[c.source.buffer] == "1W16C8B" and c.source.stop[1] - c.source.start[1] > 8
    )
    shifted = [
        msgspec.structs.replace(t, start=(t.start[0], t.start[1] + 8, *t.start[2:]))
        for t in (command.source, command.target)
    ]
    commands = list(made.program.commands)
    commands[k] = Dma(*shifted)
    with pytest.raises(SimulationError, match="begins within an entry"):
        run(msgspec.structs.replace(made.program, commands=tuple(commands)), made.weight, data)


def test_constants_of_another_size(compiled):
    made, _ = compiled
    with pytest.raises(SimulationError, match="bytes for a memory of"):
        Machine(made.program, made.weight[:-16])


def test_inputs_that_are_no_numbers_or_missing(compiled):
    made, data = compiled
    with pytest.raises(SimulationError, match="no number"):
        NpuModel(made.program, made.weight).run({"x": np.full_like(data["x"], np.nan)})
    with pytest.raises(ModelError, match="missing"):
        NpuModel(made.program, made.weight).run({})


def test_accumulators_that_overflow():
    big = np.array([1 << 40])
    with pytest.raises(SimulationError, match="beyond 62 bits"):
        multiply(big, big)
    with pytest.raises(SimulationError, match="a sum of up to"):
        contract("i,i->", np.full(4, 1 << 26), np.full(4, 1 << 26), 4)
    with pytest.raises(SimulationError, match="a shift of"):
        shift_right(np.array([1]), 63, 8)
