"""The container: what goes in comes out, what is broken is refused, what is being written is never half there."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from helpers import samples
from npu_nets import backbone
from planning import plan

from knerex_jax import files
from knerex_jax.artifacts.bie import Bie, decode_bie, encode_bie, save_bie
from knerex_jax.cli import main
from knerex_jax.deliver import ModelEntry, compile, nef_model, with_probe
from knerex_jax.errors import ArtifactError, ConfigError, KnerexError
from knerex_jax.nef import container
from knerex_jax.nef.container import Nef, decode_nef, encode_nef, load_nef, model_of, save_nef
from knerex_jax.nef.crypto import KEY_VARIABLE, read_key
from knerex_jax.nef.segments import NefModel
from knerex_jax.nef.tools import combine_nef, extract_nef, nef_info, nef_value, opening_key
from knerex_jax.npu_model import NpuModel, compile_bie
from knerex_jax.runtime import FixedModel
from knerex_jax.verdict import verify

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def made():
    """A fixed-point model, its inputs, and the same compiled."""
    net, outputs = backbone(table=False)
    model = net.model(*outputs)
    data = samples(model, 2)
    planned = plan(model, data, "720", "int8")
    bie = Bie(planned.program, planned.constants, planned.plan, {"arith_version": 1, "source_sha256": "0" * 64})
    compiled = compile_bie(bie)
    bie = with_probe(bie, FixedModel(bie), NpuModel(compiled.program, compiled.weight))
    return bie, data, nef_model(bie, compiled, 32769, "0001")


@pytest.fixture(scope="module")
def nef(made) -> Nef:
    return Nef((made[2],))


def other(model: NefModel, **changes) -> NefModel:
    return replace(model, **changes)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_round_trip(nef, compress, key):
    data = encode_nef(nef, compress=compress, key=key)
    assert decode_nef(data, "memory", key=key) == nef
    assert (data == encode_nef(nef, compress=compress, key=key)) == (key is None), "only the nonce is random"
    assert len(encode_nef(nef, compress=True)) < len(encode_nef(nef))
    assert (nef.models[0].weight[:64] in data) == (key is None and not compress)


def test_a_loaded_nef_runs_as_before(made, nef, tmp_path):
    bie, data, model = made
    save_nef(nef, tmp_path / "a.nef")
    inputs = {t: v[:1] for t, v in data.items()}
    wanted = FixedModel(bie).run(inputs, "fixed")
    for name, codes in NpuModel.load(tmp_path / "a.nef").run(inputs, "fixed").items():
        np.testing.assert_array_equal(codes.ravel(), wanted[name].ravel())
    info = msgspec.json.decode(container.to_segments(model)["ioinfo"])
    (entry,) = info["input"]
    held = bie.plan.formats["x"]
    assert entry["shape"] == [1, 3, 18, 22] and entry["format"] == "4W4C8B" and entry["bits"] == 8
    assert (entry["radix"], entry["scale"]) == (held.radix.tolist(), held.scale.tolist())
    assert [e["name"] for e in info["output"]] == list(bie.program.outputs)


def test_what_cannot_be_one_nef(made):
    model = made[2]
    wrong = {
        "have the id 32769": (model, model),
        "platforms 720, 730": (model, other(model, model_id=2, program=on(model, "730"))),
        "for platforms 720, 730": (model, other(model, program=on(model, "730"))),  # of one id, too: the other is worse
        "without a model": (),
    }
    for words, models in wrong.items():
        with pytest.raises(ArtifactError, match=words):
            encode_nef(Nef(models))


def on(model: NefModel, platform: str):
    return msgspec.structs.replace(model.program, platform=platform)


def test_every_flipped_bit_is_noticed(made, nef):
    rng = np.random.default_rng(0)
    for data, decode in ((encode_nef(nef, compress=True), decode_nef), (encode_bie(made[0]), decode_bie)):
        head = rng.permutation(8 * container._START)[:200]
        for place in (*head, *rng.integers(0, 8 * len(data), 800)):
            broken = bytearray(data)
            broken[place // 8] ^= 1 << (place % 8)
            with pytest.raises(ArtifactError):
                decode(bytes(broken), "memory")


@pytest.mark.parametrize("keep", [0, 10, container._START - 1, container._START, 500, -1])
def test_a_truncated_file_is_noticed(nef, keep):
    with pytest.raises(ArtifactError):
        decode_nef(encode_nef(nef)[:keep], "memory")


def rebuilt(data: bytes, change) -> bytes:
    """The file with another head (after `change`) and the right hash: what no accident makes."""
    magic, version, flags, head_size, _ = container._FIXED.unpack_from(data)
    head = msgspec.json.decode(data[container._START : container._START + head_size])
    body = data[container._START + head_size :]
    text = change(head) or msgspec.json.encode(head)
    fixed = container._FIXED.pack(magic, version, flags, len(text), len(body))
    return fixed + hashlib.sha256(fixed + text + body).digest() + text + body


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["models"].append(h["models"][0]), "two models of id 32769"),
        (lambda h: h["models"].clear(), "holds no model"),
        (lambda h: h.update(platform="520"), "is for platform 720, the nef for 520"),
        (lambda h: h.update(compression="lzma"), "packed by 'lzma'"),
        (lambda h: h.update(compression="zlib"), "segment setup cannot be unpacked"),
        (lambda h: h.update(encryption="AES-256-GCM"), "its flags are 0"),
        (lambda h: h.update(schema_version=2), "schema version 2"),
        (lambda h: h["models"][0].pop("segments"), "head of the nef is not readable"),
        (lambda h: h["models"][0]["segments"].pop(), "32769 is not readable: 'meta'"),
        (lambda h: h["models"][0]["segments"][2].update(offset=1), "segment weight does not have its checksum"),
        (lambda h: b"not json", "head of the nef is not readable"),
    ],
)
def test_a_head_that_is_wrong_is_one_screen_of_text(nef, tmp_path, capsys, change, words):
    path = tmp_path / "a.nef"
    path.write_bytes(rebuilt(encode_nef(nef), lambda head: b"not json" if change(head) == b"not json" else None))
    with pytest.raises(SystemExit) as stop:
        main(["nef", "extract", str(path), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 1 and words in said and str(path) in said and "fix:" in said
    assert len(said.splitlines()) == 3 and not (tmp_path / "out").exists()


def test_beginnings_and_flags_say_what_they_are(nef):
    data = bytearray(encode_nef(nef))
    for size in (10, 60):
        with pytest.raises(ArtifactError, match=f"cut short .{size} bytes"):
            decode_nef(bytes(data[:size]), "memory")
    struct.pack_into("<I", data, len(container.MAGIC) + 4, 6)
    with pytest.raises(ArtifactError, match="flags 0x6, of which this program knows 0x1"):
        decode_nef(bytes(data), "memory")


def test_newer_files_say_so(nef, monkeypatch):
    data = bytearray(encode_nef(nef))
    struct.pack_into("<I", data, len(container.MAGIC), container.VERSION + 1)
    with pytest.raises(ArtifactError, match="format version 2"):
        decode_nef(bytes(data), "memory")
    monkeypatch.setattr(container, "ISA_VERSION", 99)
    data = encode_nef(nef)
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="commands of version 99"):
        decode_nef(data, "memory")


def test_keys(nef, tmp_path, monkeypatch):
    path = tmp_path / "a.nef"
    save_nef(nef, path, key=KEY)
    for key, words in ((None, "is encrypted"), (bytes(32), "not the one"), (b"short", "5 bytes")):
        with pytest.raises(KnerexError, match=words):
            load_nef(path, key=key)
    assert nef_value(path, "models.0.model_id") == 32769, "the head is readable"
    save_nef(nef, tmp_path / "plain.nef")
    with pytest.raises(ArtifactError, match="not encrypted"):
        load_nef(tmp_path / "plain.nef", key=KEY)
    (tmp_path / "raw").write_bytes(KEY)
    (tmp_path / "hex").write_text(KEY.hex() + "\n")
    (tmp_path / "bad").write_text("zz")
    assert read_key(tmp_path / "raw") == read_key(tmp_path / "hex") == KEY and read_key(None) is None
    for wrong in (tmp_path / "bad", tmp_path / "missing"):
        with pytest.raises(ConfigError, match="key"):
            read_key(wrong)
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    assert opening_key(path, None) == KEY and opening_key(tmp_path / "plain.nef", None) is None


def test_combined_and_extracted_models_are_the_same(made, nef, tmp_path):
    second = Nef((other(made[2], model_id=7, name="second"),))
    save_nef(nef, tmp_path / "a.nef")
    save_nef(second, tmp_path / "b.nef", key=KEY)
    path = combine_nef([tmp_path / "a.nef", tmp_path / "b.nef"], tmp_path / "both", key=KEY)
    both = load_nef(path, key=KEY)
    assert path.name == "models_720.nef" and [m.model_id for m in both.models] == [32769, 7]
    assert model_of(both, 7, "").name == "second"
    for wanted, words in ((None, "several models"), (8, "no model 8")):
        with pytest.raises(ArtifactError, match=words):
            model_of(both, wanted, "")
    parts = extract_nef(path, tmp_path / "parts", key=KEY)
    assert (tmp_path / "parts/model_7/weight.bin").read_bytes() == made[2].weight
    again = combine_nef(parts, tmp_path / "again")
    assert again.read_bytes() == encode_nef(both)
    info = nef_info(again)
    assert info["platform"] == "720" and len(info["crc"]) == 8 and info["models"][0]["uuid"]
    assert nef_value(again, "models.1.segments.0.name") == "setup"
    for entry in ("models.5", "crc.x", "nothing"):
        with pytest.raises(ConfigError, match="no entry"):
            nef_value(again, entry)


def test_bies_compile_to_one_nef_and_are_verified(made, tmp_path):
    bie = made[0]
    save_bie(bie, tmp_path / "a.bie")
    path = compile([tmp_path / "a.bie", ModelEntry(tmp_path / "a.bie", 5, "ab")], tmp_path, compress=True)
    assert [(m.model_id, m.version) for m in load_nef(path).models] == [(32769, "0001"), (5, "ab")]
    for file, executor in ((path, "simulator"), (tmp_path / "a.bie", "emulator")):
        for verdict in verify(file, batch_size=3):
            assert verdict.equal and verdict.executor == executor and verdict.tensors == bie.program.outputs


def test_a_difference_is_said_and_placed(made, tmp_path):
    bie = made[0]
    name = next(n for n, group in bie.constants.items() if "weight" in group)
    constants = {**bie.constants, name: {**bie.constants[name], "bias": bie.constants[name]["bias"] + 9999}}
    save_bie(replace(bie, constants=constants), tmp_path / "a.bie")
    (verdict,) = verify(tmp_path / "a.bie")
    assert not verdict.equal and verdict.differing and "other arithmetic" in verdict.where
    save_bie(replace(bie, header={"arith_version": 1}), tmp_path / "old.bie")
    with pytest.raises(ArtifactError, match="no hashes"):
        verify(tmp_path / "old.bie")


WRITER = """
import os, sys
from pathlib import Path
from knerex_jax.files import write_atomic
path, blobs = Path(sys.argv[1]), [Path(p).read_bytes() for p in sys.argv[2:]]
for _ in sys.stdin:  # each line asks for one more writer
    child = os.fork()
    while child == 0:
        for blob in blobs:
            write_atomic(path, blob)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(nef, tmp_path):
    one, two = encode_nef(nef), encode_nef(nef, compress=True)
    (tmp_path / "one").write_bytes(one)
    (tmp_path / "two").write_bytes(two)
    rng, target = np.random.default_rng(0), tmp_path / "out" / "a.nef"
    files.write_atomic(target, one)
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        WRITER,
        str(target),
        str(tmp_path / "one"),
        str(tmp_path / "two"),
    ]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        for _ in range(50):
            print("go", file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            time.sleep(float(rng.uniform(0, 0.02)))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"
            assert target.read_bytes() in (one, two)
        parent.stdin.close()
    assert len(list(target.parent.iterdir())) > 1, "some were killed while they wrote"


def test_the_command_line(nef, made, tmp_path, capsys):
    def knerex(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        return left.value.code, capsys.readouterr().out

    save_bie(made[0], tmp_path / "a.bie")
    code, out = knerex("nef", "compile", tmp_path / "a.bie", "-o", tmp_path, "--compress")
    path = tmp_path / "models_720.nef"
    assert code == 0 and out.strip() == str(path)
    assert knerex("nef", "get", path, "models.0.model_id") == (0, "32769\n")
    assert "32769" in knerex("nef", "info", path)[1] and '"zlib"' in knerex("nef", "info", path, "--json")[1]
    assert knerex("nef", "extract", path, "-o", tmp_path / "parts")[0] == 0
    assert knerex("nef", "combine", tmp_path / "parts/model_32769.nef", "-o", tmp_path / "again")[0] == 0
    for file in (path, tmp_path / "a.bie"):
        code, out = knerex("verify", file)
        assert code == 0 and "equal" in out
    constants = {n: {k: v * 0 if k == "weight" else v for k, v in g.items()} for n, g in made[0].constants.items()}
    save_bie(replace(made[0], constants=constants), tmp_path / "wrong.bie")
    code, out = knerex("verify", tmp_path / "wrong.bie", "--json")
    assert code == 1 and '"equal": false' in out
    assert knerex("nef", "info", tmp_path / "a.bie")[0] == 1
