"""Costs by node: every command belongs to one node of the model, or to several that run as one.

A node "on the backend" is what runs on the same parts without leaving the chip, such as a convolution with its
activation and the pooling behind it. Its transfers are those of what it reads and writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from knerex_jax.compiler.cost import Estimate, prices
from knerex_jax.compiler.work import AMOUNTS, touches
from knerex_jax.npu.isa import Buffer, Compute, Dma, NpuProgram
from knerex_jax.program.primitives import Instruction, Mac
from knerex_jax.targets.machine import Machine

Limit = Literal["multiplications", "elements", "auxiliary unit", "reading", "writing", "weights", "host"]

_MULTIPLIED = [AMOUNTS.index(name) for name in ("kernels", "pointwise", "depthwise")]
_READ, _WRITTEN, _LOADED = (AMOUNTS.index(name) for name in ("read", "written", "loaded"))


@dataclass(frozen=True)
class NodeCost:
    """What the nodes of one entry of the backend take for one inference.

    Times are in milliseconds of their unit alone, amounts in bytes between DRAM and chip.

    Attributes:
      names: nodes of the decomposed model, the first of which leads; the others are fused into it.
      origin: nodes of the user's model that they come from; empty where that is not known (nef).
      kind: "NPU" or "CPU".
      commands: numbers of its commands.
      bits_in, bits_out, bits_weight: significant bits; None for what is no code, or has no weights.
      mac_cycles: of the multipliers, what the granule leaves idle included.
      products: multiplications that the arithmetic needs.
      read_ms, read_bytes: RDMA.
      written_ms, written_bytes: WDMA.
      weight_ms, weight_bytes: GETW, or streamed past the chip's memory.
      main_ms: main compute unit (CFUNC), with the weights that are streamed to it.
      auxiliary_ms: auxiliary unit (PFUNC): pooling, data movement.
      sync_ms: what the inference takes longer because of it, units side by side.
      in_formats, out_formats: (tensor, layout) of what it reads from elsewhere and of what it leaves behind.
    """

    names: tuple[str, ...]
    origin: tuple[str, ...]
    kind: Literal["NPU", "CPU"]
    commands: tuple[int, ...]
    bits_in: int | None
    bits_out: int | None
    bits_weight: int | None
    mac_cycles: float
    mac_ms: float
    products: int
    read_ms: float
    read_bytes: int
    written_ms: float
    written_bytes: int
    weight_ms: float
    weight_bytes: int
    main_ms: float
    auxiliary_ms: float
    sync_ms: float
    in_formats: tuple[tuple[str, str], ...]
    out_formats: tuple[tuple[str, str], ...]

    @property
    def backend(self) -> str:
        """Its name on the backend."""
        if self.kind == "NPU" and len(self.names) == 1:
            return self.names[0]
        return f"{self.kind.lower()}_fusion_node_{'_'.join(self.names)}"

    @property
    def label(self) -> str:
        """Its first node, and how many are fused into it."""
        more = len(self.names) - 1
        return f"{self.names[0]} +{more}" if more else self.names[0]

    @property
    def runtime_ms(self) -> float:
        """Units one after the other; weights are loaded meanwhile."""
        return self.main_ms + self.auxiliary_ms + self.read_ms + self.written_ms

    @property
    def moved_bytes(self) -> int:
        """All bytes between DRAM and chip."""
        return self.read_bytes + self.written_bytes + self.weight_bytes

    @property
    def intensity(self) -> float:
        """Multiplications per byte moved: where it stands on the roofline's horizontal axis."""
        return self.products / self.moved_bytes if self.moved_bytes else 0.0

    @property
    def limit(self) -> Limit:
        """What takes most of its time."""
        if self.kind == "CPU":
            return "host"
        parts: dict[Limit, float] = {
            "multiplications": self.mac_ms, "elements": self.main_ms - self.mac_ms, "auxiliary unit": self.auxiliary_ms,
            "reading": self.read_ms, "writing": self.written_ms, "weights": self.weight_ms,
        }  # fmt: skip
        return max(parts, key=lambda name: parts[name])

    def rows(self) -> list[dict[str, Any]]:
        """The published columns, one row per node; what is fused costs nothing of its own."""
        lead = {
            "node": self.names[0], "node origin": ", ".join(self.origin), "type": self.kind,
            "node backend": self.backend, "CMD_node_idx": self.commands[0], "bw in": self.bits_in,
            "bw out": self.bits_out, "bw weight": self.bits_weight, "MAC_cycle": self.mac_cycles,
            "MAC_runtime(ms)": self.mac_ms, "RDMA_runtime(ms)": self.read_ms, "RDMA_amount(Byte)": self.read_bytes,
            "WDMA_runtime(ms)": self.written_ms, "WDMA_amount(Byte)": self.written_bytes,
            "Weight_amount(Byte)": self.weight_bytes, "CFUNC_runtime(ms)": self.main_ms,
            "PFUNC_runtime(ms)": self.auxiliary_ms, "runtime(ms)": self.runtime_ms, "SYNC_runtime(ms)": self.sync_ms,
            "in_fmt": _formats(self.in_formats), "out_fmt": _formats(self.out_formats), "limit": self.limit,
            "multiplications": self.products, "multiplications per byte": self.intensity,
        }  # fmt: skip
        fused = {"type": "FUSED", "node backend": self.backend}
        return [lead, *({"node": name} | fused for name in self.names[1:])]


def node_costs(
    program: NpuProgram, found: Estimate, machine: Machine, origins: Mapping[str, Sequence[str]] | None = None
) -> tuple[NodeCost, ...]:
    """The costs of every entry of the backend, in order of execution; they add up to those of the program.

    Args:
      program: compiled.
      found: its cost.
      machine: the figures that cost rests on.
      origins: node of the decomposed model -> nodes of the user's.
    """
    groups = backend_groups(program)
    owner = owners(program, groups)
    work = np.asarray([c.work.amounts for c in found.costs], np.float64).reshape(-1, len(AMOUNTS))
    synced = _synced(found, owner, len(groups), machine.exposed)
    engines = np.asarray([c.engine for c in found.costs])
    costs = []
    for number, instructions in enumerate(groups):
        mine = np.flatnonzero(owner == number)
        costs.append(_cost(program, found, machine, origins or {}, instructions, mine, work, engines, synced[number]))
    return tuple(costs)


def backend_groups(program: NpuProgram) -> list[list[Instruction]]:
    """Instructions that run on the same parts, in order: what one makes and nobody keeps whole, the next one reads."""
    stored = {t for t, _ in program.tensors} | {p.name for p in program.outputs}
    groups: list[list[Instruction]] = []
    maker: dict[str, list[Instruction]] = {}
    seen: set[str] = set()
    for command in program.commands:
        if not isinstance(command, Compute) or command.instruction.name in seen:
            continue
        i = command.instruction
        seen.add(i.name)
        group = next((maker[t] for t in i.inputs if t in maker), None)
        if group is None:
            groups.append(group := [])
        group.append(i)
        maker |= {t: group for t in i.outputs if t not in stored}
    return groups


def owners(program: NpuProgram, groups: Sequence[Sequence[Instruction]]) -> np.ndarray:
    """Of every command the number of its group, int [commands].

    What is brought onto the chip belongs to who reads it first, what is taken away to who wrote it last.
    """
    number = {i.name: k for k, group in enumerate(groups) for i in group}
    commands = program.commands
    owner = np.array([number[c.instruction.name] if isinstance(c, Compute) else -1 for c in commands], int)
    touched = list(touches(commands))
    reader: dict[int, int] = {}
    for k in reversed(range(len(commands))):
        reads, writes = touched[k]
        if isinstance(commands[k], Compute):
            reader |= dict.fromkeys(reads, int(owner[k]))
        elif program.buffers[writes[0]].memory == "sram":
            owner[k] = reader.get(writes[0], -1)
    writer: dict[int, int] = {}
    for k, (reads, writes) in enumerate(touched):
        if isinstance(commands[k], Dma) and owner[k] < 0:
            owner[k] = writer[reads[0]]
        writer |= dict.fromkeys(writes, int(owner[k]))
    return owner


def _synced(found: Estimate, owner: np.ndarray, count: int, exposed: float) -> np.ndarray:
    """Seconds by which every group delays the end; in total those of the program."""
    ends = np.zeros(count)
    np.maximum.at(ends, owner, np.asarray(found.finish))
    serial = np.zeros(count)
    seconds = np.asarray([0.0 if c.engine == "getw" else c.seconds for c in found.costs])
    np.add.at(serial, owner, seconds)
    own = np.diff(np.maximum.accumulate(ends), prepend=0.0)
    hidden = serial.sum() - own.sum()
    return own + (exposed * (serial - own) if hidden > 0 else 0.0)


def _cost(
    program: NpuProgram, found: Estimate, machine: Machine, origins: Mapping[str, Sequence[str]],
    instructions: Sequence[Instruction], mine: np.ndarray, work: np.ndarray, engines: np.ndarray, synced: float,
) -> NodeCost:  # fmt: skip
    price = np.asarray(prices(machine))
    spent = work[mine] * price * 1e3
    on = engines[mine]

    def ms(columns: Sequence[int], rows: np.ndarray) -> float:
        return float(spent[rows][:, columns].sum())

    def unit(name: str) -> float:
        kept = [k for k in range(len(AMOUNTS)) if k not in (_READ, _WRITTEN)]
        return ms(kept, on == name)

    computed = np.isin(on, ("cfunc", "pfunc", "host"))
    every = np.ones(len(mine), bool)
    read, written = _boundary(program, instructions, mine)
    names = tuple(dict.fromkeys(n for i in instructions for n in (i.nodes or (i.name,))))
    macs = [i for i in instructions if isinstance(i, Mac)]
    mac_ms = ms(_MULTIPLIED, every)
    bytes_of = work[mine][:, [_READ, _WRITTEN, _LOADED]].sum(0)
    return NodeCost(
        names=names,
        origin=tuple(dict.fromkeys(o for n in names for o in origins.get(n, ()))),
        kind="CPU" if "host" in on else "NPU",
        commands=tuple(int(k) for k in mine),
        bits_in=max((b.bits for b in read.values()), default=0) or None,
        bits_out=max((b.bits for b in written.values()), default=0) or None,
        bits_weight=macs[0].weight_bits if macs else None,
        mac_cycles=mac_ms * 1e3 * machine.megahertz,
        mac_ms=mac_ms,
        products=sum(found.costs[k].products for k in mine),
        read_ms=ms(range(len(AMOUNTS)), on == "rdma") + ms([_READ], computed),
        read_bytes=int(bytes_of[0]),
        written_ms=ms(range(len(AMOUNTS)), on == "wdma") + ms([_WRITTEN], computed),
        written_bytes=int(bytes_of[1]),
        weight_ms=ms(range(len(AMOUNTS)), on == "getw") + ms([_LOADED], computed),
        weight_bytes=int(bytes_of[2]),
        main_ms=unit("cfunc"),
        auxiliary_ms=unit("pfunc"),
        sync_ms=float(synced) * 1e3,
        in_formats=tuple((t, b.format) for t, b in read.items()),
        out_formats=tuple((t, b.format) for t, b in written.items()),
    )


def _boundary(
    program: NpuProgram, instructions: Sequence[Instruction], mine: np.ndarray
) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
    """Tensor -> buffer (of one part) of what a group reads from elsewhere, and of what it leaves behind."""
    read: dict[str, Buffer] = {}
    written: dict[str, Buffer] = {}
    for k in mine:
        if isinstance(c := program.commands[k], Compute):
            # A host operator's absent inputs have no operand.
            for t, tile in zip((t for t in c.instruction.inputs if t), c.operands, strict=False):
                read.setdefault(t, program.buffers[tile.buffer])
            for t, tile in zip(c.instruction.outputs, c.results, strict=False):
                written.setdefault(t, program.buffers[tile.buffer])
    inside = {t for t in written if any(t in i.inputs for i in instructions)}
    return (
        {t: b for t, b in read.items() if t not in written},
        {t: b for t, b in written.items() if t not in inside} or written,
    )


def _formats(held: Sequence[tuple[str, str]]) -> str:
    """The layout; where there are several, which tensors have which."""
    by_format: dict[str, list[str]] = {}
    for tensor, layout in held:
        by_format.setdefault(layout, []).append(tensor)
    if len(by_format) == 1:
        return next(iter(by_format))
    return " \\ ".join(f"{layout}:{','.join(names)}" for layout, names in by_format.items())
