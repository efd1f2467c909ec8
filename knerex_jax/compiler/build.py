"""The compiler: a fixed program with its integers becomes an NPU program and its weight segment."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from knerex_jax.compiler.layout import buffer_of, byte_size, encode, input_format
from knerex_jax.compiler.place import Region, overlaps, place
from knerex_jax.compiler.schedule import Draft, placed, touched, write
from knerex_jax.compiler.segment import pack_host
from knerex_jax.compiler.tiling import Job, Tiling, default_tiling
from knerex_jax.errors import CompileError
from knerex_jax.npu.isa import Compute, Format, Lifetime, NpuProgram, Port
from knerex_jax.program.primitives import Const, Instruction, Island, Lookup, Move
from knerex_jax.program.program import CodeTensor, Constants, Program
from knerex_jax.targets.machine import MACHINES

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Compiled:
    """What a nef holds of a model.

    Attributes:
      program: commands and buffers.
      weight: the weight segment.
      tilings: instruction -> how it was divided (NPU instructions).
    """

    program: NpuProgram
    weight: bytes
    tilings: dict[str, Tiling]


def compile_program(
    program: Program,
    constants: Constants,
    *,
    host: Collection[str] = (),
    input_formats: dict[str, Format] | None = None,
    radix: Callable[[str], tuple[tuple[int, ...], tuple[float, ...]]] | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles a fixed program for its platform.

    Args:
      program: what to compute.
      constants: its integers.
      host: graph nodes that the platform leaves to its processor; their instructions keep their arithmetic.
      input_formats: name of an input -> its layout, instead of the usual one.
      radix: name of an input or output -> (radix, scale), for its port.
      progress: called with (instructions compiled, instructions).

    Raises:
      CompileError: an instruction needs more memory than there is on chip, whatever the cut.
    """
    draft = Draft(program.platform)
    whole = _Tensors(program, constants, draft, input_formats or {})
    budget = MACHINES[program.platform].sram // 2
    tilings: dict[str, Tiling] = {}
    for k, instruction in enumerate(program.instructions):
        if not isinstance(instruction, Const):
            here = _where(instruction, host)
            if here is None:
                read, made = [whole[t] for t in instruction.inputs], whole[instruction.output]
                held = constants.get(instruction.name, {})
                job = Job(instruction, held, tuple(draft.buffers[n] for n in read), draft.buffers[made])
                tilings[instruction.name] = tiling = default_tiling(job, budget, program.platform)
                write(draft, job, tiling, read, made)
            else:
                _write_whole(draft, whole, instruction, constants, here)
        if progress is not None:
            progress(k + 1, len(program.instructions))
    return _finished(program, constants, draft, whole, tilings, radix)


def _where(instruction: Instruction, host: Collection[str]) -> str | None:
    """The engine of what runs as a whole in DRAM; None for what is cut."""
    if isinstance(instruction, Island | Lookup) or any(n in host for n in instruction.nodes):
        return "host"
    return "pfunc" if isinstance(instruction, Move) else None


class _Tensors(dict[str, int]):
    """Tensor -> number of the buffer that holds it whole in DRAM."""

    def __init__(self, program: Program, constants: Constants, draft: Draft, formats: dict[str, Format]) -> None:
        consts = {i.output: i for i in program.instructions if isinstance(i, Const)}
        types = dict((*program.tensors, *program.plain))
        made = {t for i in program.instructions for t in i.outputs}
        for t, tensor in types.items():
            if t in program.inputs:
                format = formats.get(t, input_format(tensor.shape, getattr(tensor, "axis", None)))
                buffer = buffer_of(tensor, format, "input", 0)
            elif t in consts:
                buffer = buffer_of(tensor, "1W16C8B", "weight", 0)
                data = encode(constants[consts[t].name]["codes"], buffer)
                buffer = msgspec.structs.replace(buffer, offset=draft.weights.add(data))
            elif t in program.outputs:
                buffer = buffer_of(tensor, "16W1C8B", "output", 0)
            elif t in made:
                buffer = buffer_of(tensor, "1W16C8B", "working", 0)
            else:
                continue
            self[t] = draft.add(buffer)
        for t in program.outputs:
            if draft.buffers[self[t]].memory != "output":
                raise CompileError(
                    "an output that is an input or a constant has nothing to compute", where=t,
                    fix="leave it out of the model's outputs",
                )  # fmt: skip


def _write_whole(draft: Draft, whole: _Tensors, i: Instruction, constants: Constants, engine: str) -> None:
    """A command on whole tensors in DRAM, with its constants in the weight segment."""
    blob = pack_host(constants.get(i.name, {}))
    made = blob.constants("weight", draft.weights.add(blob.data)) if blob.data else ()
    operands = tuple(draft.tile(whole[t]) for t in i.inputs)
    results = tuple(draft.tile(whole[t]) for t in i.outputs)
    draft.commands.append(Compute(engine, i, operands, results, made))  # type: ignore[arg-type]


def _finished(
    program: Program, constants: Constants, draft: Draft, whole: _Tensors, tilings: dict[str, Tiling], radix
) -> Compiled:
    """Places for everything, and the program as it is stored."""
    lives = _lifetimes(program, draft, whole)
    sizes = {n: draft.sizes.get(n) or byte_size(b, program.platform) for n, b in enumerate(draft.buffers)}
    spans, offsets = {}, {}
    for memory in ("sram", "working", "input", "output"):
        numbers = [n for n, b in enumerate(draft.buffers) if b.memory == memory and n in lives]
        regions = [Region(sizes[n], lives[n].first, lives[n].last) for n in numbers]
        if memory in ("input", "output"):  # the host writes and reads these at any time: one after the other
            regions = [replace(r, first=0, last=0) for r in regions]
        found, spans[memory] = place(regions)
        assert not overlaps(regions, found), "places of what lives at the same time are apart"
        offsets |= dict(zip(numbers, found, strict=True))
    if spans["sram"] > MACHINES[program.platform].sram:
        raise CompileError(
            f"its parts need {spans['sram']} bytes on chip",
            where=program.name,
            fix="report this model: the cut is too coarse",
        )
    buffers = tuple(
        msgspec.structs.replace(b, offset=offsets[n]) if n in offsets else b for n, b in enumerate(draft.buffers)
    )
    weight = draft.weights.to_bytes()
    return Compiled(
        NpuProgram(
            arith_version=program.arith_version, name=program.name, platform=program.platform,
            inputs=tuple(_port(t, whole[t], program, constants, radix) for t in program.inputs),
            outputs=tuple(_port(t, whole[t], program, constants, radix) for t in program.outputs),
            buffers=buffers,
            lifetimes=tuple(lives.get(n, Lifetime(0, -1)) for n in range(len(buffers))),
            commands=placed(draft, offsets),
            tensors=tuple(whole.items()),
            sizes=tuple({**spans, "sram": MACHINES[program.platform].sram, "weight": len(weight)}.items()),
        ),
        weight, tilings,
    )  # fmt: skip


def _lifetimes(program: Program, draft: Draft, whole: _Tensors) -> dict[int, Lifetime]:
    """Buffer -> commands between which it is needed; buffers that nothing touches are left out."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, command in enumerate(draft.commands):
        blob = (draft.blobs[k][0],) if k in draft.blobs else ()
        for n in (*touched(command), *blob):
            first.setdefault(n, k)
            last[n] = k
    for t in program.inputs:
        first[whole[t]] = -1
        last.setdefault(whole[t], -1)
    for t in program.outputs:
        first.setdefault(whole[t], len(draft.commands))
        last[whole[t]] = len(draft.commands)
    for n, buffer in enumerate(draft.buffers):
        if buffer.memory == "weight":
            first[n], last[n] = -1, len(draft.commands)
    return {n: Lifetime(first[n], last[n]) for n in first}


def _port(t: str, number: int, program: Program, constants: Constants, radix) -> Port:
    if not isinstance(program.tensor.get(t), CodeTensor):
        return Port(t, number)
    group = constants[f"tensor:{t}"]
    radices, scales = radix(t) if radix else ((), ())
    return Port(t, number, radices, scales, float(np.ravel(group["factor"])[0]), float(np.ravel(group["inverse"])[0]))
