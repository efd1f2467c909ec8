"""Files appear whole, together or not at all; a folder belongs to one run; what killed runs left is removed."""

import os
import signal
import socket
import subprocess

import pytest

from knerex_jax import files
from knerex_jax.errors import ArtifactError
from knerex_jax.files import output_folder, staged, write_atomic


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path):
    with output_folder(tmp_path) as folder:
        with pytest.raises(ArtifactError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            with output_folder(folder):
                pass
    with output_folder(tmp_path):
        pass
    assert names(tmp_path) == []


def test_the_lock_of_a_dead_process_does_not_block(tmp_path):
    (tmp_path / ".knerex.lock").write_text("process 1 on elsewhere, since yesterday\n")
    with output_folder(tmp_path):
        pass


def test_a_folder_made_for_a_run_that_fails_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path / "new"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()


def test_staged_files_appear_together_or_not_at_all(tmp_path):
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), staged(tmp_path) as scratch:
        write_atomic(scratch / "a", b"new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
    with staged(tmp_path) as scratch:
        write_atomic(scratch / "a", b"new")
        write_atomic(scratch / "b", b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "a").read_bytes() == b"new"


def test_an_interrupt_waits_until_all_files_have_changed_places(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        replace(*args)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path) as scratch:
        for name in "abc":
            (scratch / name).write_text("new")
    assert names(tmp_path) == ["a", "b", "c"]


def test_scratch_of_the_dead_goes_and_of_the_living_stays(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".knerex.{host}.{pid}.abc.tmp").mkdir()
    (tmp_path / f".knerex.other.{dead.pid}.abc.tmp").write_text("")
    (tmp_path / "mine.tmp").write_text("")
    with output_folder(tmp_path):
        kept = [
            ".knerex.lock",
            f".knerex.{host}.{os.getpid()}.abc.tmp",
            f".knerex.other.{dead.pid}.abc.tmp",
            "mine.tmp",
        ]
        assert names(tmp_path) == sorted(kept)
