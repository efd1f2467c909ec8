"""What is done with finished nefs: joined, taken apart, looked into."""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from knerex_jax.errors import ConfigError
from knerex_jax.files import write_atomic
from knerex_jax.nef.container import Nef, combined, load_nef, read_bytes, read_head, save_nef
from knerex_jax.nef.crypto import read_key
from knerex_jax.nef.segments import SEGMENTS, to_segments


def combine_nef(
    paths: Iterable[str | Path], p_output: str | Path, *, compress: bool = False, key: bytes | None = None
) -> Path:
    """Puts the models of several nefs into `models_<platform>.nef`.

    Args:
      paths: the nefs, encrypted ones with the same key.
      p_output: folder.
      compress: packs the segments.
      key: opens those nefs that are encrypted, and encrypts the result.

    Returns:
      The path of the result.

    Raises:
      ArtifactError: a nef cannot be read, two models have one id, or platforms differ.
    """
    nef = combined(_load(path, key) for path in paths)
    path = Path(p_output) / f"models_{nef.platform}.nef"
    save_nef(nef, path, compress=compress, key=key)
    return path


def extract_nef(path: str | Path, p_output: str | Path, *, key: bytes | None = None) -> list[Path]:
    """Writes a nef per model, and beside it a folder of its segments as files.

    Returns:
      The nefs: `<p_output>/model_<id>.nef`; their segments are `model_<id>/setup.bin`, `command.bin`, `weight.bin`,
      `ioinfo.json` and `meta.json`. They are not encrypted.

    Raises:
      ArtifactError: the nef cannot be read, or the folder not be written.
    """
    nef, written = load_nef(path, key=key), []
    for model in nef.models:
        folder = Path(p_output) / f"model_{model.model_id}"
        for name, data in to_segments(model).items():
            write_atomic(folder / f"{name}{'.json' if name in SEGMENTS[3:] else '.bin'}", data)
        written.append(folder.with_suffix(".nef"))
        save_nef(Nef((model,), nef.toolchain), written[-1])
    return written


def nef_info(path: str | Path) -> dict[str, Any]:
    """The head as plain data, with the CRC-32 of the file; it needs no key.

    Raises:
      ArtifactError: the nef cannot be read, or was altered.
    """
    data = read_bytes(path)
    return {"crc": f"{zlib.crc32(data):08x}", **msgspec.to_builtins(read_head(data, str(path)))}


def nef_value(path: str | Path, key: str) -> Any:
    """One entry of `nef_info`, by names and places: "platform", "models.0.model_id".

    Raises:
      ConfigError: there is no such entry.
    """
    value: Any = nef_info(path)
    for part in key.split("."):
        inside = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list | tuple) else {}
        name = int(part) if isinstance(value, list | tuple) and part.isdigit() else part
        if name not in inside:
            known = ", ".join(map(str, inside)) or "none: it is a value"
            raise ConfigError(f"no entry {part!r}", where=key, fix=f"the entries there are {known}")
        value = inside[name]
    return value


def opening_key(path: str | Path, key_file: str | Path | None) -> bytes | None:
    """The key for a nef: that of a key file, or where the nef is encrypted, that of the environment."""
    encrypted = Path(path).suffix == ".nef" and Path(path).is_file() and nef_value(path, "encryption") != "none"
    return read_key(key_file) if key_file or encrypted else None


def _load(path: str | Path, key: bytes | None) -> Nef:
    data = read_bytes(path)
    plain = read_head(data, str(path)).encryption == "none"
    return load_nef(path, key=None if plain else key)
