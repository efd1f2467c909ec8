"""Sizes and alignment of tensors in memory; published sizes come out exactly."""

import numpy as np
import pytest

from knerex_jax.compiler.layout import buffer_of, byte_size, decode, encode, input_format, starts_an_entry, view
from knerex_jax.npu.isa import Buffer
from knerex_jax.program.program import CodeTensor, PlainTensor


def size(shape: tuple[int, ...], format: str, platform: str = "720", bits: int = 8) -> int:
    return byte_size(buffer_of(CodeTensor(shape, bits, 1), format, "working", 0), platform)


def test_published_sizes():
    assert size((1, 3, 416, 416), "4W4C8B", "520") == size((1, 3, 416, 416), "4W4C8B") == 692_224
    assert size((1, 255, 13, 13), "16W1C8B") + size((1, 255, 26, 26), "16W1C8B", "520") == 265_200


def test_a_15_bit_tensor_takes_twice_the_room():
    for format in ("1W16C8B", "16W1C8B", "4W4C8B"):
        assert size((1, 4, 5, 7), format, bits=15) == 2 * size((1, 4, 5, 7), format)


def test_plain_tensors_are_as_numpy_has_them():
    assert byte_size(buffer_of(PlainTensor((1, 3, 5), "int64"), "1W16C8B", "working", 0), "720") == 120


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((1, 8, 5, 7), 1, (8, 5, 7)),
        ((1, 8, 5, 7), None, (8, 5, 7)),
        ((2, 8, 5, 7), 1, (8, 10, 7)),
        ((1, 12, 384), 2, (384, 1, 12)),
        ((1, 12, 384), None, (12, 1, 384)),
        ((1, 1000), None, (1000, 1, 1)),
        ((), None, (1, 1, 1)),
    ],
)
def test_channels_height_and_width(shape, axis, expected):
    assert view(shape, axis) == expected


def test_pictures_have_formats_of_their_own():
    assert input_format((1, 3, 8, 8), None) == "4W4C8B"
    assert input_format((1, 1, 8, 8), None) == "16W1C8B"
    assert input_format((1, 40, 8, 8), None) == "1W16C8B" == input_format((1, 3, 8), None)


def test_a_transfer_starts_at_an_entry():
    inner = Buffer("working", 0, "1W16C8B", (1, 64, 9, 9), 1, 8)
    assert starts_an_entry(inner, ((0, 1), (16, 40), (3, 9), (5, 9)))
    assert not starts_an_entry(inner, ((0, 1), (8, 40), (0, 9), (0, 9)))
    out = Buffer("output", 0, "16W1C8B", (1, 64, 9, 40), 1, 8)
    assert starts_an_entry(out, ((0, 1), (3, 9), (1, 2), (16, 40)))
    assert not starts_an_entry(out, ((0, 1), (0, 9), (0, 9), (8, 40)))


@pytest.mark.parametrize("bits", [8, 15])
def test_bytes_of_a_constant(bits):
    rng = np.random.default_rng(0)
    limit = 1 << (bits - 1)
    codes = rng.integers(-limit, limit, (1, 20, 2, 3))
    buffer = buffer_of(CodeTensor(codes.shape, bits, 1), "1W16C8B", "weight", 0)
    data = encode(codes, buffer, "720")
    assert len(data) == byte_size(buffer, "720")
    for c, h, w in np.ndindex(20, 2, 3):
        place = (c // 16) * (2 * 3 * 16) + (h * 3 + w) * 16 + c % 16
        if bits == 8:
            value = int.from_bytes(data[place : place + 1], "little", signed=True)
        else:
            at = place // 16 * 32 + place % 16
            value = ((int.from_bytes(data[at + 16 : at + 17], signed=True) << 8) + (data[at] << 1)) // 2
            assert data[at] < 128
        assert value == codes[0, c, h, w]


@pytest.mark.parametrize("bits", [8, 15])
@pytest.mark.parametrize("platform", ["520", "720"])
@pytest.mark.parametrize("format", ["1W16C8B", "16W1C8B", "4W4C8B", "RAW"])
@pytest.mark.parametrize(("shape", "axis"), [((1, 19, 5, 7), 1), ((2, 6, 35), 2), ((1, 10), None)])
def test_bytes_come_back(shape, axis, format, platform, bits):
    codes = np.random.default_rng(1).integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    buffer = buffer_of(CodeTensor(shape, bits, axis), format, "output", 0)
    data = encode(codes, buffer, platform)
    assert len(data) == byte_size(buffer, platform)
    assert np.array_equal(decode(data, buffer, platform), codes)
