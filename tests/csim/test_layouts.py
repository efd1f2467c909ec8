"""Bytes of buffers, worked out by hand from the table in docs/npu_program.md."""

import numpy as np
import pytest
from one_command import whole

from knerex_jax.csim.layout import addresses, byte_size
from knerex_jax.csim.machine import Machine
from knerex_jax.npu.isa import Buffer, Compute, Constant, Lifetime, NpuProgram, Port
from knerex_jax.program.primitives import Mac, Move

PLACES = [
    # format, shape, axis, platform, size, element -> place of its low byte behind the offset
    ("1W16C8B", (1, 18, 2, 5), 1, "720", 320, {(0, 0, 0, 0): 0, (0, 3, 1, 2): 115, (0, 17, 1, 3): 289}),
    ("1W16C8BHL", (1, 18, 2, 5), 1, "720", 640, {(0, 3, 1, 2): 227, (0, 17, 1, 3): 577}),
    ("16W1C8B", (1, 3, 2, 18), 1, "720", 192, {(0, 1, 1, 4): 100, (0, 2, 0, 17): 145}),
    ("16W1C8B", (1, 3, 2, 18), 1, "520", 192, {(0, 1, 1, 4): 132, (0, 2, 0, 17): 81}),
    ("16W1C8BHL", (1, 3, 2, 18), 1, "630", 384, {(0, 1, 1, 4): 196, (0, 2, 0, 17): 289}),
    ("4W4C8B", (1, 3, 2, 5), 1, "720", 64, {(0, 2, 1, 3): 46, (0, 1, 0, 4): 17}),
    ("4W4C8B", (1, 3, 2, 5), 1, "520", 128, {(0, 2, 1, 3): 78, (0, 1, 0, 4): 17}),
    ("4W4C8B", (1, 6, 2, 5), 1, "720", 128, {(0, 5, 1, 3): 109}),
    ("4W4C8BHL", (1, 3, 2, 5), 1, "720", 128, {(0, 2, 1, 3): 78, (0, 1, 0, 4): 33}),
    ("RAW", (1, 3, 2, 5), 1, "720", 30, {(0, 2, 1, 3): 28}),
    ("1W16C8B", (1, 4, 6, 20), 3, "720", 768, {(0, 2, 5, 3): 275, (0, 3, 1, 17): 689}),  # channels last
    ("1W16C8B", (20, 3), None, "720", 320, {(7, 2): 114}),  # the last axis is C, the first one W
    ("16W1C8B", (20,), None, "720", 320, {(7,): 112}),  # C alone, W is 1
    ("1W16C8B", (2, 20, 3, 4), None, "730", 768, {(1, 17, 2, 3): 753}),  # H is the first axis and the third
    ("16W1C8B", (), None, "720", 16, {(): 0}),
]


@pytest.mark.parametrize(("format", "shape", "axis", "platform", "size", "places"), PLACES)
def test_places_of_elements(format, shape, axis, platform, size, places):
    buffer = Buffer("sram", 1000, format, shape, axis, 15 if format.endswith("HL") else 8)
    assert byte_size(buffer, platform) == size
    all_places = addresses(buffer, (0,) * len(shape), shape, platform)
    assert len(np.unique(all_places)) == all_places.size and all_places.max() < 1000 + size
    for element, place in places.items():
        box = addresses(buffer, element, [k + 1 for k in element], platform)
        assert box.item() == all_places[element] == 1000 + place


def test_published_sizes():
    picture = Buffer("input", 0, "4W4C8B", (1, 3, 416, 416), 1, 8)
    assert byte_size(picture, "520") == byte_size(picture, "720") == 692_224
    heads = [Buffer("output", 0, "16W1C8B", (1, 255, n, n), 1, 8) for n in (13, 26)]
    assert sum(byte_size(b, "520") for b in heads) == 265_200


def passed(buffer: Buffer, data: bytes, platform: str = "720", *, to: Buffer | None = None) -> tuple[np.ndarray, bytes]:
    """What the machine sees in these bytes, and the bytes that it makes of it elsewhere."""
    made = to or Buffer("output", 0, buffer.format, buffer.shape, buffer.axis, buffer.bits)
    move = Move(
        name="m", inputs=("x",), output="y", nodes=("m",), bits=made.bits, kind="reshape", args=(made.shape,),
        x_bits=(buffer.bits,),
    )  # fmt: skip
    command = Compute(
        "pfunc", move, (whole(0, buffer.shape),), (whole(1, made.shape),), (Constant("n", "weight", 0, "int8", (1,)),)
    )
    program = NpuProgram(
        arith_version=1, name="one", platform=platform, inputs=(Port("x", 0),), outputs=(Port("y", 1),),
        buffers=(buffer, made), lifetimes=(Lifetime(-1, 1), Lifetime(0, 1)), commands=(command,), tensors=(("y", 1),),
        sizes=(("sram", 0), ("input", 1024), ("output", 1024), ("working", 0), ("weight", 1)),
    )  # fmt: skip
    raw, taps = Machine(program, b"\0").run({"x": data}, taps=("y",))
    return taps["y"], raw["y"]


def test_codes_of_15_bits_are_two_bytes():
    buffer = Buffer("input", 0, "1W16C8BHL", (1, 2, 1, 2), 1, 15)
    data = np.full(64, 0xAA, np.uint8)  # what belongs to no element means nothing
    # twice the code is 0x0190, 0xFFFA, 0x8000, 0x7FFE: bits 7..1 in the low byte, 15..8 in the high one, 16 behind it
    data[[0, 16]], data[[1, 17]], data[[32, 48]], data[[33, 49]] = [72, 1], [125, 255], [0, 128], [127, 127]
    codes, made = passed(buffer, data.tobytes())
    assert codes.ravel().tolist() == [200, -16384, -3, 16383]
    assert [made[k] for k in (0, 16, 1, 17, 32, 48, 33, 49)] == [72, 1, 125, 255, 0, 128, 127, 127]


def test_raw_codes_of_15_bits_are_doubled():
    buffer = Buffer("input", 0, "RAW", (4,), None, 15)
    data = np.array([400, -6, -32768, 32766], "<i2").tobytes()
    codes, made = passed(buffer, data)
    assert codes.tolist() == [200, -3, -16384, 16383] and made == data


def test_a_picture_on_520_and_elsewhere():
    shape = (1, 3, 2, 2)
    for platform, line in (("520", 16), ("720", 4)):
        data = np.full(2 * line * 4, 0x55, np.uint8)
        for k, (c, h, w) in enumerate(np.ndindex(3, 2, 2)):
            data[(h * line + w) * 4 + c] = k + 1
        codes, made = passed(Buffer("input", 0, "4W4C8B", shape, 1, 8), data.tobytes(), platform)
        assert codes.ravel().tolist() == list(range(1, 13))
        assert [made[(h * line + w) * 4 + c] for c, h, w in np.ndindex(3, 2, 2)] == list(range(1, 13))


def test_lines_of_the_outputs():
    shape = (1, 2, 2, 3)
    raw = Buffer("input", 0, "RAW", shape, 1, 8)
    codes = np.arange(-6, 6, dtype=np.int8)
    for platform, order in (("520", (0, 2, 1, 3)), ("720", (0, 1, 2, 3))):  # line -> its codes' place among four
        _, made = passed(raw, codes.tobytes(), platform, to=Buffer("output", 0, "16W1C8B", shape, 1, 8))
        lines = np.frombuffer(made, np.int8).reshape(4, 16)
        assert lines[:, :3].tolist() == codes.reshape(4, 3)[list(order)].tolist() and not lines[:, 3:].any()


def test_int4_codes_lie_two_in_a_byte():
    mac = Mac(
        name="m", inputs=("x",), output="y", nodes=("m",), bits=8, axis=1, kind="dense", psum_bits=32, x_bits=8,
        weight_bits=4, post_multiplier=False,
    )  # fmt: skip
    weight = bytes([0x7A, 0xF0, 0x09]) + bytes(3)  # -6 7 | 0 -1 | -7
    held = (
        Constant("weight", "weight", 0, "int4", (5, 1)), Constant("bias", "weight", 3, "int8", (1,)),
        Constant("n1", "weight", 4, "int8", (1,)), Constant("n2", "weight", 5, "int8", (1,)),
    )  # fmt: skip
    x, y = Buffer("input", 0, "RAW", (1, 1), None, 8), Buffer("output", 0, "RAW", (1, 5), None, 8)
    program = NpuProgram(
        arith_version=1, name="one", platform="720", inputs=(Port("x", 0),), outputs=(Port("y", 1),), buffers=(x, y),
        lifetimes=(Lifetime(-1, 1), Lifetime(0, 1)), tensors=(),
        commands=(Compute("host", mac, (whole(0, (1, 1)),), (whole(1, (1, 5)),), held),),
        sizes=(("sram", 0), ("input", 1), ("output", 5), ("working", 0), ("weight", 6)),
    )  # fmt: skip
    made, _ = Machine(program, weight).run({"x": bytes([3])})
    assert np.frombuffer(made["y"], np.int8).tolist() == [-18, 21, 0, -3, -21]
