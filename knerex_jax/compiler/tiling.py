"""How an instruction is divided ("fm_cut"): steps along the axes of its result, and the order of the parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from knerex_jax.compiler.box import Box, extent, pieces, whole
from knerex_jax.compiler.job import Job
from knerex_jax.compiler.layout import buffer_of, byte_size, channel_axis, starts_an_entry, up
from knerex_jax.errors import CompileError
from knerex_jax.npu.isa import Buffer
from knerex_jax.program.program import CodeTensor


@dataclass(frozen=True)
class Tiling:
    """How a result is divided.

    Attributes:
      steps: along its axes.
      order: of the axes, from the slowest to the fastest.
      ahead: the next part is loaded while one is computed; without it there is room for one at a time.
      streamed: constants are read where they lie in DRAM, because those of one part do not fit on chip.
    """

    steps: tuple[int, ...]
    order: tuple[int, ...]
    ahead: bool = True
    streamed: bool = False

    def count(self, shape: Sequence[int]) -> int:
        """How many parts there are."""
        return prod(-(-n // s) for n, s in zip(shape, self.steps, strict=True))

    def boxes(self, shape: Sequence[int]) -> Iterator[Box]:
        """The parts, in order."""
        return pieces(shape, self.steps, self.order)


def box_bytes(buffer: Buffer, box: Box, platform: str) -> int:
    """Bytes of a box of a buffer, in a buffer of its own."""
    tensor = CodeTensor(extent(box), buffer.bits, buffer.axis)
    return byte_size(buffer_of(tensor, buffer.order, "sram", 0), platform)


def footprint(job: Job, box: Box, platform: str, streamed: bool = False) -> int:
    """Bytes on chip while a part runs."""
    total = 0
    for part in job.part(box):
        link = part.link
        read = [(p, r) for p, r in zip(link.reads, part.cut.operands, strict=True) if p is not None]
        loaded = [(job.operands[p], r) for p, r in read if job.operands[p].memory != "sram"]
        total += sum(up(box_bytes(b, r, platform), 16) for b, r in [*loaded, (link.result, part.box)])
        if not streamed:
            total += sum(up(int(np.ceil(v.size * link.item_bytes[k])), 16) for k, v in part.cut.constants.items())
    return total


def default_tiling(job: Job, budget: int, platform: str) -> Tiling:
    """Halves what takes most room until two parts fit on chip at a time, or one where two never do.

    Args:
      job: what is divided.
      budget: bytes for one part of two.
      platform: whose layouts.

    Raises:
      CompileError: even the smallest part does not fit.
    """
    found = None
    for ahead, streamed in ((True, False), (False, False), (True, True), (False, True)):
        room = budget if ahead else 2 * budget
        found = _halved(job, Tiling(job.result.shape, _order(job), ahead, streamed), room, platform)
        if largest(job, found, platform) <= room:
            return found
    assert found is not None
    raise CompileError(
        f"its smallest part needs {largest(job, found, platform)} bytes on chip, where {2 * budget} are free",
        where=job.name, fix="use smaller inputs, or a platform with more memory on chip",
    )  # fmt: skip


def _halved(job: Job, tiling: Tiling, room: int, platform: str) -> Tiling:
    """Divided until a part fits, or cannot be divided any more."""
    while largest(job, tiling, platform) > room and (axis := _next_axis(job, tiling, platform)) is not None:
        tiling = _divided(job, tiling, axis)
    return tiling


def _divided(job: Job, tiling: Tiling, axis: int) -> Tiling:
    """About half the step along one axis."""
    steps = list(tiling.steps)
    steps[axis] = smaller(job, axis, steps[axis])
    return replace(tiling, steps=tuple(steps))


def largest(job: Job, tiling: Tiling, platform: str) -> int:
    """Footprint of the part in the middle: those at the edges read less."""
    middle = tuple(
        ((n - 1) // 2 // s * s, min(((n - 1) // 2 // s + 1) * s, n))
        for n, s in zip(job.result.shape, tiling.steps, strict=True)
    )
    corner = tuple((0, min(s, n)) for n, s in zip(job.result.shape, tiling.steps, strict=True))
    return max(footprint(job, box, platform, tiling.streamed) for box in (middle, corner))


def _order(job: Job) -> tuple[int, ...]:
    """Channels slowest, so that weights stay while the parts of a picture pass; then as they lie in memory."""
    c = channel_axis(len(job.result.shape), job.result.axis)
    return (c, *(k for k in range(len(job.result.shape)) if k != c))


def _next_axis(job: Job, tiling: Tiling, platform: str) -> int | None:
    """The axis along which halving saves most, of those that stay aligned."""
    best, saved = None, 0
    now = largest(job, tiling, platform)
    for axis in range(len(tiling.steps)):
        tried = _divided(job, tiling, axis)
        if tried == tiling:
            continue
        gain = now - largest(job, tried, platform)
        if gain > saved and aligned(job, tried):
            best, saved = axis, gain
    return best


def smaller(job: Job, axis: int, step: int) -> int:
    """About half, in whole units of the axis; the same if it cannot be divided."""
    shape = job.result.shape
    if axis in job.unsplit():
        return step
    least = 1
    if axis == channel_axis(len(shape), job.result.axis):
        least = job.channel_step()
    half = up(-(-step // 2), least)
    return half if half < step else step


def aligned(job: Job, tiling: Tiling) -> bool:
    """Whether every part begins at an entry, in its result and in its operands."""
    shape = job.result.shape
    for axis, step in enumerate(tiling.steps):
        if step >= shape[axis]:
            continue
        for start in {step, (shape[axis] - 1) // step * step}:
            box = list(whole(shape))
            box[axis] = (start, min(start + step, shape[axis]))
            pairs = [(job.result, tuple(box))]
            for part in job.part(tuple(box)):
                read = zip(part.link.reads, part.cut.operands, strict=True)
                pairs += [(job.operands[p], r) for p, r in read if p is not None]
            if not all(starts_an_entry(b, r) for b, r in pairs if b.memory != "sram"):
                return False
    return True
