"""`read_pth` against files assembled byte by byte, so that PyTorch is not needed here either."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from knerex_jax.errors import ModelError
from knerex_jax.zoo.pth import read_pth

VALUES = np.arange(24, dtype=np.float32) / 8
ORDERED_DICT = b"ccollections\nOrderedDict\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    key: str, size: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], kind: str = "FloatStorage"
) -> bytes:
    """Opcodes of a tensor as torch.save writes it: a call of _rebuild_tensor_v2 on a reference to its storage."""
    storage = (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(size) + b"tQ"
    )
    view = number(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"I00\n" + ORDERED_DICT + b")RtR"


def state_dict(**items: bytes) -> bytes:
    pairs = b"".join(text(name.replace("__", ".")) + value for name, value in items.items())
    return b"\x80\x02" + ORDERED_DICT + b")R(" + pairs + b"u."


STATE = state_dict(
    layer__weight=tensor("7", 24, 0, (2, 3, 4), (12, 4, 1)),
    layer__transposed=tensor("7", 24, 1, (4, 2), (1, 4)),
    count=tensor("8", 1, 0, (), (), kind="LongStorage"),
)
STORAGES = {"7": VALUES.tobytes(), "8": np.int64(5).tobytes()}


def write_zip(path: Path, index: bytes = STATE, storages: dict[str, bytes] = STORAGES) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", index)
        archive.writestr("model/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
    return path


def write_legacy(path: Path) -> Path:
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    protocol = b"\x80\x02" + number(1001) + b"."
    platform = b"\x80\x02}(" + text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + text("8") + text("7") + b"e."
    storages = struct.pack("<q", 1) + STORAGES["8"] + struct.pack("<q", 24) + STORAGES["7"]
    path.write_bytes(magic + protocol + platform + STATE + keys + storages)
    return path


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_reads_views_of_shared_storages(tmp_path, write):
    tensors = read_pth(write(tmp_path / "model.pth"))
    assert list(tensors) == ["layer.weight", "layer.transposed", "count"]
    np.testing.assert_array_equal(tensors["layer.weight"], VALUES.reshape(2, 3, 4))
    np.testing.assert_array_equal(tensors["layer.transposed"], VALUES[1:9].reshape(2, 4).T)
    assert tensors["count"] == 5 and tensors["count"].dtype == np.int64
    assert all(array.flags.c_contiguous and array.flags.owndata for array in tensors.values())


@pytest.mark.parametrize(
    "index",
    [
        b"\x80\x02cos\nsystem\n(" + text("true") + b"tR.",
        state_dict(weight=b"cbuiltins\neval\n(" + text("1") + b"tR"),
        state_dict(weight=b"ctorch.nn\nModule\n)R"),
    ],
)
def test_refuses_to_call_anything_else(tmp_path, index):
    with pytest.raises(ModelError, match="which a state dict does not need"):
        read_pth(write_zip(tmp_path / "model.pth", index))


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        (state_dict(weight=tensor("7", 24, 1, (24,), (1,))), "outside its storage"),
        (state_dict(weight=tensor("7", 24, 5, (2,), (-1,))), "damaged"),
        (state_dict(weight=tensor("7", 20, 0, (20,), (1,))), "damaged"),
        (state_dict(weight=tensor("9", 24, 0, (24,), (1,))), "9"),
        (state_dict(weight=number(3)), "not a tensor"),
        (b"\x80\x02" + number(3) + b".", "not a state dict"),
    ],
)
def test_says_what_is_damaged(tmp_path, index, complaint):
    with pytest.raises(ModelError, match=complaint):
        read_pth(write_zip(tmp_path / "model.pth", index))


@pytest.mark.parametrize("length", [0, 3, 30, 100, -1])
def test_truncated_file(tmp_path, length):
    path = write_legacy(tmp_path / "model.pth")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="not a readable PyTorch state dict"):
        read_pth(path)
