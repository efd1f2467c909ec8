"""Reads the tensors of a PyTorch `.pth` file with numpy alone.

A `.pth` is a pickle of tensor descriptions beside raw storages. Since PyTorch 1.6 both lie in a zip file; before, they
follow one another in one stream. A pickle may call any function, so the reader here resolves exactly the names that a
state dict needs and refuses every other one.
Source: `torch.save` and `torch/serialization.py` of PyTorch (formats 1001 and zip).
"""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.errors import ModelError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
_DAMAGE = (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, LookupError, ValueError, TypeError)


@dataclass(frozen=True)
class _Storage:
    """A flat buffer that tensors share: its key in the file, its element type and its number of elements."""

    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage, in elements; what the pickle holds in place of an array."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict by name, each an array of its own in C order.

    Args:
      path: a file written by `torch.save(module.state_dict(), path)`, of either format, little endian.

    Raises:
      ModelError: not such a file, damaged, or it holds something else than tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            described, buffers = _read_zip(path)
        else:
            described, buffers = _read_legacy(path)
        if not isinstance(described, Mapping):
            raise ValueError(f"it holds a {type(described).__name__}, not a state dict")
        return {name: _array(name, tensor, buffers) for name, tensor in described.items()}
    except _DAMAGE as error:
        fix = "fetch the file again; write it with torch.save(module.state_dict(), path)"
        raise ModelError(f"not a readable PyTorch state dict: {error}", where=str(path), fix=fix) from error


def _read_zip(path: Path) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        index = next((name for name in names if name.endswith("/data.pkl")), None)
        if index is None:
            raise ValueError("the zip has no data.pkl")
        root = index.removesuffix("data.pkl")
        if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
            raise ValueError("it is big endian")
        described = _Unpickler(io.BytesIO(archive.read(index))).load()
        prefix = root + "data/"
        buffers = {name.removeprefix(prefix): archive.read(name) for name in names if name.startswith(prefix)}
    return described, buffers


def _read_legacy(path: Path) -> tuple[Any, dict[str, bytes]]:
    """Five pickles (magic, protocol, platform, state dict, storage keys), then size and bytes of every storage."""
    with path.open("rb") as file:
        if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
            raise ValueError("unknown format")
        if not _Unpickler(file).load()["little_endian"]:
            raise ValueError("it is big endian")
        reader = _Unpickler(file)
        described = reader.load()
        buffers = {}
        for key in _Unpickler(file).load():
            (size,) = struct.unpack("<q", file.read(8))
            buffers[key] = file.read(size * reader.storages[key].dtype.itemsize)
    return described, buffers


class _Unpickler(pickle.Unpickler):
    """Knows the names that a state dict needs, and no others."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        }
        if (module_name, global_name) in allowed:
            return allowed[module_name, global_name]
        if module_name == "torch" and global_name in _DTYPES:
            return np.dtype(_DTYPES[global_name])
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which a state dict does not need")

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _location, size = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"unknown reference {pid!r}")
        self.storages[key] = _Storage(key, dtype, size)
        return self.storages[key]


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_unused: Any) -> _Tensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`; gradients and hooks are dropped."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _array(name: str, tensor: Any, buffers: Mapping[str, bytes]) -> np.ndarray:
    if not isinstance(tensor, _Tensor):
        raise ValueError(f"'{name}' is a {type(tensor).__name__}, not a tensor")
    flat = np.frombuffer(buffers[tensor.storage.key], tensor.storage.dtype)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if flat.size != tensor.storage.size or tensor.offset < 0 or min(tensor.strides, default=0) < 0:
        raise ValueError(f"the storage of '{name}' is damaged")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, flat.dtype)
    if min(tensor.shape, default=1) < 0 or last >= flat.size:
        raise ValueError(f"'{name}' reaches outside its storage")
    steps = tuple(stride * flat.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps).copy()
