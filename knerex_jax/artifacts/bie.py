"""The bie: the fixed program, its integers and the plan they follow from, in one open file.

Layout: 16 bytes magic, uint32 version, uint32 reserved (0), uint64 payload length (all little endian), 32 bytes SHA-256
of the payload, payload. The payload is a zip archive (stored, fixed dates) of `program.json`, `plan.json`,
`header.json` and one `.npy` per integer constant, `constants/<number>.npy`, named in `constants.json`.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from knerex_jax.errors import ArtifactError
from knerex_jax.files import write_atomic
from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.program.island import routine_digest
from knerex_jax.program.program import Program
from knerex_jax.quantize.plan import QuantPlan, plan_from_json

MAGIC = b"knerex_jax bie\r\n"
VERSION = 1
_HEADER = struct.Struct("<16sIIQ32s")
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bie:
    """What a bie holds.

    Attributes:
      header: arith_version, versions of the software, hash of the source model and whatever else the writer recorded.
    """

    program: Program
    constants: Mapping[str, Mapping[str, np.ndarray]] = field(hash=False)
    plan: QuantPlan = field(hash=False)
    header: Mapping[str, Any] = field(hash=False)


def encode_bie(bie: Bie) -> bytes:
    """The file's bytes; equal contents give equal bytes."""
    index, arrays = [], []
    for owner, group in bie.constants.items():
        for key, array in group.items():
            index.append([owner, key])
            arrays.append(np.asarray(array, order="C"))  # ascontiguousarray gives a scalar an axis
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        texts = {"header": dict(bie.header), "program": bie.program, "plan": bie.plan.to_json(), "constants": index}
        for name, value in texts.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.json", _EPOCH), msgspec.json.encode(value))
        for i, array in enumerate(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"constants/{i}.npy", _EPOCH), data.getvalue())
    payload = buffer.getvalue()
    return _HEADER.pack(MAGIC, VERSION, 0, len(payload), hashlib.sha256(payload).digest()) + payload


def decode_bie(data: bytes, where: str) -> Bie:
    """The inverse of `encode_bie`.

    Raises:
      ArtifactError: not a bie, of a newer version, cut short or altered, or with operators on the host that this
        installation would compute differently.
    """
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise ArtifactError("this is not a bie of knerex_jax", where=where, fix="pass the .bie file that run_ptq wrote")
    _, version, reserved, length, digest = _HEADER.unpack_from(data)
    if version != VERSION or reserved:
        raise ArtifactError(
            f"the bie has format version {version}, this program reads version {VERSION}", where=where,
            fix="update knerex_jax, or quantize the model again",
        )  # fmt: skip
    payload = data[_HEADER.size :]
    if len(payload) != length:
        raise ArtifactError(
            f"the bie is cut short or has extra data ({len(payload)} of {length} bytes)", where=where,
            fix="copy the file again, or quantize the model again",
        )  # fmt: skip
    if hashlib.sha256(payload).digest() != digest:
        raise ArtifactError("the bie was altered (hash mismatch)", where=where, fix="copy or quantize the model again")
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        header = msgspec.json.decode(archive.read("header.json"))
        if header["arith_version"] != ARITH_VERSION:
            raise ArtifactError(
                f"the bie follows arithmetic version {header['arith_version']}, this program {ARITH_VERSION}",
                where=where, fix="use the matching knerex_jax, or quantize the model again",
            )  # fmt: skip
        program = msgspec.json.decode(archive.read("program.json"), type=Program)
        _check_islands(program, header, where)
        plan = plan_from_json(msgspec.json.decode(archive.read("plan.json")))
        constants: dict[str, dict[str, np.ndarray]] = {i.name: {} for i in program.instructions}
        for i, (owner, key) in enumerate(msgspec.json.decode(archive.read("constants.json"))):
            with archive.open(f"constants/{i}.npy") as file:
                constants.setdefault(owner, {})[key] = np.lib.format.read_array(file, allow_pickle=False)
    return Bie(program, constants, plan, header)


def _check_islands(program: Program, header: Mapping[str, Any], where: str) -> None:
    """Islands are bit-true only with the very routines that they were planned with."""
    for island in program.islands:
        op_type = onnx.NodeProto.FromString(island.node).op_type
        try:
            same = routine_digest(op_type, island.opset) == island.digest
        except ValueError:
            same = False
        if not same:
            written = header.get("versions", {}).get("onnx", "another version")
            raise ArtifactError(
                f"{op_type} runs on the host by the reference of onnx {written}, which differs in onnx"
                f" {onnx.__version__} of this installation",
                where=f"{where}, node {island.name}",
                fix=f"install onnx {written}, or quantize the model again",
            )


def save_bie(bie: Bie, path: Path) -> None:
    """Writes the file atomically.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    write_atomic(path, encode_bie(bie))


def load_bie(path: str | Path) -> Bie:
    """Reads a bie.

    Raises:
      ArtifactError: missing, unreadable, not a bie, newer, cut short or altered.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise ArtifactError(f"cannot read the bie: {e.strerror}", where=str(path), fix="check the path") from e
    return decode_bie(data, str(path))
