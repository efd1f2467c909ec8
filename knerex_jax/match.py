"""The bit-true match: the emulator and the simulator of the compiled program, code for code."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from knerex_jax.npu.isa import Compute, Dma, Load, NpuProgram, Tile
from knerex_jax.npu_model import NpuModel
from knerex_jax.runtime import FixedModel


@dataclass(frozen=True)
class Mismatch:
    """The first difference in the order of execution.

    Attributes:
      sample: number of the sample.
      tensor: name in the fixed program.
      nodes: graph nodes that its instruction computes.
      command: number of the command that wrote the place.
      tile: start and stop of that command's box, per axis.
      channel: place along the channel axis.
      position: place along every axis, batch axis of 1 included.
      emulator, simulator: the two codes.
    """

    sample: int
    tensor: str
    nodes: tuple[str, ...]
    command: int
    tile: tuple[tuple[int, ...], tuple[int, ...]]
    channel: int
    position: tuple[int, ...]
    emulator: int | float
    simulator: int | float

    def __str__(self) -> str:
        box = " x ".join(f"{a}:{b}" for a, b in zip(*self.tile, strict=True))
        return (
            f"sample {self.sample}, node {', '.join(self.nodes)} (tensor {self.tensor}), command {self.command},"
            f" tile [{box}], channel {self.channel}, position {list(self.position)}:"
            f" emulator {self.emulator}, simulator {self.simulator}"
        )


@dataclass(frozen=True)
class Match:
    """What was compared, and what differed.

    Attributes:
      samples: how many.
      layers: whether inner tensors were compared, too.
      tensors: how many per sample.
      codes: in all.
      differing: of these.
      first: where the first of them is.
    """

    samples: int
    layers: bool
    tensors: int
    codes: int
    differing: int
    first: Mismatch | None

    @property
    def equal(self) -> bool:
        """Whether no code differs."""
        return self.differing == 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"equal": self.equal}


def bit_true_match(
    fixed: FixedModel,
    npu: NpuModel,
    inputs: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]],
    *,
    layers: bool = False,
    batch_size: int = 32,
    known: Mapping[str, np.ndarray] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Match:
    """Runs both on the same samples and compares all codes.

    Args:
      fixed: the fixed-point model.
      npu: the same model, compiled.
      inputs: name -> [N, ...] in place of the model's batch axis; or batches of such, read one after the other.
      layers: compares every tensor that is somewhere whole, in DRAM or on chip, instead of the outputs alone. (What
        runs on the parts of the instruction before it is nowhere whole.)
      batch_size: samples that the emulator runs at once, and whose tensors are held.
      known: the emulator's codes of the outputs for `inputs`, where they are there already.
      progress: called with the number of samples compared.

    Returns:
      The result; a difference in the outputs is traced to the first tensor that differs.
    """
    batches = _batches(inputs, batch_size) if isinstance(inputs, Mapping) else inputs
    taps = npu.inner if layers else ()
    samples, tensors, codes, differing, first = 0, 0, 0, 0, None
    for batch in batches:
        wanted = known
        if wanted is None:
            wanted = fixed.run(batch, "fixed", taps=(*fixed.program.outputs, *taps), batch_size=batch_size)
        for k in range(len(next(iter(batch.values())))):
            sample = {t: v[k : k + 1] for t, v in batch.items()}
            found = {t: v[0] for t, v in npu.run(sample, "fixed", taps=taps).items()}
            row = k if known is None else samples
            wrong = {t: bad for t in found if len(bad := _differing(wanted[t][row], found[t]))}
            tensors, codes = len(found), codes + sum(v.size for v in found.values())
            differing += sum(map(len, wrong.values()))
            if wrong and first is None and not layers:
                traced = bit_true_match(fixed, npu, sample, layers=True, batch_size=1).first
                first = traced and replace(traced, sample=samples)
            if wrong and first is None:
                tensor = min(wrong, key=lambda t: _last_write(npu.program, t))
                place = int(wrong[tensor][0])
                first = _mismatch(fixed, npu.program, samples, tensor, place, wanted[tensor][row], found[tensor])
            samples += 1
            if progress is not None:
                progress(samples)
    return Match(samples, layers, tensors, codes, differing, first)


def _batches(inputs: Mapping[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    arrays = {t: np.asarray(v) for t, v in inputs.items()}
    for start in range(0, len(next(iter(arrays.values()))), size):
        yield {t: v[start : start + size] for t, v in arrays.items()}


def _differing(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Places of the elements that differ; NaN equals NaN."""
    a, b = np.ravel(wanted), np.ravel(found)
    same = a == b
    if np.issubdtype(b.dtype, np.floating):
        same |= np.isnan(a) & np.isnan(b)
    return np.flatnonzero(~same)


def _writes(program: NpuProgram, number: int) -> list[tuple[int, Tile]]:
    """The commands that write a buffer, with their boxes."""
    found = []
    for k, command in enumerate(program.commands):
        match command:
            case Dma(target=tile):
                found += [(k, tile)] if tile.buffer == number else []
            case Compute(results=tiles):
                found += [(k, tile) for tile in tiles if tile.buffer == number]
            case Load():
                pass
    return found


def _last_write(program: NpuProgram, tensor: str) -> int:
    writes = _writes(program, dict(program.tensors)[tensor])
    return writes[-1][0] if writes else -1


def _mismatch(
    fixed: FixedModel, program: NpuProgram, sample: int, tensor: str, place: int, wanted: np.ndarray, found: np.ndarray
) -> Mismatch:
    number = dict(program.tensors)[tensor]
    buffer = program.buffers[number]
    position = tuple(int(k) for k in np.unravel_index(place, buffer.shape))
    inside = (
        (k, tile)
        for k, tile in reversed(_writes(program, number))
        if all(a <= p < b for a, p, b in zip(tile.start, position, tile.stop, strict=True))
    )
    command, tile = next(inside, (-1, Tile(number, (0,) * len(buffer.shape), buffer.shape)))
    axis = buffer.axis if buffer.axis is not None else min(1, len(buffer.shape) - 1)
    nodes = next((i.nodes for i in fixed.program.instructions if tensor in i.outputs), ())
    a, b = (np.ravel(v)[place].item() for v in (wanted, found))
    return Mismatch(
        sample, tensor, nodes, command, (tile.start, tile.stop), position[axis] if position else 0, position, a, b
    )
