"""What tells inputs of a run from others: contents of arrays; names, sizes and times of files; code of functions."""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from sysconfig import get_path
from types import CodeType, FunctionType, ModuleType
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


def of_function(function: Any) -> str | None:
    """A hash of a Python function's code and of the plain values and functions it reads; None where it reads others."""
    found = hashlib.sha256()
    try:
        for part in _parts(function, set()):
            found.update(part)
    except _NotPlain:
        return None
    return found.hexdigest()


class _NotPlain(Exception):
    """A value that cannot be told from another."""


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
        yield f"{type(value).__name__} {value!r} ".encode()
    elif isinstance(value, ModuleType):
        yield f"module {value.__name__} ".encode()
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _NotPlain
        yield f"array {value.dtype.str} {value.shape} ".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, tuple | list | frozenset | dict):
        entries = (
            list(value.items())
            if isinstance(value, dict)
            else sorted(value, key=repr)
            if isinstance(value, frozenset)
            else value
        )
        yield f"{type(value).__name__} {len(value)} ".encode()
        for entry in entries:
            yield from _parts(entry, seen)
    elif isinstance(value, CodeType):
        yield value.co_code
        yield from _parts((value.co_consts, value.co_names, value.co_varnames), seen)
    elif isinstance(value, FunctionType) and not _installed(value.__module__):
        if id(value) not in seen:
            seen.add(id(value))
            cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
            read = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
            yield from _parts((value.__code__, value.__defaults__, value.__kwdefaults__, cells, read), seen)
    elif not isinstance(value, FunctionType) and isinstance(getattr(value, "__wrapped__", None), FunctionType):
        yield from _parts(value.__wrapped__, seen)  # a compiled function
    elif hasattr(value, "__qualname__") and _installed(getattr(value, "__module__", None)):
        yield f"{value.__module__}.{value.__qualname__} ".encode()
    else:
        raise _NotPlain


def _names(code: CodeType) -> list[str]:
    """Globals that a function reads, those of functions within it included."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return sorted({*code.co_names, *inner})


def _installed(module: str | None) -> bool:
    """Whether a module is part of Python or of a package, so that its name says what it holds."""
    if module in (None, "builtins"):
        return module == "builtins"
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and ("site-packages" in file or file.startswith(get_path("stdlib")))
