"""Commands of one instruction after the other: loads, the part itself, stores, with the next part's loads in front."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from knerex_jax.compiler.box import Box, extent, whole
from knerex_jax.compiler.layout import buffer_of
from knerex_jax.compiler.segment import Blob, WeightSegment, pack
from knerex_jax.compiler.tiling import Job, Tiling, box_bytes
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
        number = self.add(buffer_of(tensor, like.format.removesuffix("HL"), "sram", _UNPLACED))  # type: ignore[arg-type]
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
    loads: list[Command]
    compute: Compute
    blob: tuple[int, Blob] | None
    stores: list[Command]


def write(draft: Draft, job: Job, tiling: Tiling, operands: Sequence[int], result: int | None) -> int:
    """Appends the commands of an instruction on the NPU.

    Args:
      draft: to append to.
      job: the instruction.
      tiling: how it is divided.
      operands: numbers of the buffers of the whole tensors that it reads; those on chip are read where they are.
      result: of the one in DRAM that it writes; None: the result stays on chip.

    Returns:
      The number of the buffer on chip of the last part.
    """
    parts: list[_Part] = []
    held: dict[object, tuple[object, int]] = {}  # what each operand's (and the constants') buffer on chip holds
    for box in tiling.boxes(job.result.shape):
        part, loads, read = job.part(box), [], []
        for k, (number, wanted) in enumerate(zip(operands, part.operands, strict=True)):
            if draft.buffers[number].memory == "sram":
                read.append(draft.tile(number, wanted))
                continue
            if held.get(k, (None,))[0] != wanted:
                held[k] = wanted, draft.on_chip(draft.buffers[number], wanted)
                loads.append(Dma(draft.tile(number, wanted), draft.tile(held[k][1])))
            read.append(draft.tile(held[k][1]))
        blob = pack(part.constants, job.weight_bits)
        if blob.data and held.get("constants", (None,))[0] != blob.data:
            held["constants"] = blob.data, draft.blob(blob.data)
            loads.append(Load(draft.weights.add(blob.data), _UNPLACED, len(blob.data), held["constants"][1]))
        made = draft.on_chip(job.result, box)
        compute = Compute(engine_of(part.instruction), part.instruction, tuple(read), (draft.tile(made),))
        stores: list[Command] = [] if result is None else [Dma(draft.tile(made), draft.tile(result, box))]
        parts.append(_Part(loads, compute, (held["constants"][1], blob) if blob.data else None, stores))
    _interleave(draft, parts)
    return parts[-1].compute.results[0].buffer


def _interleave(draft: Draft, parts: Sequence[_Part]) -> None:
    """Loads of a part run before the part in front of it computes, as engines work side by side."""
    draft.commands += parts[0].loads
    for k, part in enumerate(parts):
        if k + 1 < len(parts):
            draft.commands += parts[k + 1].loads
        if part.blob:
            draft.blobs[len(draft.commands)] = part.blob
        draft.commands += [part.compute, *part.stores]


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
