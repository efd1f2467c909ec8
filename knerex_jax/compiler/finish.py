"""Places for everything, and the program as it is stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from knerex_jax.compiler.layout import byte_size
from knerex_jax.compiler.place import Region, overlaps, place
from knerex_jax.compiler.schedule import Draft, placed, touched
from knerex_jax.errors import CompileError
from knerex_jax.npu.isa import Lifetime, NpuProgram, Port
from knerex_jax.program.program import CodeTensor, Constants, Program

Numbers = Callable[[str], tuple[tuple[int, ...], tuple[float, ...]]]
"""Name of a tensor -> (radix, scale)."""


def finished(
    program: Program, constants: Constants, draft: Draft, whole: Mapping[str, int], sram: int, numbers: Numbers | None
) -> tuple[NpuProgram, bytes]:
    """The program with all places, and its weight segment.

    Raises:
      CompileError: what lives at the same time does not fit on chip.
    """
    offsets, top, lives = on_chip_places(draft)
    lives = _of_boundary(lives, program, draft, whole)
    spans = {"sram": top}
    for memory in ("working", "input", "output"):
        named = [n for n, b in enumerate(draft.buffers) if b.memory == memory and n in lives]
        sizes = [byte_size(draft.buffers[n], program.platform) for n in named]
        regions = [Region(size, lives[n].first, lives[n].last) for size, n in zip(sizes, named, strict=True)]
        if memory != "working":  # the host writes and reads these at any time: one after the other
            regions = [replace(r, first=0, last=0) for r in regions]
        found, spans[memory] = _placed(regions)
        offsets |= dict(zip(named, found, strict=True))
    if spans["sram"] > sram:
        raise CompileError(
            f"its parts need {spans['sram']} bytes on chip, which has {sram}", where=program.name,
            fix="report this model as a defect",
        )  # fmt: skip
    buffers = tuple(
        msgspec.structs.replace(b, offset=offsets[n]) if n in offsets else b for n, b in enumerate(draft.buffers)
    )
    weight = draft.weights.to_bytes()
    stored = {t: n for t, n in whole.items() if n in lives}
    made = NpuProgram(
        arith_version=program.arith_version, name=program.name, platform=program.platform,
        inputs=tuple(_port(t, whole[t], program, constants, numbers) for t in program.inputs),
        outputs=tuple(_port(t, whole[t], program, constants, numbers) for t in program.outputs),
        buffers=buffers,
        lifetimes=tuple(lives.get(n, Lifetime(0, -1)) for n in range(len(buffers))),
        commands=placed(draft, offsets),
        tensors=tuple({**draft.kept, **stored}.items()),
        sizes=tuple({**spans, "sram": sram, "weight": len(weight)}.items()),
    )  # fmt: skip
    return made, weight


def on_chip_places(draft: Draft) -> tuple[dict[int, int], int, dict[int, Lifetime]]:
    """Places on chip: (buffer -> offset, bytes in all, buffer -> commands between which it is needed).

    Buffers that no command touches have no lifetime; buffers on chip that were not sized here keep their places.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, command in enumerate(draft.commands):
        blob = (draft.blobs[k][0],) if k in draft.blobs else ()
        for n in (*touched(command), *blob):
            first.setdefault(n, k)
            last[n] = k
    lives = {n: Lifetime(first[n], last[n]) for n in first}
    named = [n for n in draft.sizes if n in lives]
    offsets, top = _placed([Region(draft.sizes[n], first[n], last[n]) for n in named])
    return dict(zip(named, offsets, strict=True)), top, lives


def _placed(regions: Sequence[Region]) -> tuple[list[int], int]:
    offsets, top = place(regions)
    assert not overlaps(regions, offsets), "places of what lives at the same time are apart"
    return offsets, top


def _of_boundary(
    lives: Mapping[int, Lifetime], program: Program, draft: Draft, whole: Mapping[str, int]
) -> dict[int, Lifetime]:
    """Lifetimes with those of inputs, outputs and constants, which last beyond the commands."""
    end, found = len(draft.commands), dict(lives)
    for t in program.inputs:
        found[whole[t]] = Lifetime(-1, lives[whole[t]].last if whole[t] in lives else -1)
    for t in program.outputs:
        n = whole[t]
        made = draft.buffers[n].memory == "output"  # else it is an input or a constant, and stays to the end
        found[n] = Lifetime((lives[n].first if n in lives else end) if made else -1, end)
    constants = [n for n, b in enumerate(draft.buffers) if b.memory == "weight"]
    return found | dict.fromkeys(constants, Lifetime(-1, end))


def _port(t: str, number: int, program: Program, constants: Constants, numbers: Numbers | None) -> Port:
    if not isinstance(program.tensor.get(t), CodeTensor):
        return Port(t, number)
    group = constants[f"tensor:{t}"]
    radices, scales = numbers(t) if numbers else ((), ())
    return Port(t, number, radices, scales, float(np.ravel(group["factor"])[0]), float(np.ravel(group["inverse"])[0]))
