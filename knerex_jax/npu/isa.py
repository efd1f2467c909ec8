"""Commands of the NPU program and what they address; docs/npu_program.md says what they mean, byte by byte.

Plain data, written by the compiler and read by the simulator, which share nothing else. The vendor's commands are not
public; these are ours, with the published memories, engines, layouts and segments.
"""

from typing import Literal, cast

import msgspec

from knerex_jax.program.primitives import Instruction, Shape

ISA_VERSION = 1

Memory = Literal["sram", "input", "output", "working", "weight"]
"""On-chip memory, or a segment of DRAM."""

Format = Literal["1W16C8B", "1W16C8BHL", "4W4C8B", "4W4C8BHL", "16W1C8B", "16W1C8BHL", "RAW"]
"""Order of bytes; HL for 15-bit codes. RAW: ONNX order without alignment (plain tensors, and what the host reads)."""

Order = Literal["1W16C8B", "4W4C8B", "16W1C8B", "RAW"]
"""A format without saying how wide codes are."""

Engine = Literal["cfunc", "pfunc", "host"]
"""Main compute unit, auxiliary unit (pooling, data movement), processor beside the NPU."""


class Buffer(msgspec.Struct, frozen=True):
    """A tensor, or a part of one, in some memory.

    Attributes:
      memory, offset: where its first byte lies.
      format: order of its bytes.
      shape: as in the program (one sample, batch axis of 1 included), or of the part.
      axis: channel axis, which the format calls C; None: axis 1, or the last axis of tensors of rank 1 and 2.
      bits: 8 or 15; 0 for a plain tensor.
      dtype: numpy element type of a plain tensor, "" for codes.
    """

    memory: Memory
    offset: int
    format: Format
    shape: Shape
    axis: int | None
    bits: int
    dtype: str = ""

    @property
    def order(self) -> Order:
        """The format, whatever the width of the codes."""
        return cast(Order, self.format.removesuffix("HL"))


class Tile(msgspec.Struct, frozen=True):
    """A box of a buffer: elements start[k] to stop[k] (exclusive) along every axis of its shape."""

    buffer: int
    start: Shape
    stop: Shape


class Constant(msgspec.Struct, frozen=True):
    """An integer array in SRAM, or in the weight segment (host commands, and what is larger than SRAM).

    Attributes:
      name: as in the instruction's docstring.
      dtype: "int4" (two codes a byte, the first in the low four bits); "int8" to "int64" (little endian,
        C order), or any numpy type for constants of a host operator.
    """

    name: str
    memory: Memory
    offset: int
    dtype: str
    shape: Shape


class Dma(msgspec.Struct, frozen=True, tag="dma"):
    """Copies a box between DRAM and SRAM, element by element of equal format; reading is RDMA, writing is WDMA."""

    source: Tile
    target: Tile


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Copies bytes of the weight segment into SRAM (GETW).

    Attributes:
      source: offset in the weight segment.
      target: offset in SRAM.
      size: bytes.
      buffer: number of the buffer that these bytes of SRAM are: RAW, of uint8.
    """

    source: int
    target: int
    size: int
    buffer: int


class Compute(msgspec.Struct, frozen=True, tag="compute"):
    """Runs one instruction on boxes.

    Attributes:
      engine: "cfunc" and "pfunc" work in SRAM; data movement ("pfunc", a `Move`) and the host also work in DRAM.
      instruction: its names are those of the program; geometry (pads, arguments of a move) is that of the box.
      operands: what it reads, in the order of the instruction's inputs; absent inputs of a host operator are left out.
      results: what it writes, in the order of the instruction's outputs.
      constants: of the box: only the channels, rows and taps that it needs.
    """

    engine: Engine
    instruction: Instruction
    operands: tuple[Tile, ...]
    results: tuple[Tile, ...]
    constants: tuple[Constant, ...] = ()


Command = Dma | Load | Compute


class Port(msgspec.Struct, frozen=True):
    """An input or output of the model: its name, its buffer, and its format of numbers (plain: neither).

    `radix` and `scale` have one entry, as all inputs and outputs are per layer; `factor` and `inverse` are the float32
    products of the boundary rule.
    """

    name: str
    buffer: int
    radix: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    factor: float = 1.0
    inverse: float = 1.0


class Lifetime(msgspec.Struct, frozen=True):
    """From the first command that touches a buffer to the last, both included."""

    first: int
    last: int


class NpuProgram(msgspec.Struct, frozen=True, kw_only=True):
    """What one model asks of the machine.

    Attributes:
      buffers: all of them, addressed by place in this list.
      lifetimes: of each buffer; inputs begin at -1, outputs end at the number of commands.
      commands: in order of execution.
      tensors: (tensor of the fixed program, buffer that holds it whole) where there is one, for layer-wise comparison.
      sizes: (memory, bytes).
    """

    isa_version: int = ISA_VERSION
    arith_version: int
    name: str
    platform: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    buffers: tuple[Buffer, ...]
    lifetimes: tuple[Lifetime, ...]
    commands: tuple[Command, ...]
    tensors: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[Memory, int], ...]
