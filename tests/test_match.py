"""The match names what differs first, and where."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from helpers import samples
from npu_nets import backbone
from planning import plan

from knerex_jax.artifacts.bie import Bie
from knerex_jax.compiler.build import Request, compile_program
from knerex_jax.match import bit_true_match
from knerex_jax.npu.isa import Compute
from knerex_jax.npu_model import NpuModel
from knerex_jax.program.primitives import Mac
from knerex_jax.runtime import FixedModel
from knerex_jax.targets.machine import MACHINES


@pytest.fixture(scope="module")
def pair():
    net, outputs = backbone(table=False)
    model = net.model(*outputs)
    data = samples(model, 3)
    planned = plan(model, data, "720", "int8")
    fixed = FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    machine = replace(MACHINES["720"], sram=9_216)
    compiled = compile_program(Request(planned.program, planned.constants, machine=machine))
    return fixed, NpuModel(compiled.program, compiled.weight), {t: v[:3] for t, v in data.items()}


def test_all_layers_of_all_samples_are_equal(pair):
    fixed, npu, inputs = pair
    done = []
    match = bit_true_match(fixed, npu, inputs, layers=True, batch_size=2, progress=done.append)
    assert match.equal and match.first is None and done == [1, 2, 3]
    assert match.tensors > len(fixed.program.outputs)
    outputs = bit_true_match(fixed, npu, inputs, known=fixed.run(inputs, "fixed"), batch_size=2)
    assert outputs.equal and outputs.tensors == 2 and outputs.codes < match.codes


@pytest.mark.parametrize("layers", [False, True])
def test_a_wrong_part_is_found_where_it_begins(pair, layers):
    fixed, npu, inputs = pair
    # One part of the second convolution reads its weights a byte too far.
    commands = list(npu.program.commands)
    number = [k for k, c in enumerate(commands) if isinstance(c, Compute) and isinstance(c.instruction, Mac)][1]
    wrong = commands[number]
    moved = tuple(msgspec.structs.replace(c, offset=c.offset + 1) if c.name == "weight" else c for c in wrong.constants)
    assert moved != wrong.constants
    commands[number] = msgspec.structs.replace(wrong, constants=moved)
    broken = NpuModel(msgspec.structs.replace(npu.program, commands=tuple(commands)), npu.weight)
    match = bit_true_match(fixed, broken, inputs, layers=layers)
    first = match.first
    assert not match.equal and match.differing > 0 and first is not None
    assert first.sample == 0 and first.emulator != first.simulator
    wanted = fixed.run(inputs, "fixed", taps=(first.tensor,))[first.tensor][0].ravel()
    assert wanted[np.ravel_multi_index(first.position, fixed.program.shapes[first.tensor])] == first.emulator
    made = next(i for i in fixed.program.instructions if first.tensor in i.outputs)
    assert first.nodes == made.nodes and first.channel == first.position[1]
    assert all(a <= p < b for a, p, b in zip(first.tile[0], first.position, first.tile[1], strict=True))
    assert number <= first.command, "written by the wrong part or behind it"
    assert all(str(v) in str(first) for v in (first.emulator, first.simulator, first.tensor, first.channel))
