"""A model's segments: setup, commands, weights, and what people and tools read beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import msgspec
import numpy as np

from knerex_jax.errors import ArtifactError
from knerex_jax.npu.isa import Buffer, Command, Compute, NpuProgram, Port

SEGMENTS = ("setup", "command", "weight", "ioinfo", "meta")
"""Names, in the order in which they are stored."""


@dataclass(frozen=True)
class NefModel:
    """One compiled model.

    Attributes:
      model_id: number by which an application asks for it.
      name: of the model.
      version: hexadecimal, up to four digits.
      program: commands and buffers.
      weight: the weight segment; its int4 codes lie two in a byte.
      meta: whatever the writer recorded: hash of the source, probe, versions.
    """

    model_id: int
    name: str
    version: str
    program: NpuProgram
    weight: bytes = field(repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)


def to_segments(model: NefModel) -> dict[str, bytes]:
    """Name -> bytes."""
    program = model.program
    return {
        "setup": msgspec.msgpack.encode(msgspec.structs.replace(program, commands=())),
        "command": msgspec.msgpack.encode(program.commands),
        "weight": model.weight,
        "ioinfo": msgspec.json.encode(ioinfo(program)),
        "meta": msgspec.json.encode(dict(model.meta)),
    }


def from_segments(parts: Mapping[str, bytes], model_id: int, name: str, version: str, where: str) -> NefModel:
    """The inverse of `to_segments`.

    Raises:
      ArtifactError: a segment is missing, or is not what its name says.
    """
    try:
        setup = msgspec.msgpack.decode(parts["setup"], type=NpuProgram)
        commands = msgspec.msgpack.decode(parts["command"], type=tuple[Command, ...])
        meta = msgspec.json.decode(parts["meta"])
        weight = parts["weight"]
    except (KeyError, msgspec.MsgspecError) as e:
        raise ArtifactError(f"model {model_id} is not readable: {e}", where=where, fix="compile it again") from e
    return NefModel(model_id, name, version, msgspec.structs.replace(setup, commands=commands), weight, meta)


def ioinfo(program: NpuProgram) -> dict[str, Any]:
    """The boundary as an application needs it, in plain data."""
    host = [c.instruction for c in program.commands if isinstance(c, Compute) and c.engine == "host"]
    return {
        "input": [_port(port, program.buffers[port.buffer], dict(program.sizes)) for port in program.inputs],
        "output": [_port(port, program.buffers[port.buffer], dict(program.sizes)) for port in program.outputs],
        "cpu_node": list(dict.fromkeys(n for i in host for n in i.nodes)),
        "segment_bytes": dict(program.sizes),
    }


def _port(port: Port, buffer: Buffer, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(buffer.shape),
        "channel_axis": buffer.axis,
        "format": buffer.format,
        "bits": buffer.bits,
        "dtype": buffer.dtype or ("int8" if buffer.bits == 8 else "int16"),
        "radix": list(port.radix),
        "scale": list(port.scale),
        "factor": port.factor,
        "inverse": port.inverse,
        "segment": buffer.memory,
        "offset": buffer.offset,
        "elements": prod(buffer.shape),
        "itemsize": np.dtype(buffer.dtype).itemsize if buffer.dtype else -(-buffer.bits // 8),
    }
