"""What tells one set of samples from another: contents of arrays; names, sizes and times of files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def of_arrays(columns: Mapping[str, Any]) -> str | None:
    """A hash of the contents; None where a column is no array and no list or tuple of arrays or numbers."""
    found = hashlib.sha256()
    for name, column in columns.items():
        if not isinstance(column, np.ndarray | list | tuple):
            return None
        for part in [column] if isinstance(column, np.ndarray) else column:
            array = np.asarray(part)
            if array.dtype.hasobject:
                return None
            found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def of_files(files: Mapping[str, Sequence[Path]]) -> str:
    """A hash of names, sizes and times of change."""
    listed = []
    for name, paths in files.items():
        for path in paths:
            found = path.stat()
            listed.append((name, path.name, found.st_size, found.st_mtime_ns))
    return hashlib.sha256(repr(listed).encode()).hexdigest()
