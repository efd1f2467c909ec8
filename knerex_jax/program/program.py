"""The fixed program: instructions in order, the type of every code tensor, the boundary; constants lie beside it."""

from collections.abc import Mapping
from functools import cached_property

import msgspec
import numpy as np

from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.program.primitives import Instruction

Constants = Mapping[str, Mapping[str, np.ndarray]]
"""instruction name, or "tensor:" + tensor name -> constant name -> array; see the primitives' docstrings."""


class CodeTensor(msgspec.Struct, frozen=True):
    """Shape of one sample (batch axis of 1 included), width of its codes and its channel axis (None: per layer)."""

    shape: tuple[int, ...]
    bits: int
    axis: int | None = None


class Program(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the hardware would run, apart from its integers.

    Inputs are quantized as saturate(rint(x * factor)) and outputs dequantized as code * inverse, one float32 product
    each; `constants["tensor:<name>"]` holds `factor` and `inverse` of every tensor of `tensors`, float32 [C] along its
    channel axis ([1] per layer, as all inputs and outputs are).

    Attributes:
      inputs, outputs: tensor names, in the model's order.
      instructions: in execution order.
      tensors: (name, type) of every code tensor, in order of appearance.
    """

    name: str
    platform: str
    arith_version: int = ARITH_VERSION
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    tensors: tuple[tuple[str, CodeTensor], ...]

    @cached_property
    def tensor(self) -> dict[str, CodeTensor]:
        """Tensor name -> type."""
        return dict(self.tensors)
