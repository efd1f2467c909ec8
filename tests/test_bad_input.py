"""Every user fault is a KnerexError with a fix; at the command line one screen, exit code 1, nothing half-written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.cli import main


def data(**changes):
    return {"input": embedded.calibration()["input"][:8], **changes}


def broken_onnx(folder: Path) -> Path:
    path = folder / "broken.onnx"
    path.write_bytes(Path(embedded.model_path()).read_bytes()[:5000])
    return path


NAN = np.full((8, 1, 28, 28), np.nan, np.float32)
CASES = {
    "nan": (lambda f: {"np_txt": data(input=NAN)}, kx.ModelError, "NaN"),
    "shape": (lambda f: {"np_txt": data(input=np.zeros((8, 1, 27, 28), np.float32))}, kx.ModelError, "27"),
    "missing input": (lambda f: {"np_txt": {"image": NAN}}, kx.ModelError, "input"),
    "no data": (lambda f: {"np_txt": {"input": []}}, kx.ModelError, "fix:"),
    "unknown option": (lambda f: {"optimise": 1}, kx.ConfigError, "did you mean 'optimize'"),
    "unknown platform": (lambda f: {"platform": "521"}, kx.ConfigError, "520"),
    "int16 on 520": (lambda f: {"platform": "520", "datapath_bitwidth_mode": "int16"}, kx.ConfigError, "int16"),
    "int4 on 720": (lambda f: {"platform": "720", "weight_bitwidth_mode": "int4"}, kx.ConfigError, "int4"),
    "no model": (lambda f: {"p_onnx": f / "none.onnx"}, kx.ModelError, "none.onnx"),
    "corrupt onnx": (lambda f: {"p_onnx": broken_onnx(f)}, kx.ModelError, "broken.onnx"),
    "unwritable": (lambda f: {"p_output": Path(embedded.model_path()) / "x"}, kx.ArtifactError, "cannot write"),
    "model missing": (lambda f: {"p_onnx": None}, kx.ConfigError, "p_onnx"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_an_error_with_a_fix_and_leaves_nothing(case, tmp_path):
    change, error, words = CASES[case]
    output = tmp_path / "out"
    options = {"p_onnx": embedded.model_path(), "np_txt": data(), "p_output": output, **change(tmp_path)}
    with pytest.raises(error) as caught:
        kx.run_ptq(**options)
    assert words in str(caught.value) and "fix:" in str(caught.value) and "where:" in str(caught.value)
    assert not output.exists() or not any(output.iterdir())


def test_a_bie_cannot_be_fed_wrong_data(tmp_path):
    result = kx.run_ptq(p_onnx=embedded.model_path(), np_txt=data(), p_output=tmp_path)
    model = kx.FixedModel.load(result.paths["bie"])
    with pytest.raises(kx.ModelError, match="NaN"):
        model.run({"input": NAN})
    with pytest.raises(kx.ModelError, match="input"):
        model.run({"inptu": NAN})
    with pytest.raises(kx.ConfigError, match="data_type"):
        model.run(data(), "int")
    broken = tmp_path / "cut.bie"
    broken.write_bytes(result.paths["bie"].read_bytes()[:-7])
    with pytest.raises(kx.ArtifactError, match="cut short"):
        kx.FixedModel.load(broken)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--platform", "520", "--datapath-bitwidth-mode", "int16"], 1, "platform 520 has no int16"),
        (["--platfrom", "520"], 2, "No such option"),
        (["--p-onnx", "none.onnx", "--np-txt", "none"], 1, "none.onnx"),
        (["--p-onnx", "a.onnx", "--input-shape", "x:1,b"], 1, "name:1,3,224,224"),
        (["--help"], 0, "--outlier-factor"),
    ],
)
def test_command_line_exits_without_a_traceback(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["ptq", *arguments])
    output = "".join(capsys.readouterr())
    assert caught.value.code == code
    assert words in output and "Traceback" not in output
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_script_is_the_same_program(tmp_path):
    script = Path(kx.__file__).parents[1] / "scripts" / "run_ptq.py"
    done = subprocess.run(
        [sys.executable, script, "--platform", "nope"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "'nope' is not a value of platform" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_config_field_is_an_option(capsys):
    with pytest.raises(SystemExit):
        main(["ptq", "--help"])
    text = capsys.readouterr().out
    for name in kx.PTQConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
