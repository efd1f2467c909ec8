"""fm_cut "deep_search": the division of an instruction that the cost model finds fastest.

Every combination of halved steps along the axes and both orders of channels and places is tried, coarse ones first, as
far as a budget of parts allows, by writing its commands and running their clock. Nothing is random.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import msgspec

from knerex_jax.compiler.cost import estimate
from knerex_jax.compiler.finish import on_chip_places
from knerex_jax.compiler.job import Job
from knerex_jax.compiler.layout import channel_axis
from knerex_jax.compiler.schedule import Draft, placed, write
from knerex_jax.compiler.tiling import Tiling, aligned, default_tiling, largest, smaller
from knerex_jax.npu.isa import Lifetime, NpuProgram
from knerex_jax.targets.machine import Machine

PARTS = 64
"""A division into more parts is not tried."""

_ELSEWHERE = 1 << 40
"""Address of what lies on chip already: no part takes its room."""


@dataclass
class DeepSearch:
    """Searches, and remembers what it found for instructions that look alike.

    Attributes:
      machine: whose clock runs.
      budget: parts that all trials of one instruction may write.
      trials: divisions that were tried.
    """

    machine: Machine
    budget: int = 1024
    trials: int = 0
    _found: dict[object, Tiling] = field(default_factory=dict)

    def __call__(self, job: Job, room: int, platform: str) -> Tiling:
        """The fastest division found; never slower than the default one by the cost model.

        Raises:
          CompileError: even the smallest part does not fit.
        """
        alike = (_geometry(job), room, platform)
        if alike not in self._found:
            self._found[alike] = self._search(job, room, platform)
        return self._found[alike]

    def _search(self, job: Job, room: int, platform: str) -> Tiling:
        best = default_tiling(job, room, platform)
        least, left = _seconds(job, best, platform, self.machine), self.budget
        for tiling in _candidates(job, room, platform):
            left -= tiling.count(job.result.shape)
            if left < 0:
                break
            self.trials += 1
            if (seconds := _seconds(job, tiling, platform, self.machine)) < least * (1 - 1e-9):
                best, least = tiling, seconds
        return best


def _geometry(job: Job) -> object:
    """What the cost of a job depends on."""
    links = tuple(
        (
            msgspec.structs.replace(k.instruction, name="", inputs=(), output="", nodes=()),
            k.reads,
            tuple((name, v.shape, k.item_bytes[name]) for name, v in k.constants.items()),
        )
        for k in job.links
    )
    tensors = (*job.operands, *(k.result for k in job.links))
    return links, tuple((b.shape, b.axis, b.bits, b.format, b.memory == "sram") for b in tensors)


def _candidates(job: Job, room: int, platform: str) -> Iterator[Tiling]:
    """Divisions that fit, coarse ones first."""
    shape = job.result.shape
    choices = [_steps(job, axis) for axis in range(len(shape))]
    found = sorted(product(*choices), key=lambda steps: (Tiling(steps, ()).count(shape), steps))
    c = channel_axis(len(shape), job.result.axis)
    others = tuple(k for k in range(len(shape)) if k != c)
    for steps in found:
        if Tiling(steps, ()).count(shape) > PARTS:
            return
        divided = steps[c] < shape[c] and any(steps[k] < shape[k] for k in others)
        for order in ((c, *others), (*others, c))[: 2 if divided else 1]:
            tiling = Tiling(steps, order)
            if largest(job, tiling, platform) <= room and aligned(job, tiling):
                yield tiling


def _steps(job: Job, axis: int) -> list[int]:
    """All of an axis, half of it, a quarter, ... down to the least unit."""
    found = [job.result.shape[axis]]
    while (step := smaller(job, axis, found[-1])) < found[-1]:
        found.append(step)
    return found


def _seconds(job: Job, tiling: Tiling, platform: str, machine: Machine) -> float:
    """Time of an instruction by itself, with engines side by side."""
    draft = Draft(platform)
    operands = [
        draft.add(msgspec.structs.replace(b, offset=_ELSEWHERE) if b.memory == "sram" else b) for b in job.operands
    ]
    write(draft, job, tiling, operands, draft.add(job.result))
    offsets, _, lives = on_chip_places(draft)
    buffers = tuple(
        msgspec.structs.replace(b, offset=offsets[n]) if n in offsets else b for n, b in enumerate(draft.buffers)
    )
    program = NpuProgram(
        arith_version=0, name="", platform=platform, inputs=(), outputs=(), buffers=buffers,
        lifetimes=tuple(lives.get(n, Lifetime(0, -1)) for n in range(len(buffers))), commands=placed(draft, offsets),
        tensors=(), sizes=(),
    )  # fmt: skip
    return estimate(program, machine).seconds
