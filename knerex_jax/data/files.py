"""Files that hold samples: `.npy` and `.npz` read row by row, folders listed in order."""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from knerex_jax.data.preprocess import IMAGE_SUFFIXES
from knerex_jax.errors import ModelError

_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, SyntaxError)


def npz_members(path: Path) -> list[str]:
    """Names of the arrays in an `.npz`.

    Raises:
      ModelError: it is not one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _DAMAGE as e:
        raise _unreadable(path, e) from e


@dataclass(frozen=True)
class NpyRows:
    """The rows of one stored array, one at a time: an `.npz` is never held in memory as a whole.

    Attributes:
      path: an `.npy` or `.npz` file.
      member: name of the array in the `.npz`; None for an `.npy`.
    """

    path: Path
    member: str | None

    @property
    def count(self) -> int:
        """Number of rows."""
        shape = self._header[0]
        return shape[0] if shape else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        shape, fortran, dtype = self._header
        if fortran or dtype.hasobject:
            yield from self.whole()
            return
        row_bytes = dtype.itemsize * prod(shape[1:])
        try:
            with self._open() as file:
                _read_header(file)
                for _ in range(shape[0]):
                    data = file.read(row_bytes)
                    if len(data) != row_bytes:
                        raise EOFError("the file ends early")
                    yield np.frombuffer(data, dtype).reshape(shape[1:])
        except _DAMAGE as e:
            raise _unreadable(self.path, e) from e

    def whole(self) -> np.ndarray:
        """The stored array.

        Raises:
          ModelError: the file is damaged, or holds Python objects.
        """
        try:
            with self._open() as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except _DAMAGE as e:
            raise _unreadable(self.path, e) from e

    @cached_property
    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype]:
        try:
            with self._open() as file:
                return _read_header(file)
        except _DAMAGE as e:
            raise _unreadable(self.path, e) from e

    def _open(self) -> Any:
        if self.member is None:
            return self.path.open("rb")
        return _MemberFile(self.path, f"{self.member}.npy")


class _MemberFile:
    """A file inside a zip archive; leaving the context closes both."""

    def __init__(self, path: Path, name: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self._name = name

    def __enter__(self) -> IO[bytes]:
        try:
            self._file = self._archive.open(self._name)
        except BaseException:
            self._archive.close()
            raise
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._archive.close()


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def subfolder(path: Path, name: str, *, only: bool) -> Path:
    """Where the files of an input lie: in a sub-folder of its name, or directly if it is the only input.

    Characters that a folder cannot carry (as in "input:0") may be replaced by "_".

    Raises:
      ModelError: there is no such folder.
    """
    for candidate in dict.fromkeys((name, re.sub(r"[^\w.-]", "_", name))):
        if candidate.strip("./") and (path / candidate).is_dir():
            return path / candidate
    if only:
        return path
    raise ModelError(f"no data for input '{name}'", where=str(path), fix=f"make a sub-folder '{name}' with its files")


def list_files(folder: Path) -> list[Path]:
    """The `.npy` files or images of a folder, images also below it, in the natural order of their names (2 before 10).

    Hidden folders below it, and those that a command of ours has written, are left out.

    Raises:
      ModelError: there are none, or both kinds.
    """
    arrays = [f for f in folder.iterdir() if f.suffix.lower() == ".npy"]
    images = [f for f in _below(folder) if f.suffix.lower() in IMAGE_SUFFIXES]
    if arrays and images:
        raise ModelError("the folder holds arrays and images", where=str(folder), fix="keep one kind of file in it")
    if not arrays and not images:
        raise ModelError("there are no samples", where=str(folder), fix="the folder needs .npy files or images")
    return sorted(arrays or images, key=lambda f: [(int(p), "") if p.isdigit() else (-1, p) for p in _parts(folder, f)])


_OURS = ("run.toml", "infer.toml", "simulate.toml", "model_fx_report.json")
"""Files by which a folder of results is known."""


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [f for f in folders if not f.startswith(".") and not any((here / f / o).exists() for o in _OURS)]
        yield from (here / name for name in names)


def is_image_folder(files: Sequence[Path]) -> bool:
    """Whether the files of `list_files` are images."""
    return files[0].suffix.lower() != ".npy"


def holds_images(place: Any) -> bool:
    """Whether this is the path of a folder with images somewhere in it."""
    if not isinstance(place, str | Path) or not Path(place).expanduser().is_dir():
        return False
    return any(f.suffix.lower() in IMAGE_SUFFIXES for f in _below(Path(place).expanduser()))


def _parts(folder: Path, file: Path) -> list[str]:
    return re.split(r"(\d+)", file.relative_to(folder).as_posix())


def _unreadable(path: Path, e: Exception) -> ModelError:
    return ModelError(f"unreadable: {e}", where=str(path), fix="write it again, as plain arrays (no pickled objects)")
