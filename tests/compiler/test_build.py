"""Compiled programs: every element is written once, parts fit on chip, nothing lies on top of another."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers import Net, samples
from planning import plan

from knerex_jax.compiler.build import Compiled, Request, compile_program
from knerex_jax.compiler.cost import estimate
from knerex_jax.compiler.work import AMOUNTS, work_of
from knerex_jax.errors import CompileError, ConfigError
from knerex_jax.npu.isa import Compute, Dma, Load
from knerex_jax.program.primitives import Mac
from knerex_jax.quantize.planner import Planned
from knerex_jax.targets.machine import MACHINES

SMALL = replace(MACHINES["720"], sram=12_288)
"""So small that feature maps and weights have to be cut."""


def network() -> Planned:
    net = Net({"x": (1, 3, 20, 24)})
    x = net.add("Relu", net.conv("x", 40, kernel=3))
    x = net.add(
        "MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1), ceil_mode=0
    )  # fmt: skip
    y = net.conv(x, 40, kernel=3, group=40)
    z = net.add("Add", net.conv(y, 40, kernel=1), x)
    out = net.conv(net.add("Relu", z), 70, kernel=3, stride=2)
    model = net.model(out)
    return plan(model, samples(model, 4), "720")


@pytest.fixture(scope="module")
def planned() -> Planned:
    return network()


@pytest.fixture(scope="module")
def cut(planned) -> Compiled:
    return compile_program(Request(planned.program, planned.constants, machine=SMALL))


def test_a_small_machine_divides_and_a_large_one_does_not(planned, cut):
    whole = compile_program(Request(planned.program, planned.constants))
    assert sum(isinstance(c, Compute) for c in whole.program.commands) == len(planned.program.instructions)
    assert sum(isinstance(c, Compute) for c in cut.program.commands) > 2 * len(planned.program.instructions)


def test_every_element_of_a_whole_tensor_is_written_exactly_once(cut):
    written = {
        n: np.zeros(b.shape, int) for n, b in enumerate(cut.program.buffers) if b.memory in ("working", "output")
    }
    for command in cut.program.commands:
        if isinstance(command, Dma) and command.target.buffer in written:
            box = tuple(slice(*r) for r in zip(command.target.start, command.target.stop, strict=True))
            written[command.target.buffer][box] += 1
    used = {n for _, n in cut.program.tensors}
    assert used and all((written[n] == 1).all() for n in used if n in written)


def test_what_lives_on_chip_lies_apart_and_inside(cut):
    program = cut.program
    sizes = {n: _bytes(b) for n, b in enumerate(program.buffers) if b.memory == "sram"}
    spans = [(n, program.buffers[n].offset, program.buffers[n].offset + s) for n, s in sizes.items()]
    assert max(end for _, _, end in spans) <= SMALL.sram
    for i, (n, start, end) in enumerate(spans):
        for m, start_m, end_m in spans[:i]:
            a, b = program.lifetimes[n], program.lifetimes[m]
            together = a.first <= b.last and b.first <= a.last
            assert not together or end <= start_m or end_m <= start


def _bytes(buffer) -> int:
    if buffer.format == "RAW":
        return int(np.prod(buffer.shape))
    c, h, w = buffer.shape[1], buffer.shape[2], buffer.shape[3]
    return {
        "1W16C8B": -(-c // 16) * 16 * h * w,
        "16W1C8B": c * h * -(-w // 16) * 16,
        "4W4C8B": -(-c // 4) * 4 * h * (-(-w // 4) * 4),
    }[buffer.format]


def test_commands_touch_a_buffer_within_its_life(cut):
    for k, command in enumerate(cut.program.commands):
        match command:
            case Dma(source=a, target=b):
                numbers = [a.buffer, b.buffer]
            case Load(buffer=n):
                numbers = [n]
            case Compute(operands=read, results=made):
                numbers = [t.buffer for t in (*read, *made)]
        assert all(cut.program.lifetimes[n].first <= k <= cut.program.lifetimes[n].last for n in numbers)


def test_pooling_runs_on_the_parts_of_its_convolution(planned, cut):
    kinds = Counter(type(i).__name__ for i in planned.program.instructions)
    assert kinds["MaxPool"] == 1
    (pool,) = [i for i in planned.program.instructions if type(i).__name__ == "MaxPool"]
    assert pool.name not in cut.tilings, "it belongs to the convolution in front of it"
    assert pool.inputs[0] not in dict(cut.program.tensors), "what it reads is nowhere whole"


def test_deep_search_is_never_slower_and_always_the_same(planned, cut):
    request = Request(planned.program, planned.constants, machine=SMALL)
    deep, again = (compile_program(request, fm_cut="deep_search") for _ in range(2))
    assert estimate(deep.program, SMALL).seconds < estimate(cut.program, SMALL).seconds
    assert deep.program == again.program and deep.weight == again.weight


def test_engines_side_by_side_are_faster_than_one_after_the_other(cut):
    found = estimate(cut.program, SMALL)
    assert max(c.seconds for c in found.costs) < found.seconds < found.serial_seconds
    assert found.moved("wdma") >= 70 * 5 * 16
    assert list(found.finish) != sorted(found.finish), "a later load ends before an earlier part"


def test_several_images_cost_what_they_multiply():
    def priced(images):
        net = Net({"x": (1, 4 * images, 14, 14)})
        y = net.add("Reshape", "x", shape=(images, 4, 14, 14))
        y = net.conv(net.conv(net.conv(y, 32), 32, group=32), 32, kernel=1)
        model = net.model(net.add("Reshape", y, shape=(1, images * 32, 14, 14)))
        planned = plan(model, samples(model, 4), "720")
        made = compile_program(Request(planned.program, planned.constants)).program
        macs = [c for c in made.commands if isinstance(c, Compute) and isinstance(c.instruction, Mac)]
        works = [work_of(c, made.buffers, 1) for c in macs]
        named = [dict(zip(AMOUNTS, w.amounts, strict=True)) for w in works]
        return [sum(n[key] for n in named) for key in ("kernels", "depthwise", "pointwise")], sum(
            w.products for w in works
        )

    one, eight = priced(1), priced(8)
    assert eight == ([8 * amount for amount in one[0]], 8 * one[1])


def test_constants_without_room_are_streamed(planned):
    made = compile_program(Request(planned.program, planned.constants, machine=replace(SMALL, sram=4096))).program
    streamed = [
        c for c in made.commands
        if isinstance(c, Compute) and c.engine == "cfunc" and any(k.memory == "weight" for k in c.constants)
    ]  # fmt: skip
    assert streamed and all(k.memory == "weight" for c in streamed for k in c.constants)
    found = estimate(made, SMALL)
    for command, cost in zip(made.commands, found.costs, strict=True):
        if command in streamed:
            assert cost.moved >= sum(int(np.prod(k.shape)) for k in command.constants)


def test_a_machine_without_room_is_refused(planned):
    with pytest.raises(CompileError, match="smallest part needs") as e:
        compile_program(Request(planned.program, planned.constants, machine=replace(SMALL, sram=256)))
    assert e.value.where in {i.name for i in planned.program.instructions}


def test_performance_is_announced_only(planned):
    with pytest.raises(ConfigError, match="announced"):
        compile_program(Request(planned.program, planned.constants), fm_cut="performance")


def test_a_node_of_the_host_runs_in_dram(planned):
    (pool,) = [i for i in planned.program.instructions if type(i).__name__ == "MaxPool"]
    made = compile_program(Request(planned.program, planned.constants, host=pool.nodes))
    (command,) = [c for c in made.program.commands if isinstance(c, Compute) and c.instruction.name == pool.name]
    assert command.engine == "host"
    assert {made.program.buffers[t.buffer].memory for t in (*command.operands, *command.results)} == {"working"}
    assert all(c.memory == "weight" for c in command.constants)
