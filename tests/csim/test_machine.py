"""The machine on programs of a few commands: what docs/npu_program.md forbids is an error that says where."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from one_command import execute, program, whole

import knerex_jax
from knerex_jax.csim.machine import Machine
from knerex_jax.errors import SimulationError
from knerex_jax.npu.isa import Buffer, Constant, Dma, Lifetime, Load, NpuProgram, Port, Tile
from knerex_jax.program.primitives import Activate, Mac, MaxPool, Move, PoolSum, Window

COMMON = {"name": "i", "inputs": ("x0",), "output": "y", "nodes": ("node",), "bits": 8}
RELU = Activate(**COMMON, x_bits=8, act="relu")


def changed(made: NpuProgram, command: int, **fields) -> NpuProgram:
    """The program with another command at a place."""
    commands = list(made.commands)
    commands[command] = replace(commands[command], **fields)
    return replace(made, commands=tuple(commands))


def fails(made: NpuProgram, weight: bytes, data: dict[str, bytes], match: str) -> str:
    """Where the error is said to be."""
    with pytest.raises(SimulationError, match=match) as error:
        Machine(made, weight).run(data)
    return error.value.where


@pytest.fixture
def relu() -> tuple[NpuProgram, bytes, dict[str, bytes]]:
    """Dma to the chip, Relu, Dma from it."""
    return program(RELU, [([1, -2, 3], 8)], {"n": [0]}, (3,))


def test_the_program_itself_runs(relu):
    made, weight, data = relu
    assert np.frombuffer(Machine(made, weight).run(data)[0]["y"], np.int8).tolist() == [1, 0, 3]


def test_what_an_earlier_buffer_left_is_nothing(relu):
    """A second buffer at the place of the first, after its life: only a command of its own defines its bytes."""
    made, weight, data = relu
    old, place = made.commands[0].target.buffer, len(made.buffers)
    lives = [*made.lifetimes, Lifetime(1, 3)]
    lives[old] = Lifetime(0, 0)
    moved = replace(
        changed(made, 1, operands=(whole(place, (3,)),)),
        buffers=(*made.buffers, made.buffers[old]),
        lifetimes=tuple(lives),
    )
    assert "command 1, activate of node" in fails(moved, weight, data, "nothing has written")


def test_no_sample_sees_the_one_before(relu):
    made, weight, data = relu
    machine = Machine(made, weight)
    machine.run(data)
    machine.program = changed(made, 0, source=Tile(0, (0,), (1,)), target=Tile(1, (0,), (1,)))
    with pytest.raises(SimulationError, match="nothing has written"):
        machine.run(data)


def test_an_output_that_nothing_writes(relu):
    made, weight, data = relu
    first = {"source": Tile(2, (0,), (2,)), "target": Tile(3, (0,), (2,))}
    assert fails(changed(made, 2, **first), weight, data, "reads byte 2, which nothing").startswith("output y")


def test_bytes_of_another_size(relu):
    made, weight, data = relu
    assert fails(made, weight, {"x0": data["x0"] + b"\0"}, "4 bytes for a buffer of 3") == "x0"


def test_a_box_beyond_its_buffer(relu):
    made, weight, data = relu
    where = fails(changed(made, 1, operands=(Tile(1, (0,), (4,)),)), weight, data, "0 to 4 along axis 0")
    assert where.startswith("command 1, activate of node")


def test_what_the_engines_do_not_reach(relu):
    made, weight, data = relu
    assert "command 1" in fails(changed(made, 1, operands=(whole(0, (3,)),)), weight, data, "not on chip")
    assert "command 1" in fails(changed(made, 1, engine="host"), weight, data, "which the host does not see")
    inside = changed(made, 0, target=whole(0, (3,)), source=whole(0, (3,)))
    assert "command 0, dma" in fails(inside, weight, data, "within one side")


def test_constants_are_not_written(relu):
    made, weight, data = relu
    buffers = list(made.buffers)
    buffers[3] = Buffer("weight", 0, "RAW", (3,), None, 8)
    assert "command 2, dma" in fails(replace(made, buffers=tuple(buffers)), weight, data, "writes constants")


def test_widths_are_those_of_the_instruction(relu):
    made, weight, data = relu
    for i in (replace(RELU, x_bits=15), replace(RELU, bits=15)):
        assert "command 1" in fails(changed(made, 1, instruction=i), weight, data, "codes of 8, 8 bits instead of")


def test_a_result_of_another_shape():
    made, weight, data = program(RELU, [([[1, -2]], 8)], {"n": [0]}, (2, 1))
    assert "command 1" in fails(made, weight, data, r"a result of shape \(1, 2\)")


def test_constants_that_are_missing(relu):
    made, weight, data = relu
    assert "command 1, activate of node" in fails(changed(made, 1, constants=()), weight, data, "KeyError: 'n'")


def with_loaded_shift(relu, *, target: int = 4090, size: int = 1, last: int = 2, first: int = 0):
    """The shift is loaded on chip by a command of its own, in front of the others."""
    made, weight, data = relu
    blob = len(made.buffers)
    commands = [Load(0, target, size, blob), *made.commands]
    commands[2] = replace(commands[2], constants=(Constant("n", "sram", 4090, "int8", (1,)),))
    lives = (*(Lifetime(v.first, 4) for v in made.lifetimes), Lifetime(first, last))
    buffers = (*made.buffers, Buffer("sram", 4090, "RAW", (1,), None, 0, "uint8"))
    return replace(made, commands=tuple(commands), buffers=buffers, lifetimes=lives), weight, data


def test_constants_are_loaded_into_their_buffer(relu):
    made, weight, data = with_loaded_shift(relu)
    assert np.frombuffer(Machine(made, weight).run(data)[0]["y"], np.int8).tolist() == [1, 0, 3]
    assert "command 0, load" in fails(*with_loaded_shift(relu, target=4089), "outside of buffer 4")
    assert "command 0, load" in fails(*with_loaded_shift(relu, size=2), "outside of buffer 4")


def test_constants_after_the_life_of_their_buffer(relu):
    assert "command 2" in fails(*with_loaded_shift(relu, last=1), "no buffer of constants holds n")
    assert "command 0, load" in fails(*with_loaded_shift(relu, first=1), "does not live")


WINDOW = Window((2, 2), (1, 1), (1, 1), ((0, 0), (0, 0)))
X = ([[[[1, 2, 3], [4, 5, 6]]]], 8)
SUMS = {"weight": np.ones((1, 1, 2, 2)), "bias": [0], "n1": [0], "n2": [0]}
CONV = Mac(
    **COMMON, axis=1, kind="conv", window=WINDOW, x_bits=8, weight_bits=8, psum_bits=32, post_multiplier=False
)  # fmt: skip


@pytest.mark.parametrize(
    ("i", "constants"),
    [
        (CONV, SUMS),
        (PoolSum(**COMMON, window=WINDOW, mean=False, x_bits=8), {"n": [0]}),
        (MaxPool(**COMMON, window=WINDOW, x_bits=8), {"n": [0]}),
    ],
)
def test_a_window_beyond_the_box(i, constants):
    """One column is left of the last part, which NumPy would repeat."""
    assert np.shape(execute(i, [X], constants, (1, 1, 1, 2))) == (1, 1, 1, 2)
    for shape in ((1, 1, 2, 2), (1, 1, 1, 3)):
        made, weight, data = program(i, [X], constants, shape)
        assert "command 1" in fails(made, weight, data, "a window beyond")


def test_weights_for_other_channels():
    kinds = {
        "conv": (1, 3, 2, 2), "dense": (2, 1), "conv_transpose": (3, 1, 2, 2),
    }  # fmt: skip
    for kind, shape in kinds.items():
        i = replace(CONV, kind=kind, window=None if kind == "dense" else WINDOW)
        made, weight, data = program(i, [X], {**SUMS, "weight": np.ones(shape)}, (1, 1, 1, 2))
        assert "command 1, mac of node" in fails(made, weight, data, "the weights are for")


def test_channels_without_an_axis():
    made, weight, data = program(RELU, [([[1, 2]], 8)], {"n": [0, 1]}, (1, 2))
    assert "command 1" in fails(made, weight, data, "2 channels, and no axis")


def test_places_do_not_count_from_the_end():
    i = Move(**COMMON, kind="gather", args=((0,), (0, -1)), x_bits=(8,))
    made, weight, data = program(i, [([1, 2], 8)], {"n": [0]}, (2,))
    assert "command 1, move of node" in fails(made, weight, data, "a place outside of 2")


def test_sums_that_might_not_be_exact():
    wide = {"weight": np.full((1, 3), 2**40), "bias": [0], "n1": [0], "n2": [0]}
    i = replace(CONV, kind="dense", window=None)
    made, weight, data = program(i, [([[1, 100, 3]], 8)], wide, (1, 1))
    assert Machine(made, weight).run(data)[0]["y"] == b"\x7f"
    made, weight, data = program(i, [([[1, 100, 3]], 8)], {**wide, "weight": np.full((1, 3), 2**45)}, (1, 1))
    where = fails(made, weight, data, "a sum of up to")
    assert where == "command 1, mac of node: accumulator"


def test_a_transfer_of_a_number_without_axes():
    scalar = Buffer("input", 0, "1W16C8B", (), None, 8)
    buffers = (scalar, replace(scalar, memory="sram"), replace(scalar, memory="output"))
    whole_of = [Tile(n, (), ()) for n in range(3)]
    made = NpuProgram(
        arith_version=1, name="one", platform="720", inputs=(Port("x0", 0),), outputs=(Port("y", 2),), buffers=buffers,
        lifetimes=(Lifetime(-1, 2),) * 3, tensors=(("y", 2),),
        commands=(Dma(whole_of[0], whole_of[1]), Dma(whole_of[1], whole_of[2])),
        sizes=(("sram", 16), ("input", 16), ("output", 16), ("working", 0), ("weight", 0)),
    )  # fmt: skip
    assert Machine(made, b"").run({"x0": bytes([7] + [9] * 15)}, taps=("y",))[1]["y"].item() == 7


def test_the_simulator_needs_neither_jax_nor_what_it_judges():
    """Imported without the rest of the package, it brings in nothing of emulator, operators or their arithmetic."""
    root = Path(knerex_jax.__file__).parent
    source = f"""
import importlib, pkgutil, sys, types
package = types.ModuleType("knerex_jax")
package.__path__ = [{str(root)!r}]
sys.modules["knerex_jax"] = package
import knerex_jax.csim
for module in pkgutil.iter_modules(knerex_jax.csim.__path__):
    importlib.import_module("knerex_jax.csim." + module.name)
print(*sorted(m for m in sys.modules if m.split(".")[0] in ("knerex_jax", "jax", "jaxlib")))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    own = {f"knerex_jax.csim.{p.stem}" for p in (root / "csim").glob("*.py") if p.stem != "__init__"}
    shared = {"knerex_jax", "knerex_jax.csim", "knerex_jax.errors", "knerex_jax.npu", "knerex_jax.npu.isa"}
    program = {"knerex_jax.program", "knerex_jax.program.primitives", "knerex_jax.program.island"}
    assert found == own | shared | program
