"""What is divided and scheduled as one: an instruction, or several that pass their parts on without a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np

from knerex_jax.compiler.box import Box
from knerex_jax.compiler.cut import Cut, channel_step, cut, unsplit
from knerex_jax.compiler.segment import item_bytes
from knerex_jax.npu.isa import Buffer
from knerex_jax.program.primitives import Activate, Align, Instruction, Mac, MaxPool, Mul, PoolSum, Table


@dataclass(frozen=True)
class Link:
    """One instruction of a job.

    Attributes:
      instruction: of the program.
      constants: its own.
      reads: for every operand its place among the job's operands; None: what the link before makes.
      result: what it makes, as if it were whole somewhere.
    """

    instruction: Instruction
    constants: Mapping[str, np.ndarray]
    reads: tuple[int | None, ...]
    result: Buffer

    @property
    def weight_bits(self) -> int:
        """Width of the weights, 8 where there are none."""
        return self.instruction.weight_bits if isinstance(self.instruction, Mac) else 8

    @cached_property
    def item_bytes(self) -> dict[str, float]:
        """Bytes that an entry of each constant takes."""
        return {k: item_bytes(k, v, self.weight_bits) for k, v in self.constants.items()}


@dataclass(frozen=True)
class LinkPart:
    """A part of a link: how it is cut, and the box of its result."""

    link: Link
    cut: Cut
    box: Box


@dataclass(frozen=True)
class Job:
    """Links, each of which reads what the one before makes.

    Attributes:
      links: in order of execution.
      operands: whole tensors; those on chip are read where they are.
    """

    links: tuple[Link, ...]
    operands: tuple[Buffer, ...]

    @property
    def result(self) -> Buffer:
        """The last link's: the only one that leaves."""
        return self.links[-1].result

    @property
    def name(self) -> str:
        """Of the first instruction."""
        return self.links[0].instruction.name

    def part(self, box: Box) -> tuple[LinkPart, ...]:
        """What makes a box of the result, in order of execution."""
        found = []
        for k in range(len(self.links) - 1, -1, -1):
            link = self.links[k]
            made = cut(link.instruction, self._shapes(k), link.result.shape, link.constants, box)
            found.append(LinkPart(link, made, box))
            if k:
                box = made.operands[link.reads.index(None)]
        return tuple(found[::-1])

    def unsplit(self) -> frozenset[int]:
        """Axes of the result that cannot be divided; links of several have the same axes."""
        each = (unsplit(link.instruction, self._shapes(k), link.result.shape) for k, link in enumerate(self.links))
        return frozenset().union(*each)

    def channel_step(self) -> int:
        """Channels of a part at least."""
        return lcm(*(channel_step(link.instruction, link.constants) for link in self.links))

    def _shapes(self, k: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of a link's operands."""
        return tuple(
            self.links[k - 1].result.shape if place is None else self.operands[place].shape
            for place in self.links[k].reads
        )


def follows(first: Sequence[Instruction], after: Instruction, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether an instruction may run on the parts of the others: elementwise, or a window of a pooling, once.

    Args:
      first: the links so far.
      after: the only reader of what the last of them makes.
      shapes: tensor -> shape.
    """
    tensor = first[-1].output
    if not isinstance(first[0], Mac) or after.inputs.count(tensor) != 1:
        return False
    if isinstance(after, MaxPool | PoolSum):
        return after.window is not None and not any(isinstance(i, MaxPool | PoolSum) for i in first)
    plain = isinstance(after, Activate | Align | Mul | Table) or (isinstance(after, Mac) and after.kind == "diagonal")
    return plain and shapes[tensor] == shapes[after.output]
