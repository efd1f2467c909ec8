import struct
from dataclasses import replace

import numpy as np
import onnx
import pytest
from msgspec import structs

from knerex_jax.artifacts import bie as bie_file
from knerex_jax.artifacts.bie import Bie, decode_bie, encode_bie, load_bie, save_bie
from knerex_jax.errors import ArtifactError
from knerex_jax.files import writable_folder
from knerex_jax.fixedpoint.qformat import QFormat
from knerex_jax.program.island import routine_digest
from knerex_jax.program.primitives import Island, Table
from knerex_jax.program.program import CodeTensor, Program
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.plan import QuantPlan


@pytest.fixture
def small() -> Bie:
    program = Program(
        name="net", platform="720", inputs=("x",), outputs=("y",),
        instructions=(Table(name="t", inputs=("x",), output="y", nodes=("t",), bits=8, x_bits=8),),
        tensors=(("x", CodeTensor((1, 2), 8)), ("y", CodeTensor((1, 2), 8))),
    )  # fmt: skip
    form = QFormat(np.array([3], np.int32), np.array([1.1], np.float32), 8, None)
    plan = QuantPlan(
        formats={"x": form, "y": form}, platform="720", post_multiplier=True, weight_bits={}, fused={},
        notes=(Note("a", "b", "c", "d"),),
    )  # fmt: skip
    constants = {"t": {"table": np.arange(-128, 128, dtype=np.int8)}, "tensor:x": {"factor": np.float32([8.8])}}
    return Bie(program, constants, plan, {"arith_version": 1, "source": "test"})


def test_round_trip_is_exact_and_deterministic(small):
    data = encode_bie(small)
    assert data == encode_bie(small)
    back = decode_bie(data, "memory")
    assert back.program == small.program and hash(back.program) == hash(small.program)
    assert back.plan.to_json() == small.plan.to_json()
    assert back.header == small.header
    for owner, group in small.constants.items():
        for key, array in group.items():
            np.testing.assert_array_equal(back.constants[owner][key], array)
            assert back.constants[owner][key].dtype == array.dtype


def test_every_flipped_bit_is_noticed(small):
    data = encode_bie(small)
    rng = np.random.default_rng(0)
    places = [*range(8 * bie_file._HEADER.size), *rng.integers(0, 8 * len(data), 300)]
    for place in places:
        broken = bytearray(data)
        broken[place // 8] ^= 1 << (place % 8)
        with pytest.raises(ArtifactError):
            decode_bie(bytes(broken), "memory")


@pytest.mark.parametrize("keep", [0, 10, 63, 64, 200, -1])
def test_a_truncated_file_is_noticed(small, keep):
    with pytest.raises(ArtifactError):
        decode_bie(encode_bie(small)[:keep], "memory")


def test_scalars_stay_scalars(small):
    held = replace(small, constants={**small.constants, "sum": {"axis": np.int64(2), "row": np.zeros((1, 2))}})
    read = decode_bie(encode_bie(held), "memory").constants["sum"]
    assert read["axis"].shape == () and read["axis"] == 2 and read["row"].shape == (1, 2)


def test_a_newer_file_says_so(small):
    data = bytearray(encode_bie(small))
    struct.pack_into("<I", data, len(bie_file.MAGIC), bie_file.VERSION + 1)
    with pytest.raises(ArtifactError, match="format version 2"):
        decode_bie(bytes(data), "memory")


@pytest.mark.parametrize("op_type", ["CumSum", "NoSuchOperator"])
def test_an_operator_that_this_onnx_computes_differently_is_refused(small, op_type):
    call = onnx.helper.make_node(op_type, ["x", "a"], ["z"]).SerializeToString()
    island = Island(
        name="sum", inputs=("x",), output="z", nodes=("sum",), bits=8, node=call, opset=21,
        digest=routine_digest("CumSum", 21), constant_types=(("a", "int64"),),
    )  # fmt: skip
    tensors = (*small.program.tensors, ("z", CodeTensor((1, 2), 8)))
    header = {**small.header, "versions": {"onnx": "1.2.3"}}

    def written(i: Island) -> bytes:
        program = structs.replace(small.program, instructions=(*small.program.instructions, i), tensors=tensors)
        return encode_bie(replace(small, program=program, header=header))

    if op_type == "CumSum":
        assert decode_bie(written(island), "memory").program.islands == (island,)
        island = structs.replace(island, digest="0" * 64)
    with pytest.raises(ArtifactError, match=rf"(?s){op_type}.*onnx 1.2.3.*where: memory, node sum.*install onnx 1.2.3"):
        decode_bie(written(island), "memory")


def test_saving_is_atomic(small, tmp_path, monkeypatch):
    path = tmp_path / "m.bie"
    save_bie(small, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ArtifactError, match="No space left"):
        save_bie(small, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.bie"]


def test_missing_file_and_unwritable_folder(tmp_path):
    with pytest.raises(ArtifactError, match="cannot read"):
        load_bie(tmp_path / "none.bie")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        writable_folder(tmp_path / "file" / "inside")
