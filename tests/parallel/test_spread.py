"""Devices and processes that share a calibration: the same counts, ranges, plans and codes as one device alone."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
import spread_run

import knerex_jax as kx
from knerex_jax.parallel import devices
from knerex_jax.parallel.devices import parts_of

TESTS = Path(__file__).parents[1]
PATH = os.pathsep.join(map(str, (Path(kx.__file__).parents[1], TESTS)))


def start(*arguments: str, device_count: int = 1) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": PATH, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={device_count}"
    return subprocess.Popen(
        [sys.executable, str(TESTS / "spread_run.py"), *arguments], text=True, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def said(process: subprocess.Popen) -> dict:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def together(extra: Sequence[str], device_count: int = 1) -> list[subprocess.Popen]:
    """Two processes that work on one calibration."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    return [start(port, str(i), "2", *([extra[i]] if extra[i] else []), device_count=device_count) for i in range(2)]


@pytest.fixture(scope="module")
def alone():
    """Hashes found by this process on its one device."""
    return spread_run.calibrated(1)


def test_devices_find_what_one_finds(alone):
    found = said(start("2,4,8", device_count=8))
    assert found == {"2": alone, "4": alone, "8": alone}


def test_two_processes_find_what_one_finds(alone):
    one, two = together(["", ""], device_count=2)
    assert said(one) == alone and said(two) == alone


def test_what_fails_in_one_process_fails_in_both():
    one, two = together(["", "FAIL"])
    (_, first), (_, second) = (p.communicate(timeout=300) for p in (one, two))
    assert one.returncode and two.returncode
    assert "process 1 failed" in first and "input 'x', sample 44" in first
    assert "process 1 failed" not in second and "input 'x', sample 44" in second


def test_every_microbatch_is_one_that_a_single_device_would_run():
    class Four:
        size = 4

    places, counts = parts_of(9, 4, Four())  # type: ignore[arg-type]
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
