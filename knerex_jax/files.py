"""Files appear whole or not at all; a folder belongs to one run at a time."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from knerex_jax.errors import ArtifactError

try:
    import fcntl
except ImportError:  # Windows: two runs are not kept apart there; their files are whole all the same
    fcntl = None

_LOCK = ".knerex.lock"
_SCRATCH, _SUFFIX = ".knerex.", ".tmp"
"""Scratch files are called `.knerex.<host>.<process>.<anything>.tmp`, so that it can be told who left them."""

_FORGOTTEN_S = 86400
"""Age, in seconds, from which scratch of other machines is taken for left behind."""


def cache_dir() -> Path:
    """What is fetched or kept between runs: the environment variable KNEREX_CACHE, or ~/.cache/knerex_jax."""
    chosen = os.environ.get("KNEREX_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "knerex_jax"


@contextlib.contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """The folder of a run: made if needed, proven writable, cleared of what killed runs left, and ours until the end.

    If the block fails, a folder that it made and that is still empty is removed again.

    Yields:
      the folder.

    Raises:
      ArtifactError: it cannot be written, or another run is using it.
    """
    folder = Path(path)
    new = not folder.exists()
    try:
        with _lock(writable_folder(folder)):
            clear_scratch(folder)
            yield folder
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


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
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files all move to `folder` when the block ends well; else none does.

    Yields:
      the scratch folder; files directly in it are moved.

    Raises:
      ArtifactError: the folder cannot be written, or the disk is full; old files are then untouched.
    """
    try:
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=_own(), suffix=_SUFFIX))
    except OSError as e:
        raise _unwritable(folder, e) from e
    try:
        yield scratch
        with _uninterrupted():
            for file in sorted(scratch.iterdir()):
                os.replace(file, folder / file.name)
    except OSError as e:
        raise _unwritable(folder, e) from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=_own(), suffix=_SUFFIX)
                scratch.append(Path(name))
                files.append(stack.enter_context(os.fdopen(handle, "wb")))
            yield files
            for file, name in zip(files, scratch, strict=True):
                file.flush()
                os.fsync(file.fileno())
                os.chmod(name, 0o666 & ~_umask())
        with _uninterrupted():
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


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back for the moment that several files take to change places."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[Any, ...]] = []
    old = signal.getsignal(signal.SIGINT)
    if not callable(old):  # ignored already, or not Python's to handle
        yield
        return
    signal.signal(signal.SIGINT, lambda *signalled: held.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)
        if held:
            old(*held[0])


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Holds the folder's lock file. The system frees the lock of a process that ends, however it ends."""
    if fcntl is None:
        yield
        return
    path = folder / _LOCK
    with contextlib.ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(path.open("a+"))
            except OSError as e:
                raise _unwritable(folder, e) from e
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ArtifactError(
                    f"another run is writing here ({file.read().strip() or 'just started'})", where=str(folder),
                    fix="wait for it to end, or choose another folder (p_output)",
                ) from None  # fmt: skip
            except OSError:  # a file system without locks
                break
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    break
            file.close()  # the file we opened was removed by its owner meanwhile
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _own() -> str:
    """Prefix of this process's scratch."""
    return f"{_SCRATCH}{socket.gethostname()}.{os.getpid()}."


def clear_scratch(folder: Path) -> None:
    """Removes what processes that are no more have left half-written."""
    for left in folder.glob(f"{_SCRATCH}*{_SUFFIX}"):
        host, pid, *_ = left.name.removeprefix(_SCRATCH).removesuffix(_SUFFIX).rsplit(".", 2)
        with contextlib.suppress(OSError):  # what cannot be judged or removed stays
            old = time.time() - left.stat().st_mtime > _FORGOTTEN_S
            if old or host == socket.gethostname() and pid.isdigit() and not _runs(int(pid)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _runs(pid: int) -> bool:
    """Whether there is a process of that number here."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    """The mask of a new file's permissions; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, e: OSError) -> ArtifactError:
    if path.parent.name.startswith(_SCRATCH):
        path = path.parent.parent / path.name
    return ArtifactError(
        f"cannot write: {e.strerror}",
        where=str(path),
        fix="choose another folder (p_output), or free the folder or disk",
    )
