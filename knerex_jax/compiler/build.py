"""The compiler: a fixed program with its integers becomes an NPU program and its weight segment."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from knerex_jax.compiler.finish import Numbers, finished
from knerex_jax.compiler.schedule import Draft, write
from knerex_jax.compiler.segment import pack_host
from knerex_jax.compiler.tensors import OnChip, engine_in_dram, in_dram
from knerex_jax.compiler.tiling import Job, Tiling, default_tiling
from knerex_jax.errors import CompileError
from knerex_jax.npu.isa import Compute, Engine, Format, NpuProgram
from knerex_jax.program.primitives import Const, Instruction
from knerex_jax.program.program import Constants, Program
from knerex_jax.targets.machine import MACHINES

Progress = Callable[[int, int], None]

KEPT = (0.5, 0.25, 0.0)
"""Shares of the memory on chip for tensors that stay there; the next one where parts find no room beside them."""


@dataclass(frozen=True)
class Compiled:
    """What a nef holds of a model.

    Attributes:
      program: commands and buffers.
      weight: the weight segment.
      tilings: instruction -> how it was divided (those on the NPU).
    """

    program: NpuProgram
    weight: bytes
    tilings: Mapping[str, Tiling]


def compile_program(
    program: Program,
    constants: Constants,
    *,
    host: Collection[str] = (),
    input_formats: Mapping[str, Format] | None = None,
    numbers: Numbers | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compiles a fixed program for its platform.

    Args:
      program: what to compute.
      constants: its integers.
      host: graph nodes that the platform leaves to its processor; their instructions keep their arithmetic.
      input_formats: name of an input -> its layout, instead of the usual one.
      numbers: (radix, scale) of an input or output, for its port.
      progress: called with (instructions compiled, instructions).

    Raises:
      CompileError: an instruction needs more memory than there is on chip, however it is cut.
    """
    for share in KEPT:
        try:
            return _compiled(program, constants, host, input_formats or {}, numbers, progress, share)
        except CompileError:
            if share == KEPT[-1]:
                raise
    raise AssertionError("the last share returns or raises")


def _compiled(
    program: Program,
    constants: Constants,
    host: Collection[str],
    formats: Mapping[str, Format],
    numbers: Numbers | None,
    progress: Progress | None,
    share: float,
) -> Compiled:
    draft, sram = Draft(program.platform), MACHINES[program.platform].sram
    whole = in_dram(program, constants, draft, formats)
    chip = OnChip(program, draft, host, int(share * sram))
    tilings: dict[str, Tiling] = {}
    for k, instruction in enumerate(program.instructions):
        chip.drop_before(k)
        engine = engine_in_dram(instruction, host)
        if isinstance(instruction, Const):
            pass
        elif engine is not None:
            _write_whole(draft, whole, instruction, constants, engine)
        else:
            tilings[instruction.name] = _write_parts(draft, whole, chip, instruction, constants, sram)
        if progress is not None:
            progress(k + 1, len(program.instructions))
    return Compiled(*finished(program, constants, draft, whole, numbers), tilings)


def _write_parts(
    draft: Draft, whole: Mapping[str, int], chip: OnChip, i: Instruction, constants: Constants, sram: int
) -> Tiling:
    """Commands of an instruction on the NPU; its result stays on chip where it is one part and there is room."""
    read = [chip.held.get(t, whole[t]) for t in i.inputs]
    result = whole[i.output]
    job = Job(i, constants.get(i.name, {}), tuple(draft.buffers[n] for n in read), draft.buffers[result])
    tiling = default_tiling(job, (sram - chip.bytes) // 2, draft.platform)
    keep = tiling.steps == job.result.shape and chip.keeps(i.output, chip.size_of(result))
    made = write(draft, job, tiling, read, None if keep else result)
    if keep:
        chip.held[i.output] = draft.kept[i.output] = made
    return tiling


def _write_whole(draft: Draft, whole: Mapping[str, int], i: Instruction, constants: Constants, engine: Engine) -> None:
    """A command on whole tensors in DRAM, with its constants in the weight segment."""
    blob = pack_host(constants.get(i.name, {}))
    held = blob.constants("weight", draft.weights.add(blob.data)) if blob.data else ()
    operands, results = (tuple(draft.tile(whole[t]) for t in names) for names in (i.inputs, i.outputs))
    draft.commands.append(Compute(engine, i, operands, results, held))
