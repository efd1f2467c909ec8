"""Devices and processes that share a calibration: the same counts, ranges, plans and codes as one device alone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
import spread_run
from jax.sharding import AbstractMesh
from onnx import numpy_helper
from tiny import tiny_data, tiny_folder, tiny_onnx

import knerex_jax as kx
from knerex_jax.cli import main
from knerex_jax.parallel import devices
from knerex_jax.parallel.devices import parts_of

TESTS = Path(__file__).parents[1]
ROOT = Path(kx.__file__).parents[1]
SCRIPT = str(TESTS / "spread_run.py")
OPTIONS = {"p_onnx": "tiny.onnx", "np_txt": "data", "mode": 1, "batch_size": 4, "data_analysis_pct": 0.99}


def start(*arguments: str, device_count: int = 1) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "scripts", TESTS)))}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={device_count}"}
    return subprocess.Popen(
        [sys.executable, *arguments], text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def together(*arguments: str, number: str = "") -> list[tuple[int, str, str]]:
    """Two processes with two devices each; PORT stands for where the first listens."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    said = [a.replace("PORT", port) for a in arguments]
    return [finished(p) for p in [start(*said, *filter(None, [number]), str(i), device_count=2) for i in range(2)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("spread")
    tiny_onnx(made)
    tiny_folder(made / "data", 21)
    return made


@pytest.fixture(scope="module")
def whole(folder):
    """A run in this process, and its scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = kx.run_ptq(**OPTIONS, p_output="whole")
        return result, spread_run.quantized("again")["scores"]


def said(options):
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def alone():
    """Hashes found by this process on its one device."""
    return spread_run.calibrated(1)


def test_devices_find_what_one_finds(alone):
    code, out, errors = finished(start(SCRIPT, "devices", "2", "4", "8", device_count=8))
    assert code == 0, errors
    found = json.loads(out.splitlines()[-1])
    assert found["8"] == alone and len(alone) == 8
    for few in ("2", "4"):
        assert len(found[few]) == 3 and found[few].items() <= alone.items(), few


def test_two_processes_make_the_files_and_scores_of_one(folder, whole, monkeypatch):
    monkeypatch.chdir(folder)
    alone, scores = whole
    one, two = (found[1] for found in together(SCRIPT, "process", "PORT") if not found[0])
    one, two = (json.loads(text.splitlines()[-1]) for text in (one, two))
    assert one["scores"] == two["scores"] == scores and scores[0]["samples"] == 21
    assert sorted(Path(path).name for path in one["paths"]) == sorted(path.name for path in alone.paths.values())
    for kind in ("bie", "calibration", "nef"):
        assert Path("out0", alone.paths[kind].name).read_bytes() == alone.paths[kind].read_bytes(), kind
    assert two["paths"] == [] and not list(Path("out1").iterdir()), "only the first process writes"


def test_what_fails_in_one_process_fails_in_both(folder, monkeypatch):
    monkeypatch.chdir(folder)
    broken = tiny_data(8)["x"]
    broken[5, 0, 0, 0] = np.nan  # the second microbatch, which the second process reads
    np.savez("broken.npz", x=broken)
    command = ["-c", "from knerex_jax.command import main; main()", "count", *said({**OPTIONS, "np_txt": "broken.npz"})]
    command += ["--to", "broken_counts.npz", "--coordinator", "localhost:PORT", "--processes", "2"]
    (one, _, first), (two, _, second) = together(*command, number="--process")
    assert one == two == 1
    assert "process 1 failed" in first and "input 'x', sample 5" in first
    assert "process 1 failed" not in second and "input 'x', sample 5" in second
    assert not Path("broken_counts.npz").exists()


def test_parts_counted_apart_make_the_files_of_the_whole(folder, whole, monkeypatch):
    monkeypatch.chdir(folder)
    whole = whole[0]
    data = {t: a for t, a in tiny_data(21).items()}
    for number, part in enumerate((slice(0, 12), slice(12, 21))):  # whole batches, but for the end
        np.savez(f"part{number}.npz", **{t: a[part] for t, a in data.items()})
        with pytest.raises(SystemExit) as ended:
            main(["count", *said({**OPTIONS, "np_txt": f"part{number}.npz"}), "-o", f"counts/{number}.npz", "--quiet"])
        assert ended.value.code == 0
    merged = kx.run_ptq(**OPTIONS, counts="counts", p_output="merged")
    for kind in ("bie", "calibration", "nef"):
        assert merged.paths[kind].read_bytes() == whole.paths[kind].read_bytes(), kind
    assert merged.report["calibration_notes"] == ["counts of 21 samples from 2 files in place of np_txt"]
    with pytest.raises(kx.ConfigError, match="another model or platform"):
        kx.run_ptq(p_onnx=str(tiny_onnx(folder, "other.onnx", 5)), np_txt="data", counts="counts", p_output="none")
    retrained = onnx.load(tiny_onnx(folder, "retrained.onnx"))
    weight = next(t for t in retrained.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(retrained, "retrained.onnx")
    with pytest.raises(kx.ConfigError, match="other weights"):
        kx.run_ptq(**{**OPTIONS, "p_onnx": "retrained.onnx"}, counts="counts", p_output="none")
    (folder / "nothing").mkdir()
    with pytest.raises(kx.ConfigError, match="no count files"):
        kx.run_ptq(**OPTIONS, counts="nothing", p_output="none")


def test_every_microbatch_is_one_that_a_single_device_would_run():
    places, counts = parts_of(9, 4, AbstractMesh((4,), (devices.AXIS,)))
    assert counts.tolist() == [4, 4, 1, 0] and counts.dtype == np.int32
    assert places.reshape(4, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8] * 4, [8] * 4]
    assert parts_of(3, 4, None)[0].tolist() == [0, 1, 2, 2]


def test_devices_are_those_asked_for(monkeypatch):
    monkeypatch.setattr(devices.jax, "local_devices", lambda: jax.devices() * 4)
    assert devices.data_mesh(1) is None and devices.data_mesh(4, microbatches=1) is None
    with pytest.raises(kx.ConfigError, match="has 4 devices"):
        devices.data_mesh(5)
    with jax.default_device(jax.devices()[0]):
        assert devices.data_mesh() is None, "one device is named"
