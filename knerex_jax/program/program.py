"""The fixed program: instructions in order, the type of every code tensor, the boundary; constants lie beside it."""

from collections.abc import Mapping
from functools import cached_property

import msgspec
import numpy as np

from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.program.primitives import Instruction, Island

Constants = Mapping[str, Mapping[str, np.ndarray]]
"""instruction name, or "tensor:" + tensor name -> constant name -> array; see the primitives' docstrings."""


class CodeTensor(msgspec.Struct, frozen=True):
    """Shape of one sample (batch axis of 1 included), width of its codes and its channel axis (None: per layer)."""

    shape: tuple[int, ...]
    bits: int
    axis: int | None = None


class PlainTensor(msgspec.Struct, frozen=True):
    """Shape of one sample and numpy element type of a tensor that is never quantized: indices, masks, counts."""

    shape: tuple[int, ...]
    dtype: str


class Program(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the hardware would run, apart from its integers.

    Inputs are quantized as saturate(rint(x * factor)) and outputs dequantized as code * inverse, one float32 product
    each; `constants["tensor:<name>"]` holds `factor` and `inverse` of every tensor of `tensors`, float32 [C] along its
    channel axis ([1] per layer, as all inputs and outputs are).

    Attributes:
      inputs, outputs: tensor names, in the model's order.
      instructions: in execution order.
      tensors: (name, type) of every code tensor, in order of appearance.
      plain: (name, type) of every tensor that is exact instead of coded; inputs and outputs may be plain, too.
    """

    name: str
    platform: str
    arith_version: int = ARITH_VERSION
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    tensors: tuple[tuple[str, CodeTensor], ...]
    plain: tuple[tuple[str, PlainTensor], ...] = ()

    @cached_property
    def tensor(self) -> dict[str, CodeTensor]:
        """Name of a code tensor -> type."""
        return dict(self.tensors)

    @cached_property
    def exact(self) -> dict[str, PlainTensor]:
        """Name of a plain tensor -> type."""
        return dict(self.plain)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of any tensor -> shape."""
        return {t: held.shape for t, held in (*self.tensors, *self.plain)}

    @property
    def islands(self) -> tuple[Island, ...]:
        """The instructions that run on the host."""
        return tuple(i for i in self.instructions if isinstance(i, Island))
