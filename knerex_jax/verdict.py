"""Whether this machine computes what the writer of a bie or nef computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.artifacts.bie import load_bie
from knerex_jax.errors import ArtifactError
from knerex_jax.match import bit_true_match
from knerex_jax.nef.container import load_nef
from knerex_jax.npu.isa import NpuProgram
from knerex_jax.npu_model import NpuModel, compile_bie
from knerex_jax.probe import PROBE, digest, probe_inputs, probe_values
from knerex_jax.runtime import FixedModel


@dataclass(frozen=True)
class Verdict:
    """What came out for one model of a file.

    Attributes:
      model: its name.
      executor: what computed here: "emulator" (bie) or "simulator" (nef).
      equal: whether all hashes agree.
      tensors: what was compared.
      differing: of these.
      where: the first difference between emulator and simulator here, where there is one.
      left_out: outputs that operators in float on the host take part in.
      islands: these operators.
    """

    model: str
    executor: str
    equal: bool
    tensors: tuple[str, ...]
    differing: tuple[str, ...]
    where: str
    left_out: tuple[str, ...]
    islands: tuple[str, ...]


def verify(path: str | Path, *, batch_size: int = 1, key: bytes | None = None) -> tuple[Verdict, ...]:
    """Runs the built-in probe on this machine and compares the hashes of its codes with those in the file.

    Args:
      path: a bie (the emulator runs, on JAX's default device) or a nef (the simulator runs).
      batch_size: copies of the probe that the emulator runs at once.
      key: of an encrypted nef.

    Returns:
      One verdict per model.

    Raises:
      ArtifactError: the file cannot be read, or carries no hashes.
    """
    if Path(path).suffix == ".nef":
        nef = load_nef(path, key=key)
        return tuple(_of_nef(NpuModel(m.program, m.weight), _record(m.meta, path)) for m in nef.models)
    return (_of_bie(path, batch_size),)


def _of_bie(path: str | Path, batch_size: int) -> Verdict:
    bie = load_bie(path)
    record, program, fixed = _record(bie.header, path), bie.program, FixedModel(bie)
    inputs = probe_inputs(program, bie.constants)
    copies = {t: np.repeat(v, batch_size, axis=0) for t, v in inputs.items()}
    codes = fixed.run(copies, "fixed", taps=tuple(record["sha256"]), batch_size=batch_size)
    wrong = tuple(
        t
        for t, wanted in record["sha256"].items()
        if any(digest(row, program.shapes[t], t in program.exact) != wanted for row in codes[t])
    )
    where = ""
    if wrong:
        compiled = compile_bie(bie)
        match = bit_true_match(fixed, NpuModel(compiled.program, compiled.weight), copies, batch_size=batch_size)
        where = str(match.first or "emulator and simulator agree here: the file was written by other arithmetic")
    return _verdict(program.name, "emulator", record, wrong, where)


def _of_nef(npu: NpuModel, record: Mapping[str, Any]) -> Verdict:
    program = npu.program
    outputs = {port.name for port in program.outputs}
    codes = npu.run(_probe_of(program), "fixed", taps=tuple(t for t in record["sha256"] if t not in outputs))
    buffers = {t: program.buffers[n] for t, n in program.tensors} | {
        port.name: program.buffers[port.buffer] for port in program.outputs
    }
    wrong = tuple(
        t for t, wanted in record["sha256"].items() if digest(codes[t], buffers[t].shape, not buffers[t].bits) != wanted
    )
    return _verdict(program.name, "simulator", record, wrong, "")


def _probe_of(program: NpuProgram) -> dict[str, np.ndarray]:
    found = {}
    for port in program.inputs:
        b = program.buffers[port.buffer]
        found[port.name] = probe_values(port.name, b.shape, bits=b.bits, inverse=port.inverse, dtype=b.dtype)
    return found


def _record(header: Mapping[str, Any], path: str | Path) -> Mapping[str, Any]:
    record = header.get("probe")
    if record is None or record["probe"] != PROBE:
        raise ArtifactError(
            "the file carries no hashes of this version's probe", where=str(path), fix="quantize the model again"
        )
    return record


def _verdict(name: str, executor: str, record: Mapping[str, Any], wrong: tuple[str, ...], where: str) -> Verdict:
    return Verdict(
        name, executor, not wrong, tuple(record["sha256"]), wrong, where, tuple(record["left_out"]),
        tuple(record["islands"]),
    )  # fmt: skip
