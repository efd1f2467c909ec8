"""Files appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from knerex_jax.errors import ArtifactError


def writable_folder(path: str | Path) -> Path:
    """Makes the folder if needed and proves that it can be written.

    Raises:
      ArtifactError: it cannot.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as e:
        raise _unwritable(folder, e) from e


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Opens a scratch file beside each path and moves them there, in order, when the block ends well.

    Yields:
      one binary file per path.

    Raises:
      ArtifactError: a folder cannot be written or the disk is full; old files are then untouched.
    """
    scratch: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            files = []
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
                scratch.append(Path(name))
                files.append(stack.enter_context(os.fdopen(handle, "wb")))
            yield files
            for file, name in zip(files, scratch, strict=True):
                file.flush()
                os.fsync(file.fileno())
                os.chmod(name, 0o666 & ~_umask())
        for path, name in zip(paths, scratch, strict=True):
            os.replace(name, path)
    except OSError as e:
        raise _unwritable(paths[-1], e) from e
    finally:
        for name in scratch:
            with contextlib.suppress(OSError):
                name.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a whole file.

    Raises:
      ArtifactError: the folder cannot be written or the disk is full; the old file, if any, is untouched.
    """
    with replacing(path) as (file,):
        file.write(data)


def _umask() -> int:
    """The mask of a new file's permissions; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, e: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write: {e.strerror}",
        where=str(path),
        fix="choose another folder (p_output), or free the folder or disk",
    )
