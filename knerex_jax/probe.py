r"""The probe: one input that every installation can rebuild, and the hash of what the model makes of it.

Codes of a quantized input are read from the stream SHA-256("knerex_jax probe 1/<name>/<k>"), k = 0, 1, ...: 2 bytes
each, little endian, their low 8 or 15 bits as a two's complement number; so they cover the whole range. A plain input
is the lowest bit of these codes, 0 or 1. The order is that of the tensor's shape (C order), batch axis of 1 included.

A tensor's hash is the SHA-256 of "<dtype> <shape>\n" and its codes: int32, plain integers int64, little endian, in C
order.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from knerex_jax.program.program import Constants, Program

PROBE = 1
"""Version of the rule above."""


def probe_inputs(program: Program, constants: Constants) -> dict[str, np.ndarray]:
    """Input name -> the probe, [1, *shape without its batch axis]: real values that quantize to the probe's codes."""
    found = {}
    for name in program.inputs:
        if name in program.exact:
            found[name] = probe_values(name, program.shapes[name], dtype=program.exact[name].dtype)
        else:
            inverse = float(np.ravel(constants[f"tensor:{name}"]["inverse"])[0])
            found[name] = probe_values(name, program.shapes[name], bits=program.tensor[name].bits, inverse=inverse)
    return found


def probe_values(
    name: str, shape: tuple[int, ...], *, bits: int = 0, inverse: float = 1.0, dtype: str = "float32"
) -> np.ndarray:
    """The probe of one input: codes times inverse in float32, or 0 and 1 of `dtype` where there are no bits."""
    stream = _stream(name, prod(shape)).reshape(shape)
    if not bits:
        value = (stream & 1).astype(dtype)
    else:
        half = 1 << (bits - 1)
        value = (((stream & (2 * half - 1)) ^ half) - half).astype(np.float32) * np.float32(inverse)
    return value if value.ndim and value.shape[0] == 1 else value[None]


def probed(program: Program) -> tuple[str, ...]:
    """The outputs that no float island takes part in; where there is none, what the first islands read."""
    behind = behind_islands(program)
    if outputs := tuple(t for t in program.outputs if t not in behind):
        return outputs
    made = {t for i in program.instructions for t in i.outputs}
    read = (t for i in program.islands for t in i.inputs if t in made and t not in behind)
    return tuple(dict.fromkeys(read))


def probe_record(program: Program, codes: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a bie and a nef say about the probe.

    Args:
      program: the fixed program.
      codes: tensor -> codes of the probe, for all of `probed`.

    Returns:
      "probe": version of the rule; "sha256": tensor -> hash; "left_out": outputs that float islands take part in;
      "islands": their names.
    """
    kept = probed(program)
    return {
        "probe": PROBE,
        "sha256": {t: digest(codes[t], program.shapes[t], t in program.exact) for t in kept},
        "left_out": [t for t in program.outputs if t not in kept],
        "islands": [i.name for i in program.islands],
    }


def digest(codes: np.ndarray, shape: Iterable[int], plain: bool) -> str:
    """The hash of a tensor's codes, hexadecimal."""
    dtype = "int64" if plain else "int32"
    data = np.ascontiguousarray(np.ravel(codes)).astype(np.dtype(dtype).newbyteorder("<"))
    head = f"{dtype} {'x'.join(map(str, shape))}\n"
    return hashlib.sha256(head.encode() + data.tobytes()).hexdigest()


def _stream(name: str, count: int) -> np.ndarray:
    blocks = (
        hashlib.sha256(f"knerex_jax probe {PROBE}/{name}/{k}".encode()).digest()
        for k in itertools.islice(itertools.count(), -(-count // 16))
    )
    return np.frombuffer(b"".join(blocks), "<u2")[:count].astype(np.int64)


def behind_islands(program: Program) -> set[str]:
    """The tensors that some float island takes part in."""
    found: set[str] = set()
    islands = {i.name for i in program.islands}
    for i in program.instructions:
        if i.name in islands or found.intersection(i.inputs):
            found.update(i.outputs)
    return found
