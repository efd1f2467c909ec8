"""`knerex infer` and `knerex simulate`."""

import json

import numpy as np
import pytest
from PIL import Image

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npz"
    np.savez(path, input=embedded.evaluation()[0]["input"][:5])
    return path


def knerex(*arguments) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


@pytest.mark.parametrize(("kind", "data_type"), [("onnx", "float"), ("bie", "float"), ("nef", "fixed")])
def test_infer_gives_what_the_published_call_gives(run, data, tmp_path, capsys, kind, data_type):
    path = embedded.model_path() if kind == "onnx" else run.paths[kind]
    arguments = ("--data", data, "-o", tmp_path, "--data-type", data_type, "--batch-size", 2, "--json")
    assert knerex("infer", path, *arguments) == 0
    said = json.loads(capsys.readouterr().out)
    arrays = np.load(data)["input"]
    (wanted,) = kx.kneron_inference([arrays], ["input"], **{f"{kind}_file": path}, data_type=data_type)
    assert said["samples"] == 5 and said["files"] == [[f"{k:06d}.npz"] for k in range(5)]
    assert said["outputs"] == {"logits": {"shape": [10], "dtype": wanted.dtype.name}}
    for k in range(5):
        found = np.load(tmp_path / f"{k:06d}.npz")["logits"]
        if kind == "onnx":  # float sums depend on how many samples run together
            np.testing.assert_allclose(found, wanted[k], rtol=1e-4, atol=1e-5)
        else:
            assert found.dtype == wanted.dtype and np.array_equal(found, wanted[k])
    assert json.loads((tmp_path / "index.json").read_text()) == said


def test_infer_takes_pictures_and_dumps(run, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    inputs = embedded.evaluation()[0]["input"][:3]
    for k, one in enumerate(inputs):
        Image.fromarray(((one[0] + 0.5) * 256).astype(np.uint8)).save(folder / f"digit{k}.png")
    out = tmp_path / "out"
    asked = ("--data", folder, "--preprocess", "kneron", "--layout", "NCHW", "--format", "npy", "-o", out)
    assert knerex("infer", run.paths["bie"], *asked, "--dump", "--dump-samples", 2) == 0
    assert "3 samples of digits_cnn (fixed): logits (10,) float32" in capsys.readouterr().out
    fixed = kx.FixedModel.load(run.paths["bie"])
    for k, wanted in enumerate(fixed.run({"input": inputs})["logits"]):
        assert np.array_equal(np.load(out / f"{k:06d}_digit{k}.npy"), wanted)
    dump = kx.load_dump(out / "digits_cnn.dump.zip")
    codes = fixed.run({"input": inputs[:2]}, "fixed")["logits"]
    assert dump.index.samples == 2 and np.array_equal(dump.read("logits", "codes", 1), codes[1])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("nope.bie", "--data", "DATA"), ["cannot read the model", "nope.bie"]),
        (("BIE", "--data", "nope"), ["no such file or folder", "nope"]),
        (("ONNX", "--data", "DATA", "--data-type", "fixed"), ["has no codes"]),
        (("DATA", "--data", "DATA"), ["fix:"]),
    ],
)
def test_infer_says_what_is_wrong(run, data, tmp_path, capsys, asked, words):
    known = {"BIE": run.paths["bie"], "ONNX": embedded.model_path(), "DATA": data}
    assert knerex("infer", *(known.get(a, a) for a in asked), "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert all(w in said for w in words) and "Traceback" not in said and len(said.splitlines()) < 8
    assert not (tmp_path / "out" / "index.json").exists()


def test_simulate_prints_a_table_and_skips(run, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    inputs, labels = embedded.evaluation()
    for k in range(2):
        Image.fromarray(((inputs["input"][k, 0] + 0.5) * 256).astype(np.uint8)).save(folder / f"{k}.png")
    (folder / "bad.png").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("".join(f"{k}.png,{labels[k]}\n" for k in range(2)))
    monkeypatch.chdir(tmp_path)
    asked = (
        "simulate", "--onnx", embedded.model_path(), "--bie", run.paths["bie"], "--images", "pictures",
        "--pre", "kneron", "--layout", "NCHW", "--post", "knerex_jax.e2e.ready:top5", "--labels", "labels.csv",
        "-o", "out", "--metric", "knerex_jax.e2e.ready:top1_accuracy",
    )  # fmt: skip
    assert knerex(*asked) == 1 and "bad.png" in capsys.readouterr().err
    assert knerex(*asked, "--skip-bad") == 0
    said = capsys.readouterr().out
    assert "SNR to float, dB" in said and "skipped: pictures/bad.png" in said
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
    assert knerex(*asked, "--skip-bad", "--no-draw", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metric"] == {"float": 1.0, "fixed": 1.0}
