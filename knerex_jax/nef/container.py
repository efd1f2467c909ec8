"""The nef: one file for one or many compiled models of one platform; docs/nef.md describes every byte.

16 bytes magic, uint32 version, uint32 flags, uint64 length of the head, uint64 length of the body (little endian),
32 bytes SHA-256 of all that and of what follows; the head (JSON: who, what, and a table of segments), the body (the
segments, one after the other; as a whole encrypted where the flag says so).
"""

import hashlib
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from knerex_jax.errors import ArtifactError
from knerex_jax.files import write_atomic
from knerex_jax.nef.crypto import decrypt, encrypt, overhead
from knerex_jax.nef.segments import SEGMENTS, NefModel, from_segments, to_segments
from knerex_jax.npu.isa import ISA_VERSION

MAGIC = b"knerex_jax nef\r\n"
VERSION = 1
ENCRYPTED = 1
_FIXED = struct.Struct("<16sIIQQ")
_START = _FIXED.size + 32
_UPDATE = "update knerex_jax, or compile the model again"


class Segment(msgspec.Struct, frozen=True):
    """One entry of the table: where in the body, how long there and unpacked, and the CRC-32 of the unpacked bytes."""

    name: str
    offset: int
    size: int
    unpacked: int
    crc: int


class HeadModel(msgspec.Struct, frozen=True):
    """What the head says of a model."""

    model_id: int
    name: str
    version: str
    uuid: str
    segments: tuple[Segment, ...]


class Head(msgspec.Struct, frozen=True):
    """What can be read without a key."""

    platform: str
    schema_version: int
    isa_version: int
    toolchain_version: str
    compression: str
    encryption: str
    models: tuple[HeadModel, ...]


@dataclass(frozen=True)
class Nef:
    """Compiled models of one platform.

    Attributes:
      models: with different ids, and one platform.
      toolchain: version of the program that wrote it.
    """

    models: tuple[NefModel, ...]
    toolchain: str = field(default_factory=lambda: _installed())

    @property
    def platform(self) -> str:
        """The platform of all models."""
        return self.models[0].program.platform


def encode_nef(nef: Nef, *, compress: bool = False, key: bytes | None = None) -> bytes:
    """The file's bytes; equal contents give equal bytes, unless they are encrypted (the nonce is random).

    Args:
      nef: what to write.
      compress: packs each segment with zlib.
      key: 32 bytes, to encrypt the body with AES-256-GCM.

    Raises:
      ArtifactError: no model, two models of one id, models of different platforms, or no package for encryption.
    """
    _check(nef.models)
    body, models = bytearray(), []
    for model in nef.models:
        entries, parts = [], to_segments(model)
        for name in SEGMENTS:
            packed = zlib.compress(parts[name], 9) if compress else parts[name]
            entries.append(Segment(name, len(body), len(packed), len(parts[name]), zlib.crc32(parts[name])))
            body += packed
        models.append(HeadModel(model.model_id, model.name, model.version, _uuid(parts), tuple(entries)))
    head = Head(
        platform=nef.platform, schema_version=VERSION, isa_version=ISA_VERSION, toolchain_version=nef.toolchain,
        compression="zlib" if compress else "none", encryption="AES-256-GCM" if key else "none", models=tuple(models),
    )  # fmt: skip
    text, size = msgspec.json.encode(head), len(body) + (overhead() if key else 0)
    fixed = _FIXED.pack(MAGIC, VERSION, ENCRYPTED if key else 0, len(text), size)
    stored = encrypt(bytes(body), key, fixed + text) if key else bytes(body)
    return fixed + hashlib.sha256(fixed + text + stored).digest() + text + stored


def decode_nef(data: bytes, where: str, *, key: bytes | None = None) -> Nef:
    """The inverse of `encode_nef`.

    Raises:
      ArtifactError: not a nef, newer, cut short or altered; a key is missing, wrong or useless.
    """
    head, fixed, stored = _opened(data, where)
    encrypted = head.encryption != "none"
    if encrypted and key is None:
        raise ArtifactError(
            "the nef is encrypted", where=where, fix="give its key: a key file, or KNEREX_NEF_KEY in the environment"
        )
    if key is not None and not encrypted:
        raise ArtifactError("a key for a nef that is not encrypted", where=where, fix="leave the key out")
    body = decrypt(stored, key, fixed, where) if key is not None else stored
    models = []
    for entry in head.models:
        parts = {s.name: _unpacked(body, s, head.compression, where) for s in entry.segments}
        models.append(from_segments(parts, entry.model_id, entry.name, entry.version, where))
        if models[-1].program.platform != head.platform:
            raise ArtifactError(
                f"model {entry.model_id} is for platform {models[-1].program.platform}, the nef for {head.platform}",
                where=where, fix="compile again: one nef per platform",
            )  # fmt: skip
    return Nef(tuple(models), head.toolchain_version)


def read_head(data: bytes, where: str) -> Head:
    """What can be read without a key; the whole file is checked.

    Raises:
      ArtifactError: not a nef, newer, cut short or altered.
    """
    return _opened(data, where)[0]


def save_nef(nef: Nef, path: str | Path, *, compress: bool = False, key: bytes | None = None) -> None:
    """Writes the file atomically.

    Raises:
      ArtifactError: as `encode_nef`, or the folder cannot be written.
    """
    write_atomic(Path(path), encode_nef(nef, compress=compress, key=key))


def load_nef(path: str | Path, *, key: bytes | None = None) -> Nef:
    """Reads a nef.

    Raises:
      ArtifactError: missing, unreadable, or as `decode_nef`.
    """
    return decode_nef(read_bytes(path), str(path), key=key)


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
      ArtifactError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise ArtifactError(f"cannot read the nef: {e.strerror}", where=str(path), fix="check the path") from e


def model_of(nef: Nef, model_id: int | None, where: str) -> NefModel:
    """The model with an id; None: the only one.

    Raises:
      ArtifactError: there is none, or several and no id.
    """
    ids = ", ".join(str(m.model_id) for m in nef.models)
    if model_id is None and len(nef.models) == 1:
        return nef.models[0]
    for model in nef.models:
        if model.model_id == model_id:
            return model
    what = "several models and no model_id" if model_id is None else f"no model {model_id}"
    raise ArtifactError(what, where=where, fix=f"the nef holds {ids}")


def combined(nefs: Iterable[Nef]) -> Nef:
    """All models of several nefs, in order.

    Raises:
      ArtifactError: two models of one id, or models of different platforms.
    """
    made = Nef(tuple(m for nef in nefs for m in nef.models))
    _check(made.models)
    return made


def _opened(data: bytes, where: str) -> tuple[Head, bytes, bytes]:
    """(head, the bytes before the body but for the hash, body)."""
    if not data or data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise ArtifactError("this is not a nef of knerex_jax", where=where, fix="pass the .nef file that run_ptq wrote")
    if len(data) < _START:
        raise ArtifactError(
            f"the nef is cut short ({len(data)} bytes)",
            where=where,
            fix="copy the file again, or compile the model again",
        )
    _, number, flags, head_size, body_size = _FIXED.unpack_from(data)
    _check_version("format", number, where)
    if flags > ENCRYPTED:
        raise ArtifactError(
            f"the nef has flags {flags:#x}, of which this program knows {ENCRYPTED:#x}", where=where, fix=_UPDATE
        )
    if len(data) != _START + head_size + body_size:
        raise ArtifactError(
            f"the nef is cut short or has extra data ({len(data)} of {_START + head_size + body_size} bytes)",
            where=where, fix="copy the file again, or compile the model again",
        )  # fmt: skip
    fixed, digest, rest = data[: _FIXED.size], data[_FIXED.size : _START], data[_START:]
    if hashlib.sha256(fixed + rest).digest() != digest:
        raise ArtifactError("the nef was altered (hash mismatch)", where=where, fix="copy or compile the model again")
    try:
        head = msgspec.json.decode(rest[:head_size], type=Head)
    except msgspec.MsgspecError as e:
        raise ArtifactError(f"the head of the nef is not readable: {e}", where=where, fix=_UPDATE) from e
    _check_version("schema", head.schema_version, where)
    _check_head(head, flags, where)
    if head.isa_version != ISA_VERSION:
        raise ArtifactError(
            f"the nef has commands of version {head.isa_version}, this program runs version {ISA_VERSION}",
            where=where, fix="use the matching knerex_jax, or compile the model again",
        )  # fmt: skip
    return head, fixed + rest[:head_size], rest[head_size:]


def _check_version(kind: str, number: int, where: str) -> None:
    if number != VERSION:
        what = f"the nef has {kind} version {number}, this program reads version {VERSION}"
        raise ArtifactError(what, where=where, fix=_UPDATE)


def _check_head(head: Head, flags: int, where: str) -> None:
    """Packing and encryption are those this program has, and the models have different ids."""
    if head.compression not in ("none", "zlib"):
        raise ArtifactError(f"the nef is packed by {head.compression!r}", where=where, fix=_UPDATE)
    if head.encryption != ("AES-256-GCM" if flags & ENCRYPTED else "none"):
        raise ArtifactError(
            f"the nef says that its encryption is {head.encryption!r}, its flags are {flags}", where=where, fix=_UPDATE
        )
    ids = [m.model_id for m in head.models]
    if not ids or len(set(ids)) != len(ids):
        twice = next((n for n in ids if ids.count(n) > 1), None)
        what = "the nef holds no model" if twice is None else f"the nef holds two models of id {twice}"
        raise ArtifactError(what, where=where, fix="compile the models again, each with its own model_id")


def _unpacked(body: bytes, segment: Segment, compression: str, where: str) -> bytes:
    stored = body[segment.offset : segment.offset + segment.size]
    try:
        data = zlib.decompress(stored) if compression == "zlib" else stored
    except zlib.error as e:
        raise ArtifactError(
            f"segment {segment.name} cannot be unpacked: {e}", where=where, fix="compile the model again"
        ) from e
    if len(data) != segment.unpacked or zlib.crc32(data) != segment.crc:
        raise ArtifactError(
            f"segment {segment.name} does not have its checksum", where=where, fix="compile the model again"
        )
    return data


def _check(models: Iterable[NefModel]) -> None:
    models = tuple(models)
    platforms = sorted({m.program.platform for m in models})
    if len(platforms) != 1:
        what = f"models for platforms {', '.join(platforms)} in one nef" if platforms else "a nef without a model"
        raise ArtifactError(what, where=", ".join(m.name for m in models) or "models", fix="one nef per platform")
    seen: dict[int, NefModel] = {}
    for model in models:
        if model.model_id in seen:
            raise ArtifactError(
                f"two models have the id {model.model_id}", where=f"{seen[model.model_id].name}, {model.name}",
                fix="give each model its own model_id",
            )  # fmt: skip
        seen[model.model_id] = model


def _uuid(parts: Mapping[str, bytes]) -> str:
    """Of the contents, so that equal contents give equal files."""
    held = hashlib.sha256()
    for name in SEGMENTS:
        held.update(hashlib.sha256(parts[name]).digest())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, held.hexdigest()))


def _installed() -> str:
    try:
        return version("knerex-jax")
    except PackageNotFoundError:
        return "0"
