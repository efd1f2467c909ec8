"""Ctrl-C and kill -9, in real processes: old files stay whole, nothing half-written is left, and the work goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_folder, tiny_onnx

import knerex_jax as kx
from knerex_jax.calibrate.checkpoint import CHECKPOINT
from knerex_jax.calibrate.npz import read_npz
from knerex_jax.data.files import NpyRows

ROOT = Path(kx.__file__).parents[1]
PATH = str(ROOT)
SLOW = """
import functools, sys, time
print("up", flush=True)
from knerex_jax.command import main
if {slow}:
    from knerex_jax import artifacts, flow
    from knerex_jax.artifacts import stages
    from knerex_jax.calibrate.checkpoint import Checkpoints
    from knerex_jax.data.files import NpyRows
    whole, write = NpyRows.whole, stages.write_atomic
    NpyRows.whole = lambda self: (time.sleep(0.05), whole(self))[1]
    stages.write_atomic = lambda *args: (write(*args), time.sleep(1))
    flow.Checkpoints = functools.partial(Checkpoints, interval_s=0.0)
main(sys.argv[1:])
"""


def start(folder: Path, *, slow: bool) -> subprocess.Popen:
    """A run on 40 samples, one at a time; a slow one takes seconds to read and to write them."""
    arguments = ["ptq", "--p-onnx", "tiny.onnx", "--np-txt", "data", "--p-output", "out", "--mode", "1"]
    arguments += ["--batch-size", "1", "--data-analysis-threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(slow=slow), *arguments], cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": PATH}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def wait_for(there: Callable[[], object], process: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not there():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


def counted(path: Path) -> int:
    """Samples in a checkpoint."""
    return read_npz(path, "unfinished calibration")[0]["samples"] if path.exists() else 0


@pytest.fixture
def folder(tmp_path):
    tiny_onnx(tmp_path)
    tiny_folder(tmp_path / "data", 40)
    return tmp_path


@pytest.mark.parametrize("moment", ["importing", "calibrating", "writing"])
def test_ctrl_c_leaves_nothing_half_written(moment, folder):
    out = folder / "out"
    out.mkdir()
    (out / "tiny.bie").write_text("old")
    process = start(folder, slow=moment != "importing")
    if moment == "importing":
        time.sleep(0.2)
    else:
        scratch = CHECKPOINT if moment == "calibrating" else ".knerex.*.tmp/*.bie"
        wait_for(lambda: list(out.glob(scratch)), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert len(said.strip().splitlines()) == 1 and "interrupted" in said, said
    kept = {CHECKPOINT} if moment == "calibrating" else set()
    assert {p.name for p in out.iterdir()} == {"tiny.bie"} | kept
    assert (out / "tiny.bie").read_text() == "old"


def test_a_killed_calibration_goes_on_to_the_same_bytes(folder, monkeypatch):
    out, read = folder / "out", []
    process = start(folder, slow=True)
    wait_for(lambda: counted(out / CHECKPOINT) >= 15, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole = NpyRows.whole
    monkeypatch.setattr(NpyRows, "whole", lambda self: (read.append(self.path.name), whole(self))[1])
    monkeypatch.chdir(folder)
    options = {"p_onnx": "tiny.onnx", "np_txt": "data", "mode": 1, "batch_size": 1, "data_analysis_threads": 1}
    resumed = kx.run_ptq(**options, p_output="out")
    again, notes = len(read), resumed.report["calibration_notes"]
    fresh = kx.run_ptq(**options, p_output="fresh")
    assert len(notes) == 1 and "resumed at sample" in notes[0] and "of 40" in notes[0]
    assert again <= len(read) - again - 15, "fewer samples are read than in a run from the beginning"
    for kind in ("bie", "calibration", "nef"):
        assert resumed.paths[kind].read_bytes() == fresh.paths[kind].read_bytes(), kind
    assert fresh.report["calibration_notes"] == []
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in resumed.paths.values())
