"""Where whole tensors lie in DRAM, and which of them stay on chip between instructions."""

from collections.abc import Collection, Mapping

import msgspec

from knerex_jax.compiler.layout import buffer_of, byte_size, encode, input_format
from knerex_jax.compiler.schedule import Draft
from knerex_jax.npu.isa import Engine, Format
from knerex_jax.program.primitives import Const, Instruction, Island, Lookup, Move
from knerex_jax.program.program import Constants, Program


def engine_in_dram(instruction: Instruction, host: Collection[str]) -> Engine | None:
    """The engine of what runs on whole tensors in DRAM; None for what is cut into parts on chip.

    Args:
      instruction: of the program.
      host: graph nodes that the platform leaves to its processor.
    """
    if isinstance(instruction, Island | Lookup) or any(n in host for n in instruction.nodes):
        return "host"
    return "pfunc" if isinstance(instruction, Move) else None


def in_dram(program: Program, constants: Constants, draft: Draft, formats: Mapping[str, Format]) -> dict[str, int]:
    """Tensor -> number of the buffer that holds all of it; outputs that are inputs or constants are where these are."""
    consts = {i.output: i for i in program.instructions if isinstance(i, Const)}
    made = {t for i in program.instructions for t in i.outputs}
    found: dict[str, int] = {}
    for t, tensor in (*program.tensors, *program.plain):
        if t in program.inputs:
            format = formats.get(t, input_format(tensor.shape, getattr(tensor, "axis", None)))
            buffer = buffer_of(tensor, format, "input", 0)
        elif t in consts:
            buffer = buffer_of(tensor, "1W16C8B", "weight", 0)
            data = encode(constants[consts[t].name]["codes"], buffer, program.platform)
            buffer = msgspec.structs.replace(buffer, offset=draft.weights.add(data))
        elif t in program.outputs:
            buffer = buffer_of(tensor, "16W1C8B", "output", 0)
        elif t in made:
            buffer = buffer_of(tensor, "1W16C8B", "working", 0)
        else:
            continue
        found[t] = draft.add(buffer)
    return found


class OnChip:
    """Tensors that stay on chip from the instruction that makes them to the last one that reads them.

    Attributes:
      held: tensor -> number of its buffer on chip.
    """

    def __init__(self, program: Program, draft: Draft, host: Collection[str], room: int) -> None:
        self._draft, self._room = draft, room
        self._place = {i.name: k for k, i in enumerate(program.instructions)}
        self._last = {t: k for k, i in enumerate(program.instructions) for t in i.inputs}
        self._outside = set(program.outputs)  # read in DRAM
        for i in program.instructions:
            if engine_in_dram(i, host) is not None:
                self._outside.update(i.inputs)
        self.held: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        """What they take."""
        return sum(self._draft.sizes[n] for n in self.held.values())

    def drop_before(self, instruction: Instruction) -> None:
        """Forgets what neither an instruction nor one behind it reads."""
        k = self._place[instruction.name]
        self.held = {t: n for t, n in self.held.items() if self._last.get(t, -1) >= k}

    def keeps(self, tensor: str, size: int) -> bool:
        """Whether there is room to keep one more, which only parts on chip read."""
        return tensor not in self._outside and tensor in self._last and self.bytes + size <= self._room

    def size_of(self, number: int) -> int:
        """Bytes of a whole tensor, as it would lie on chip."""
        return byte_size(self._draft.buffers[number], self._draft.platform)
