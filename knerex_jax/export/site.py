"""Where an instruction is translated: the graph so far, and what is known of its tensors."""

from dataclasses import dataclass

from knerex_jax.export.tape import Tape
from knerex_jax.program.bounds import Bounds
from knerex_jax.program.program import Program


@dataclass(frozen=True)
class Site:
    """What every translation needs.

    Attributes:
      tape: what operators are appended to.
      program: the fixed program.
      bounds: of its tensors and accumulators.
      opset: version of the operators.
    """

    tape: Tape
    program: Program
    bounds: Bounds
    opset: int

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Of one sample, batch axis of 1 included."""
        return self.program.shapes[tensor]
