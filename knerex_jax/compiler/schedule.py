"""Commands of one instruction after the other: loads, the part itself, stores, with the next part's loads in front."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from knerex_jax.compiler.box import Box, extent, whole
from knerex_jax.compiler.job import Job
from knerex_jax.compiler.layout import buffer_of
from knerex_jax.compiler.segment import Blob, WeightSegment, pack
from knerex_jax.compiler.tiling import Tiling, box_bytes
from knerex_jax.npu.isa import Buffer, Command, Compute, Dma, Engine, Load, Tile
from knerex_jax.program.primitives import MaxPool, Move, PoolSum
from knerex_jax.program.program import CodeTensor, PlainTensor

_UNPLACED = -1


@dataclass
class Draft:
    """A program that is being written; buffers on chip have no place yet.

    Attributes:
      buffers: all of them.
      commands: in order; without addresses on chip.
      blobs: place of a command -> (buffer of its constants, the constants).
      sizes: bytes of the buffers on chip.
      kept: tensor -> number of the buffer on chip that is the only one with all of it.
    """

    platform: str
    weights: WeightSegment = field(default_factory=WeightSegment)
    buffers: list[Buffer] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    blobs: dict[int, tuple[int, Blob]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    def add(self, buffer: Buffer) -> int:
        """Number of a new buffer."""
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def on_chip(self, like: Buffer, box: Box) -> int:
        """Number of a new buffer on chip for a box of another one."""
        tensor = CodeTensor(extent(box), like.bits, like.axis) if like.bits else PlainTensor(extent(box), like.dtype)
        number = self.add(buffer_of(tensor, like.order, "sram", _UNPLACED))
        self.sizes[number] = box_bytes(like, box, self.platform)
        return number

    def blob(self, data: bytes) -> int:
        """Number of a new buffer on chip for constants."""
        number = self.add(Buffer("sram", _UNPLACED, "RAW", (len(data),), None, 0, "uint8"))
        self.sizes[number] = len(data)
        return number

    def tile(self, number: int, box: Box | None = None) -> Tile:
        """A box of a buffer; all of it by default."""
        start, stop = (
            zip(*(box or whole(self.buffers[number].shape)), strict=True) if self.buffers[number].shape else ((), ())
        )
        return Tile(number, tuple(start), tuple(stop))


@dataclass
class _Part:
    """Commands of a part; computations with the buffer and the constants of their own."""

    loads: list[Command]
    computes: list[tuple[Compute, tuple[int, Blob] | None]]
    stores: list[Command]


class _Held:
    """What is on chip for the parts of one job: what the next part needs, too, is not loaded again."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._found: dict[object, tuple[object, int]] = {}

    def operand(self, place: int, number: int, box: Box, loads: list[Command]) -> Tile:
        """A box of an operand, loaded where it is not on chip."""
        draft = self._draft
        if draft.buffers[number].memory == "sram":
            return draft.tile(number, box)
        if self._found.get(place, (None,))[0] != box:
            self._found[place] = box, draft.on_chip(draft.buffers[number], box)
            loads.append(Dma(draft.tile(number, box), draft.tile(self._found[place][1])))
        return draft.tile(self._found[place][1])

    def constants(self, link: int, blob: Blob, loads: list[Command]) -> tuple[int, Blob] | None:
        """The buffer of a link's constants; None without any."""
        if not blob.data:
            return None
        key = ("constants", link)
        if self._found.get(key, (None,))[0] != blob.data:
            number = self._draft.blob(blob.data)
            self._found[key] = blob.data, number
            loads.append(Load(self._draft.weights.add(blob.data), _UNPLACED, len(blob.data), number))
        return self._found[key][1], blob


def write(draft: Draft, job: Job, tiling: Tiling, operands: Sequence[int], result: int | None) -> int:
    """Appends the commands of a job on the NPU.

    Args:
      draft: to append to.
      job: what to run.
      tiling: how it is divided.
      operands: numbers of the buffers of the whole tensors that it reads; those on chip are read where they are.
      result: of the one in DRAM that it writes; None: the result stays on chip.

    Returns:
      The number of the buffer on chip of the last part.
    """
    held, parts = _Held(draft), []
    made = _UNPLACED
    for box in tiling.boxes(job.result.shape):
        loads: list[Command] = []
        computes: list[tuple[Compute, tuple[int, Blob] | None]] = []
        for k, part in enumerate(job.part(box)):
            read = tuple(
                draft.tile(made) if place is None else held.operand(place, operands[place], wanted, loads)
                for place, wanted in zip(part.link.reads, part.cut.operands, strict=True)
            )
            blob = pack(part.cut.constants, part.link.weight_bits)
            made = draft.on_chip(part.link.result, part.box)
            i = part.cut.instruction
            compute = Compute(engine_of(i), i, read, (draft.tile(made),))
            if tiling.streamed and blob.data:
                streamed = blob.constants("weight", draft.weights.add(blob.data))
                computes.append((msgspec.structs.replace(compute, constants=streamed), None))
            else:
                computes.append((compute, held.constants(k, blob, loads)))
        stores: list[Command] = [] if result is None else [Dma(draft.tile(made), draft.tile(result, box))]
        parts.append(_Part(loads, computes, stores))
    _append(draft, parts, tiling.ahead)
    return made


def _append(draft: Draft, parts: Sequence[_Part], ahead: bool) -> None:
    """Loads of a part run before the part in front of it computes, where there is room: engines work side by side."""
    waiting = [part.loads for part in parts]
    for k, part in enumerate(parts):
        for loads in waiting[k : k + 2 if ahead else k + 1]:
            draft.commands += loads
            loads.clear()
        for compute, blob in part.computes:
            if blob:
                draft.blobs[len(draft.commands)] = blob
            draft.commands.append(compute)
        draft.commands += part.stores


def engine_of(instruction: object) -> Engine:
    """The unit that runs an instruction of the NPU."""
    return "pfunc" if isinstance(instruction, MaxPool | PoolSum | Move) else "cfunc"


def touched(command: Command) -> tuple[int, ...]:
    """Numbers of the buffers that a command names."""
    match command:
        case Dma(source=source, target=target):
            return source.buffer, target.buffer
        case Load(buffer=buffer):
            return (buffer,)
        case Compute(operands=operands, results=results):
            return tuple(t.buffer for t in (*operands, *results))


def placed(draft: Draft, offsets: dict[int, int]) -> tuple[Command, ...]:
    """The commands with the places of what is on chip."""
    commands = []
    for k, command in enumerate(draft.commands):
        if isinstance(command, Load):
            command = msgspec.structs.replace(command, target=offsets[command.buffer])
        elif k in draft.blobs:
            number, blob = draft.blobs[k]
            command = msgspec.structs.replace(command, constants=blob.constants("sram", offsets[number]))
        commands.append(command)
    return tuple(commands)
