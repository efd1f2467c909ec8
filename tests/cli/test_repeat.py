"""`--config` of commands other than ptq, and the file that they leave."""

import json
import tomllib
from pathlib import Path

import pytest
from tiny import tiny_npz, tiny_onnx

from knerex_jax.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_onnx(tmp_path)
    tiny_npz(tmp_path / "d.npz", 4)
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_a_run_leaves_its_options_and_they_repeat_it(folder, monkeypatch, capsys):
    asked = ["tiny.onnx", "--data", "d.npz", "--format", "npy", "-o", "made", "--input-shape", "x:1,3,8,8"]
    assert run("infer", *asked, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    held = tomllib.loads((folder / "made" / "infer.toml").read_text())
    assert held == {
        "model": "../tiny.onnx", "data": "../d.npz", "form": "npy", "p_output": ".", "input_shape": ["x:1,3,8,8"],
        "as_json": True,
    }  # fmt: skip
    before = {p.name: p.read_bytes() for p in (folder / "made").rglob("*.npy")}
    assert before
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("infer", "--config", "../made/infer.toml", "-o", "again") == 0
    assert {p.name: p.read_bytes() for p in (elsewhere / "again").rglob("*.npy")} == before
    assert json.loads(capsys.readouterr().out)["outputs"] == first["outputs"]


def test_without_a_folder_nothing_is_left(folder):
    assert run("evaluate", "tiny.onnx", "--quiet") == 0
    assert not list(folder.rglob("*.toml"))
    assert run("evaluate", "tiny.onnx", "--platform", "520", "--platform", "730", "-o", "figures", "--quiet") == 0
    held = tomllib.loads((folder / "figures" / "evaluate.toml").read_text())
    assert held == {"model": "../tiny.onnx", "platforms": ["520", "730"], "output_dir": ".", "quiet": True}
    for path in (folder / "figures").glob("ip_evaluation_*"):
        path.unlink()
    assert run("evaluate", "--config", "figures/evaluate.toml") == 0
    assert {p.name for p in (folder / "figures").glob("*.json")} == {"ip_evaluation_520.json", "ip_evaluation_730.json"}


def test_an_unknown_option_of_the_file_is_named_with_a_suggestion(folder, capsys):
    (folder / "wrong.toml").write_text('modle = "tiny.onnx"\n')
    assert run("infer", "--config", "wrong.toml") == 1
    assert "unknown option 'modle'" in (said := capsys.readouterr().err) and "did you mean 'model'" in said
    assert run("infer", "--config", "none.toml") == 1
    assert "cannot read the config file" in capsys.readouterr().err


def test_a_failed_run_leaves_nothing(folder):
    assert run("infer", "tiny.onnx", "--data", "none.npz", "-o", "made") == 1
    assert not list(folder.rglob("*.toml"))
