"""A dump holds every tensor once, as the model that ran had it, and needs no more memory for more layers."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import Net
from onnx_text import proto_of
from planning import fixed_model, plan

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.artifacts.bie import save_bie
from knerex_jax.dumps.run import dump_notes
from knerex_jax.fixedpoint.qformat import ARITH_VERSION

HOST_NET = """
(float[1,4,6] x) => (float[1,4,6] z, int64[1,4,2] k) <int64 two = {2}, int64[1] best = {2}> {
  [sum] a = CumSum(x, two)  [top] v, k = TopK(a, best)  [act] z = Relu(a)
}"""


@pytest.fixture(scope="module")
def digits():
    return {"input": embedded.calibration()["input"][:2]}


def test_a_run_dumps_every_tensor_as_the_emulator_has_it(run, digits):
    assert run.paths["dump"].name == "digits_cnn.dump.zip" and run.paths["dump"].parent == run.paths["bie"].parent
    dump, fixed = kx.load_dump(run.paths["dump"]), kx.FixedModel.load(run.paths["bie"])
    assert [e.tensor for e in dump.index.tensors] == list(fixed.program.shapes)
    assert (dump.index.kind, dump.index.platform, dump.index.samples) == ("fixed", "720", 2)
    for t, codes in fixed.run(digits, "fixed", taps=tuple(fixed.program.shapes)).items():
        real, entry, f = fixed.dequantize(t, codes), dump.entry[t], run.plan.formats[t]
        assert (entry.shape, entry.dtype, entry.bits) == (codes.shape[1:], codes.dtype.name, f.bits)
        assert entry.radix == tuple(f.radix) and entry.scale == tuple(f.scale.astype(float))
        for k in range(2):
            found = dump.read(t, "codes", k)
            assert found.dtype == codes.dtype and np.array_equal(found, codes[k]), t
            assert np.array_equal(dump.read(t, "float", k), real[k]), t


def test_radix_and_scale_of_the_index_give_the_real_values(run):
    dump = kx.load_dump(run.paths["dump"])
    entry = next(e for e in dump.index.tensors if len(e.radix) > 1)
    factor = np.array(entry.scale) * 2.0 ** np.array(entry.radix)
    along = factor.reshape([-1 if k == entry.axis else 1 for k in range(len(entry.shape))])
    np.testing.assert_allclose(dump.read(entry.tensor), dump.read(entry.tensor, "codes") / along, rtol=1e-6)


def test_the_index_names_the_nodes_of_the_users_model(run):
    entry = kx.load_dump(run.paths["dump"]).entry["stem_relu.out"]
    assert entry.nodes == ("stem", "stem_relu") and entry.origin == ("stem", "stem_norm", "stem_relu")


def test_float_values_of_the_same_tensors_lie_beside(run, digits):
    dump = kx.load_dump(run.paths["dump"])
    logits = kx.FloatModel.load(embedded.model_path()).run(digits)["logits"]
    for k in range(2):
        np.testing.assert_allclose(dump.read("logits", "float_model", k), logits[k], rtol=1e-4, atol=1e-5)
    snr = dump.snr_db()
    assert list(snr) == [e.tensor for e in dump.index.tensors]
    assert snr["stem_relu.out"] > snr["logits"] > 20


def test_of_a_nef_there_is_what_the_simulator_holds_whole(run, digits, tmp_path):
    one = {t: v[:1] for t, v in digits.items()}
    found = kx.load_dump(kx.dump(run.paths["nef"], one, tmp_path / "n.zip"))
    emulated = kx.load_dump(run.paths["dump"])
    assert found.index.kind == "nef" and {"input", "pool1.out", "logits"} <= set(found.entry)
    for t, entry in found.entry.items():
        codes = found.read(t, "codes")
        assert codes.dtype == emulated.read(t, "codes").dtype and np.array_equal(codes, emulated.read(t, "codes")), t
        assert entry.nodes == emulated.entry[t].nodes
    assert np.array_equal(found.read("logits"), emulated.read("logits"))
    with pytest.raises(kx.ConfigError, match="there is codes"):
        found.read("pool1.out", "float")


def test_a_float_model_has_values_only(digits, tmp_path):
    dump = kx.load_dump(kx.dump(embedded.model_path(), digits, tmp_path / "f.zip"))
    model = kx.FloatModel.load(embedded.model_path())
    assert dump.index.kind == "float" and len(dump.index.tensors) == 1 + len(model.model.graph.nodes)
    np.testing.assert_allclose(dump.read("logits"), model.run(digits)["logits"][0], rtol=1e-4, atol=1e-5)


def test_islands_and_plain_tensors_are_there(tmp_path):
    onnx.save(proto_of(HOST_NET), tmp_path / "net.onnx")
    inputs = {"x": np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)}
    result = kx.run_ptq(p_onnx=tmp_path / "net.onnx", np_txt=inputs, p_output=tmp_path / "out", mode=1)
    fixed = kx.FixedModel.load(result.paths["bie"])
    dump = kx.load_dump(kx.dump(result.paths["bie"], inputs, tmp_path / "i.zip", samples=3))
    for t, values in fixed.run(inputs, "fixed", taps=tuple(fixed.program.shapes)).items():
        for k in range(3):
            found = dump.read(t, "codes", k)
            assert found.dtype == values.dtype and np.array_equal(found, values[k]), t
    plain = [e for e in dump.index.tensors if not e.bits]
    assert plain and all(set(e.files[0]) == {"codes"} and not e.radix for e in plain)


def test_equal_dumps_are_equal_files_and_hold_nothing_unlisted(digits, tmp_path):
    paths = [kx.dump(embedded.model_path(), digits, tmp_path / name, samples=2) for name in ("a.zip", "b.zip")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        index = json.loads(archive.read("index.json"))
        listed = [name for e in index["tensors"] for parts in e["files"] for name in parts.values()]
        assert sorted([*listed, "index.json"]) == sorted(archive.namelist())


def test_too_few_samples_leave_the_old_file(digits, tmp_path):
    path = kx.dump(embedded.model_path(), digits, tmp_path / "d.zip")
    before = path.read_bytes()
    with pytest.raises(kx.ModelError, match="5 samples asked for, the data hold 2"):
        kx.dump(embedded.model_path(), digits, path, samples=5)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(kx.ConfigError, match="0 samples"):
        kx.dump(embedded.model_path(), digits, path, samples=0)


def test_what_is_no_dump_is_said(tmp_path, digits):
    (tmp_path / "no.zip").write_bytes(b"PK")
    with pytest.raises(kx.ArtifactError, match="no dump"):
        kx.load_dump(tmp_path / "no.zip")
    dump = kx.load_dump(kx.dump(embedded.model_path(), digits, tmp_path / "d.zip"))
    for wrong, words in ((("nope",), "no such tensor"), (("logits", "float", 1), "no sample 1")):
        with pytest.raises(kx.ConfigError, match=words):
            dump.read(*wrong)


def test_more_samples_than_the_run_holds_are_noted():
    (note,) = dump_notes(kx.PTQConfig(export_dynasty_dump=True, dump_samples=5), held=3)
    assert (note.requested, note.applied) == ("5", "3")
    assert [n.where for n in kx.PTQConfig(export_dynasty_dump=True, mode=0).notes()] == ["export_dynasty_dump"]


MEMORY_SCRIPT = """
import resource, sys
import numpy as np
import knerex_jax as kx

x = np.zeros((6, 4, 512, 512), np.float32)
x[..., 0] = 1
for name, samples in (("short.bie", 2), ("long.bie", 6)):
    kx.dump(name, {"x": x}, "d.zip", samples=samples)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_grows_neither_with_depth_nor_with_samples(tmp_path):
    for name, layers in (("short", 2), ("long", 12)):
        net, x = Net({"x": (1, 4, 512, 512)}), "x"
        for _ in range(layers):
            x = net.add("Abs", net.add("Neg", x))
        fixed = fixed_model(plan(net.model(x), {"x": np.ones((1, 4, 512, 512), np.float32)}))
        assert len(fixed.program.instructions) == 2 * layers
        save_bie(replace(fixed.bie, header={"arith_version": ARITH_VERSION}), tmp_path / f"{name}.bie")
    command = [sys.executable, "-c", MEMORY_SCRIPT]
    ran = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    short, long = (int(line) for line in ran.stdout.split())
    # The long one has 24 tensors of 5 MB, codes and floats, in each of 6 samples.
    assert long - short < 25_000, f"{short} KB of 4 layers and 2 samples, {long} KB of 24 and 6"
