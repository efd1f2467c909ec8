"""Tensors that outlive a step, by batch: in memory, or spilled to files where many batches wait for the next step."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from knerex_jax.errors import ConfigError


@dataclass
class Spool:
    """Arrays by (tensor, batch). The one mutable object of a run, owned by whoever opened it.

    Attributes:
      folder: where arrays are kept as memory-mapped files; None keeps them as they are.
      size: bytes held now.
      peak: most bytes ever held.
    """

    folder: Path | None = None
    size: int = 0
    peak: int = 0
    _held: dict[tuple[str, int], Any] = field(default_factory=dict)
    _files: int = 0

    def put(self, tensor: str, batch: int, array: Any) -> None:
        """Keeps an array; a folder gets it as a file of its own."""
        if self.folder is not None:
            self._files += 1
            path = self.folder / f"{self._files}.npy"
            np.save(path, np.asarray(array))
            array = np.load(path, mmap_mode="r")
        self._held[tensor, batch] = array
        self.size += array.nbytes
        self.peak = max(self.peak, self.size)

    def get(self, tensor: str, batch: int) -> Any:
        """The array as it was put, or a read-only map of its file."""
        return self._held[tensor, batch]

    def drop(self, tensor: str, batch: int) -> None:
        """Forgets an array and removes its file."""
        array = self._held.pop((tensor, batch))
        self.size -= array.nbytes
        if isinstance(array, np.memmap):
            Path(str(array.filename)).unlink()

    def expect(self, size: int) -> None:
        """States how many bytes there will be at most.

        Raises:
          ConfigError: the disk has not that much room.
        """
        if self.folder is None:
            return
        room = self.size + shutil.disk_usage(self.folder).free
        if size > room:
            raise ConfigError(
                f"the tensors between two steps need {size >> 20} MiB, {room >> 20} MiB are free",
                where=f"temporary folder {self.folder}",
                fix="use fewer samples, free some space, or set TMPDIR to a larger disk",
            )


@contextmanager
def open_spool(*, on_disk: bool) -> Iterator[Spool]:
    """A spool that leaves nothing behind: in memory, or in files of a temporary folder."""
    if not on_disk:
        yield Spool()
        return
    with TemporaryDirectory(prefix="knerex-spool-") as folder:
        yield Spool(Path(folder))
