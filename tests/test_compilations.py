"""Kept compilations: where, and that a second process finds them."""

import os
import subprocess
import sys

import pytest

from knerex_jax.compilations import keep_compilations

VARIABLES = (
    "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_COMPILATION_CACHE_MAX_SIZE", "KNEREX_CACHE",
)  # fmt: skip


@pytest.fixture
def clean(monkeypatch) -> pytest.MonkeyPatch:
    """No variable is set, and jax is out of reach: what is set here is for other processes."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever happens to it
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "jax")
    return monkeypatch


RUN = """
import sys
from knerex_jax.compilations import keep_compilations
keep_compilations(sys.argv[1])
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
def f(x):
    for _ in range(60):
        x = jax.numpy.sort(x * 3) @ x
    return x
jax.jit(f)(jax.numpy.ones((5, 5))).block_until_ready()
print(hits.count("/jax/compilation_cache/cache_hits"), hits.count("/jax/compilation_cache/cache_misses"))
"""


def test_a_second_process_compiles_nothing(tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def run() -> list[int]:
        command = [sys.executable, "-c", RUN, str(tmp_path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return [int(n) for n in done.stdout.split()]

    (hits, misses), again = run(), run()
    assert hits == 0 and misses > 0
    assert again[0] > 0 and again[1] == 0
    assert list(tmp_path.glob("*-cache"))


def test_the_folder_is_the_cache_s_and_the_processor_s(clean, tmp_path):
    clean.setenv("KNEREX_CACHE", str(tmp_path))
    path = keep_compilations()
    assert path is not None and path.is_dir() and path.parent == tmp_path / "compilations"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(path)


def test_what_the_user_set_goes_first(clean, tmp_path):
    clean.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert keep_compilations() == tmp_path / "mine"
    clean.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    assert keep_compilations(tmp_path / "other") is None and not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_is_no_error(clean, tmp_path):
    (tmp_path / "file").touch()
    assert keep_compilations(tmp_path / "file" / "below") is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
