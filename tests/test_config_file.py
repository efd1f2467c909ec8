"""Config files: read, written back, and a run that is repeated from what it wrote."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_data, tiny_npz, tiny_onnx

import knerex_jax as kx
from knerex_jax.cli import main
from knerex_jax.config_file import config_text, read_options
from knerex_jax.data.preprocess import Preprocess

OPTIONS = """
p_onnx = "models/m.onnx"
np_txt = "images"
platform = "730"
data_analysis_pct = 1.0
optimize = 1
range_search = true
[input_shape]
"input:0" = [1, 3, 32, 32]
[preprocess]
preset = "pytorch"
resize = "letterbox"
mean = [0.1, 0.2, 0.3]
[quan_config."head*"]
bitwidth = 15
"""


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return int(caught.value.code or 0)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_toml_and_yaml_say_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = json.dumps(
        {
            "p_onnx": "models/m.onnx", "np_txt": "images", "platform": "730", "data_analysis_pct": 1.0, "optimize": 1,
            "range_search": True, "input_shape": {"input:0": [1, 3, 32, 32]},
            "preprocess": {"preset": "pytorch", "resize": "letterbox", "mean": [0.1, 0.2, 0.3]},
            "quan_config": {"head*": {"bitwidth": 15}},
        }
    )  # fmt: skip
    toml = kx.load_config(write(tmp_path / "a" / "run.toml", OPTIONS))
    assert toml == kx.load_config(write(tmp_path / "a" / "run.yaml", table))  # JSON is YAML
    assert toml.platform == "730" and toml.range_search is True
    assert toml.preprocess == Preprocess("pytorch", resize="letterbox", mean=(0.1, 0.2, 0.3))
    assert toml.input_shape == {"input:0": (1, 3, 32, 32)}


def test_paths_start_at_the_folder_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "deep" / "run.toml", 'p_onnx = "m.onnx"\nnp_txt = "../data"\nip_config = "/etc/ip.json"\n')
    options = read_options("deep/run.toml")
    assert options == {"p_onnx": "deep/m.onnx", "np_txt": "data", "ip_config": "/etc/ip.json"}


def test_every_config_can_be_written_and_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = kx.load_config(write(tmp_path / "run.toml", OPTIONS))
    out = tmp_path / "out" / "run.toml"
    again = kx.load_config(write(out, config_text(config, out.parent)))
    different = [f.name for f in fields(config) if getattr(config, f.name) != getattr(again, f.name)]
    assert different == ["p_output"] and Path(again.p_output) == Path("out")
    by_input = kx.PTQConfig(p_onnx="m.onnx", np_txt="d", preprocess={"a": "kneron", "b": Preprocess(fill=3)})
    assert kx.load_config(write(out, config_text(by_input, out.parent))).preprocess == by_input.preprocess


def test_what_no_file_can_hold_is_said_there(tmp_path):
    text = config_text(kx.PTQConfig(p_onnx="m.onnx", np_txt={"x": [np.zeros(3)]}), tmp_path)
    assert "# np_txt was given as a Python dict, which no file can hold: give --np-txt" in text
    assert "np_txt =" not in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('platfrom = "720"', "did you mean 'platform'"),
        ('platform = "721"', "run.toml, platform='721'"),
        ("platform = ", "no valid TOML"),
        ("range_search = 1", "true or false"),
        ("input_shape = [1, 3]", "input name"),
        ('[preprocess]\npreset = "kneron"\nresise = "crop"', "did you mean 'resize'"),
    ],
)
def test_faults_name_the_file(text, words, tmp_path):
    with pytest.raises(kx.ConfigError) as caught:
        kx.load_config(write(tmp_path / "run.toml", text))
    assert words in str(caught.value) and ("run.toml" in caught.value.where)


def test_a_run_is_repeated_by_one_command(tmp_path, monkeypatch):
    tiny_onnx(tmp_path)
    tiny_npz(tmp_path / "data.npz", 8)
    monkeypatch.chdir(tmp_path)
    asked = ["--p-onnx", "tiny.onnx", "--np-txt", "data.npz", "--mode", 1, "--p-output", "out", "--quiet"]
    assert exit_code("ptq", *asked, "--data-analysis-pct", 0.99) == 0
    first, written = (tmp_path / "out/tiny.bie").read_bytes(), (tmp_path / "out/run.toml").read_text()
    assert 'p_onnx = "../tiny.onnx"' in written and "data_analysis_pct = 0.99" in written
    (tmp_path / "out/tiny.bie").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert exit_code("ptq", "--config", "../out/run.toml", "--quiet") == 0
    assert (tmp_path / "out/tiny.bie").read_bytes() == first
    assert (tmp_path / "out/run.toml").read_text() == written
    assert exit_code("ptq", "--config", "../out/run.toml", "--data-analysis-pct", 0.5, "-q", "--p-output", "o") == 0
    assert "data_analysis_pct = 0.5" in Path("o/run.toml").read_text()
    assert Path("o/tiny.bie").read_bytes() != first


def test_python_data_have_to_be_given_again(tmp_path, capsys):
    kx.run_ptq(p_onnx=tiny_onnx(tmp_path), np_txt=tiny_data(4), mode=0, p_output=tmp_path / "out")
    assert exit_code("ptq", "--config", tmp_path / "out/run.toml", "--mode", 1) == 1
    assert "--np-txt" in capsys.readouterr().err
