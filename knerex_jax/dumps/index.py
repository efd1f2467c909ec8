"""What a dump holds, and its reader.

A dump is a zip of `index.json` and one `.npy` per tensor, sample and part.
"""

import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from knerex_jax.errors import ArtifactError, ConfigError
from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.metrics import snr_db
from knerex_jax.runner import Kind

FORMAT = 1

Part = Literal["codes", "float", "float_model"]
"""Codes (the elements of a plain tensor), what they mean in real numbers, the float model's values of the tensor."""

_DAMAGE = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, msgspec.DecodeError)


class Entry(msgspec.Struct, frozen=True):
    """One tensor of a dump.

    Attributes:
      tensor: its name in the model that ran.
      node: what made it; "" for an input.
      nodes: nodes of the decomposed model that `node` stands for.
      origin: nodes of the user's model behind them, where the file that ran says so.
      shape, dtype: of one sample, without a batch axis of 1; of the codes, or of a float model's values.
      bits: 8 or 15; 0 where there are no codes.
      axis: channel axis of radix and scale, counted in `shape`; None per layer.
      radix, scale: real = codes / (scale * 2**radix); empty where the file that ran does not say.
      files: per sample, part -> member of the zip.
    """

    tensor: str
    node: str
    nodes: tuple[str, ...]
    origin: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    bits: int = 0
    axis: int | None = None
    radix: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    files: tuple[dict[Part, str], ...] = ()


class Index(msgspec.Struct, frozen=True):
    """What `index.json` says.

    Attributes:
      model, kind: what ran.
      platform: of a fixed-point or compiled model, else "".
      samples: how many.
      tensors: inputs, then in the order of execution.
      arith_version: of the arithmetic contract.
      format: of this index.
    """

    model: str
    kind: Kind
    platform: str
    samples: int
    tensors: tuple[Entry, ...]
    arith_version: int = ARITH_VERSION
    format: int = FORMAT


@dataclass(frozen=True)
class Dump:
    """A dump that is read tensor by tensor.

    Attributes:
      path: of the zip.
      index: what it holds.
    """

    path: Path
    index: Index

    @cached_property
    def entry(self) -> dict[str, Entry]:
        """Tensor -> entry."""
        return {e.tensor: e for e in self.index.tensors}

    def read(self, tensor: str, part: Part = "float", sample: int = 0) -> np.ndarray:
        """One array, [*shape].

        Raises:
          ConfigError: there is no such tensor, part or sample.
          ArtifactError: the file is damaged.
        """
        where = f"{self.path}, tensor {tensor!r}"
        if tensor not in self.entry:
            raise ConfigError("no such tensor in the dump", where=where, fix="see index.tensors for names")
        if not 0 <= sample < self.index.samples:
            raise ConfigError(f"no sample {sample}", where=where, fix=f"there are {self.index.samples}, from 0")
        files = self.entry[tensor].files[sample]
        if part not in files:
            raise ConfigError(f"no {part!r} of it", where=where, fix=f"there is {', '.join(files)}")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(files[part]) as member:
                return np.lib.format.read_array(member, allow_pickle=False)
        except _DAMAGE as e:
            raise ArtifactError(f"unreadable: {e}", where=where, fix="write the dump again") from e

    def snr_db(self) -> dict[str, float]:
        """Tensor -> SNR against the float model in dB, mean over the samples; tensors that the dump has both of."""
        return {
            e.tensor: float(np.mean([self._snr_db(e.tensor, k) for k in range(self.index.samples)]))
            for e in self.index.tensors
            if all({"float", "float_model"} <= set(parts) for parts in e.files)
        }

    def _snr_db(self, tensor: str, sample: int) -> float:
        return snr_db(self.read(tensor, "float_model", sample), self.read(tensor, "float", sample))


def load_dump(path: str | Path) -> Dump:
    """Opens a dump; arrays are read when they are asked for.

    Raises:
      ArtifactError: missing, damaged or no dump.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = msgspec.json.decode(archive.read("index.json"), type=Index)
    except _DAMAGE as e:
        raise ArtifactError(f"this is no dump: {e}", where=str(path), fix="pass a .dump.zip") from e
    return Dump(Path(path), index)
