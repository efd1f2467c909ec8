"""`python -m` of the published modules."""

import json
import runpy
import shutil
import sys

import onnx
import pytest

from knerex_jax import embedded
from knerex_jax.ktc import folders

MODEL = embedded.model_path()


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a module in this process; gives (exit code, what it printed, its messages)."""

    def call(module: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"knerex_jax.ktc.{module}", run_name="__main__")
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


def test_the_optimizer_and_its_other_entries(tmp_path, run):
    model = tmp_path / "net.onnx"
    shutil.copy(MODEL, model)
    code, out, _ = run("kneronnxopt", model, "--log", "WARNING", "--opt-matmul")
    assert code == 0 and "note: opt_matmul: requested True" in out and "checked against" in out
    default = tmp_path / "net_optimized.onnx"
    nodes = len(onnx.load(default).graph.node)
    assert nodes < len(onnx.load(model).graph.node)

    for module in ("kneronnxopt.optimize", "kneronnxopt.large_model_fast_proc"):
        target = tmp_path / "other.onnx"
        assert run(module, model, "-o", target, "--overwrite-input-shapes", "2,1,28,28")[0] == 0
        made = onnx.load(target)
        assert made.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 2 and len(made.graph.node) == nodes

    code, out, _ = run("kneronnxopt.optimize", "-h")
    assert code == 0 and "--log" in out and "--defuse-gaps" in out
    assert run("kneronnxopt.onnx_vs_onnx", model, default, "--seperate")[0] == 0
    code, _, err = run("kneronnxopt", model, "--log", "LOUD")
    assert code == 2 and "--log" in err
    code, _, err = run("kneronnxopt", tmp_path / "none.onnx")
    assert code == 1 and err.startswith("ModelError") and not (tmp_path / "none_optimized.onnx").exists()


def test_optimize_and_evaluate(tmp_path, run, monkeypatch):
    monkeypatch.setattr(folders, "DATA", tmp_path / "data1")
    model = tmp_path / "net.onnx"
    shutil.copy(MODEL, model)
    code, out, _ = run("opt_and_eval", "-P", 720, model)
    assert code == 0 and (tmp_path / "net.opt.onnx").is_file() and "platform 720" in out and "fps" in out
    assert (tmp_path / "data1" / "kneron_flow" / "ip_evaluation_720.json").is_file()

    code, out, _ = run("opt_and_eval", "-e", "-E", tmp_path / "report", "--deep-search", 730, model)
    assert code == 0 and "fps" not in out and "optimized" not in out
    found = json.loads((tmp_path / "report" / "ip_evaluation_730.json").read_text())
    assert found["summary"]["fm_cut"] == "deep_search"

    code, out, _ = run("opt_and_eval", "-o", "-O", tmp_path / "sub" / "made.onnx", 520, model)
    assert code == 0 and (tmp_path / "sub" / "made.onnx").is_file() and "evaluated" not in out
    code, _, err = run("opt_and_eval", "-o", "-e", 520, model)
    assert code == 1 and "nothing is left to do" in err
    assert run("opt_and_eval", 540, model)[0] == 2 and run("opt_and_eval", "-h")[0] == 0
