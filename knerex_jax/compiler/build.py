"""The compiler: a fixed program with its integers becomes an NPU program and its weight segment."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from knerex_jax.compiler.cost import estimate
from knerex_jax.compiler.finish import Numbers, finished
from knerex_jax.compiler.job import Job, Link, follows
from knerex_jax.compiler.schedule import Draft, write
from knerex_jax.compiler.search import DeepSearch
from knerex_jax.compiler.segment import executed, pack_host
from knerex_jax.compiler.tensors import OnChip, engine_in_dram, in_dram
from knerex_jax.compiler.tiling import Tiling, default_tiling
from knerex_jax.errors import CompileError, ConfigError
from knerex_jax.npu.isa import Compute, Engine, Format, NpuProgram
from knerex_jax.program.primitives import Const, Instruction, Island
from knerex_jax.program.program import Constants, Program
from knerex_jax.targets.machine import MACHINES, Machine

Progress = Callable[[int, int], None]
Cutter = Callable[[Job, int, str], Tiling]
"""(job, bytes for one part, platform) -> how it is divided."""

FM_CUTS = ("default", "deep_search")

SHARES = ((0.5, 1.0), (0.25, 1.0), (0.0, 1.0), (0.0, 0.75), (0.0, 0.5))
"""Of the memory on chip: for tensors that stay there, and of the rest for parts; the next pair where the places that
first fit finds are not enough."""


@dataclass(frozen=True)
class Compiled:
    """What a nef holds of a model.

    Attributes:
      program: commands and buffers.
      weight: the weight segment.
      tilings: first instruction -> how it, and those that run on its parts, were divided (on the NPU).
      seconds: fm_cut -> what the cost model says of the program that it gave.
    """

    program: NpuProgram
    weight: bytes
    tilings: Mapping[str, Tiling]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What is to be compiled.

    Attributes:
      program: what to compute.
      constants: its integers.
      host: graph nodes that the platform leaves to its processor; their instructions keep their arithmetic.
      input_formats: name of an input -> its layout, instead of the usual one.
      numbers: (radix, scale) of an input or output, for its port.
      machine: what the platform has, unless another one is meant.
    """

    program: Program
    constants: Constants
    host: Collection[str] = ()
    input_formats: Mapping[str, Format] = field(default_factory=dict)
    numbers: Numbers | None = None
    machine: Machine | None = None

    @property
    def target(self) -> Machine:
        """The machine that is meant."""
        return self.machine or MACHINES[self.program.platform]


def compile_program(request: Request, *, fm_cut: str = "default", progress: Progress | None = None) -> Compiled:
    """Compiles a fixed program for its platform.

    Args:
      request: the program and its surroundings.
      fm_cut: "default", or "deep_search" for the division that the cost model finds fastest (520: always default).
      progress: called with (instructions compiled, instructions); starts again with every attempt.

    Raises:
      ConfigError: an unknown fm_cut.
      CompileError: an instruction needs more memory than there is on chip, however it is cut.
    """
    if fm_cut not in FM_CUTS:
        why = "announced by the maker, and not available" if fm_cut == "performance" else "unknown"
        raise ConfigError(f"{fm_cut!r} is {why}", where="fm_cut", fix=f"use {' or '.join(FM_CUTS)}")
    made = {"default": _fitting(request, default_tiling, progress)}
    if fm_cut == "deep_search" and request.program.platform != "520":
        made[fm_cut] = _fitting(request, DeepSearch(request.target), progress)
    seconds = {name: estimate(compiled.program, request.target).seconds for name, compiled in made.items()}
    return replace(made[min(seconds, key=lambda name: seconds[name])], seconds=seconds)


def _fitting(request: Request, cut: Cutter, progress: Progress | None) -> Compiled:
    """With as many tensors kept on chip as leave room for the parts."""
    for shares in SHARES[:-1]:
        try:
            return _compiled(request, cut, shares, progress)
        except CompileError:  # with less of them there may be room
            pass
    return _compiled(request, cut, SHARES[-1], progress)


def _compiled(request: Request, cut: Cutter, shares: tuple[float, float], progress: Progress | None) -> Compiled:
    program, constants, host = request.program, request.constants, request.host
    draft, sram = Draft(program.platform), request.target.sram
    whole = in_dram(program, constants, draft, request.input_formats)
    chip = OnChip(program, draft, host, int(shares[0] * sram))
    tilings: dict[str, Tiling] = {}
    rest = [i for i in program.instructions if not isinstance(i, Const)]
    count = len(rest)
    while rest:
        chip.drop_before(rest[0])
        engine = engine_in_dram(rest[0], host)
        chain = [rest[0]] if engine else _chain(rest, program, host)
        if engine is not None:
            _write_whole(draft, whole, rest[0], program, constants, engine)
        else:
            tilings[chain[0].name] = _write_parts(draft, whole, chip, chain, constants, int(shares[1] * sram), cut)
        rest = rest[len(chain) :]
        if progress is not None:
            progress(count - len(rest), count)
    return Compiled(*finished(program, constants, draft, whole, sram, request.numbers), tilings)


def _chain(rest: Sequence[Instruction], program: Program, host: Collection[str]) -> list[Instruction]:
    """The first instruction and those right behind it that can run on its parts."""
    chain = [rest[0]]
    readers = Counter(t for i in program.instructions for t in i.inputs)
    for after in rest[1:]:
        tensor = chain[-1].output
        if readers[tensor] > 1 or tensor in program.outputs or engine_in_dram(after, host):
            break
        if tensor not in after.inputs or not follows(chain, after, program.shapes):
            break
        chain.append(after)
    return chain


def _write_parts(
    draft: Draft, whole: Mapping[str, int], chip: OnChip, chain: Sequence[Instruction], constants: Constants, sram: int,
    cut: Cutter,
) -> Tiling:  # fmt: skip
    """Commands of instructions on the NPU; the result stays on chip where it is one part and there is room."""
    inner = {i.output for i in chain[:-1]}
    outer = [t for i in chain for t in i.inputs if t not in inner]
    read = [chip.held.get(t, whole[t]) for t in outer]
    places = iter(range(len(outer)))
    links = tuple(
        Link(
            i, executed(constants.get(i.name, {})), tuple(None if t in inner else next(places) for t in i.inputs),
            draft.buffers[whole[i.output]],
        )
        for i in chain
    )  # fmt: skip
    job, last = Job(links, tuple(draft.buffers[n] for n in read)), chain[-1].output
    room = max(sram - chip.bytes, 0) // 2
    tiling = default_tiling(job, room, draft.platform)
    keep = tiling.steps == job.result.shape and chip.keeps(last, chip.size_of(whole[last]))
    tiling = tiling if keep else cut(job, room, draft.platform)
    made = write(draft, job, tiling, read, None if keep else whole[last])
    if keep:
        chip.held[last] = draft.kept[last] = made
    return tiling


def _write_whole(
    draft: Draft, whole: Mapping[str, int], i: Instruction, program: Program, constants: Constants, engine: Engine
) -> None:
    """A command on whole tensors in DRAM, with its constants in the weight segment."""
    own = dict(executed(constants.get(i.name, {})))
    if isinstance(i, Island):  # what its codes mean
        own |= {f"inverse:{t}": _shaped(t, program, constants, "inverse") for t in i.inputs if t in program.tensor}
        own |= {f"factor:{t}": _shaped(t, program, constants, "factor") for t in i.outputs if t in program.tensor}
    blob = pack_host(own)
    held = blob.constants("weight", draft.weights.add(blob.data)) if blob.data else ()
    operands, results = (tuple(draft.tile(whole[t]) for t in names) for names in (i.inputs, i.outputs))
    draft.commands.append(Compute(engine, i, operands, results, held))


def _shaped(t: str, program: Program, constants: Constants, name: str) -> np.ndarray:
    """Factors of a tensor as they broadcast against it."""
    values, tensor = np.ravel(constants[f"tensor:{t}"][name]), program.tensor[t]
    if len(values) == 1 or tensor.axis is None:
        return values.reshape((1,) * len(tensor.shape))
    return values.reshape([-1 if k == tensor.axis else 1 for k in range(len(tensor.shape))])
