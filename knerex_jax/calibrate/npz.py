"""Versioned `.npz` files of this package: written whole or not at all, refused when damaged."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.errors import ArtifactError
from knerex_jax.files import replacing

VERSION = 1
_META = "meta"


def write_npz(path: str | Path, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays and JSON-able metadata.

    Args:
      path: taken as it is; no suffix is added.
      kind: what the file is; `read_npz` insists on it.
      meta: plain data.
      arrays: name -> array.

    Raises:
      ArtifactError: it cannot be written; an old file of that name is then untouched.
    """
    with replacing(Path(path)) as (file,):
        pack_npz(file, kind, meta, arrays)


def pack_npz(file: Any, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """What `write_npz` writes, into an open file or a name."""
    text = json.dumps({"kind": kind, "version": VERSION, **meta}).encode()
    # numpy's own savez_compressed packs five times slower for 5 % less.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, array in {_META: np.frombuffer(text, np.uint8), **arrays}.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(source: str | Path | bytes, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what `write_npz` wrote, or the bytes of it.

    Raises:
      ArtifactError: missing, damaged, of another kind or newer.
    """
    where = "a message" if isinstance(source, bytes) else str(source)
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")
        with opened as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop(_META).tobytes())
        found, version = meta.pop("kind"), meta.pop("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise ArtifactError(f"no readable {kind}: {e}", where=where, fix="measure and save again") from e
    if found != kind:
        raise ArtifactError(f"this is a {found}, not a {kind}", where=where, fix="give the other file")
    if version > VERSION:
        raise ArtifactError(f"written by a newer version ({version})", where=where, fix="update knerex_jax")
    return meta, arrays
