"""Files appear whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

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


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file beside its place and moves it there.

    Raises:
      ArtifactError: the folder cannot be written or the disk is full; the old file, if any, is untouched.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as e:
        raise _unwritable(path, e) from e


def _unwritable(path: Path, e: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write: {e.strerror}", where=str(path), fix="choose another p_output, or free the folder or disk"
    )
