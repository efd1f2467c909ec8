"""Dynasty = csim: the emulator and the machine that runs compiled commands on bytes hold the same codes."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import Net, samples
from npu_nets import ROOMY, TABLE, backbone, tail
from planning import plan

import knerex_jax
from knerex_jax.artifacts.bie import Bie
from knerex_jax.compiler.build import Compiled, Request, compile_program
from knerex_jax.npu.isa import Compute
from knerex_jax.npu_model import NpuModel
from knerex_jax.quantize.planner import Planned
from knerex_jax.runtime import FixedModel
from knerex_jax.targets.machine import MACHINES


def compare(planned: Planned, data: dict[str, np.ndarray], compiled: Compiled) -> tuple[int, list[str]]:
    """Tensors that both have, and those in which some code differs."""
    fixed = FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    buffers = compiled.program.buffers
    there = [t for t, n in compiled.program.tensors if buffers[n].memory != "input"]
    wanted = fixed.run({t: v[:1] for t, v in data.items()}, "fixed", taps=tuple(there))
    found = NpuModel(compiled.program, compiled.weight).run({t: v[:1] for t, v in data.items()}, "fixed", taps=there)
    assert set(found) == set(wanted) | set(there)
    return len(found), [t for t, v in found.items() if not np.array_equal(v.ravel(), np.asarray(wanted[t]).ravel())]


CASES = [
    (backbone(table=True), "520", "int8", 9_216),
    (backbone(table=True), "720", "int8", 9_216),
    (backbone(table=False), "720", "w8a16", 16_384),
    (backbone(table=False), "730", "int16", 16_384),
    (tail(), "520", "int8", 24_576),
    (tail(), "730", "int8", TABLE + 32_768),
    (tail(), "720", "int16", TABLE + 49_152),
]


@pytest.mark.parametrize(("net", "platform", "width", "tight"), CASES)
def test_every_tensor_is_the_emulators(net, platform, width, tight):
    model = net[0].model(*net[1])
    data = samples(model, 4)
    planned = plan(model, data, platform, width)
    parts = []
    for sram in (ROOMY, tight):
        request = Request(planned.program, planned.constants, machine=replace(MACHINES[platform], sram=sram))
        for cut in ("default", "deep_search"):
            compiled = compile_program(request, fm_cut=cut)
            count, wrong = compare(planned, data, compiled)
            assert count >= 6 and wrong == []
            parts.append(len(compiled.program.commands))
    assert min(parts[2:]) > 1.5 * parts[0], "a small memory divides"


def test_the_simulator_shares_nothing_with_what_it_judges():
    allowed = {"errors", "npu", "csim", "program"}
    for path in (Path(knerex_jax.__file__).parent / "csim").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            own = [n.split(".") for n in names if n.startswith("knerex_jax")]
            assert all(n[1] in allowed for n in own), f"{path.name} imports {names}"
            assert all(n[2] in ("primitives", "island") for n in own if n[1] == "program")
            assert all(n[2] == "isa" for n in own if n[1] == "npu")
            assert not any(n.startswith("jax") for n in names)


def test_constants_read_where_they_lie_give_the_emulators_codes():
    net = Net({"x": (1, 40, 9, 10)}, seed=2)
    up = net.add(
        "ConvTranspose", "x", net.random(40, 24, 4, 4, scale=0.3), kernel_shape=(4, 4), strides=(2, 2),
        dilations=(1, 1), pads=(1, 1, 1, 1), output_padding=(0, 0), group=1,
    )  # fmt: skip
    model = net.model(net.add("Relu", up))
    planned, data = plan(model, samples(model, 3), "730"), samples(model, 2, seed=9)
    machine = replace(MACHINES["730"], sram=6_144)  # less than the 10,240 bytes of weights of 16 channels
    compiled = compile_program(Request(planned.program, planned.constants, machine=machine))
    assert any(
        isinstance(c, Compute) and c.constants and c.constants[0].memory == "weight" for c in compiled.program.commands
    )
    compared, wrong = compare(planned, data, compiled)
    assert compared >= 1 and not wrong
