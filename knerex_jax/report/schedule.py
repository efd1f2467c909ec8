"""When every unit works, and what lies where in memory meanwhile: the cost model's clock as plain data."""

from typing import Any

import numpy as np

from knerex_jax.compiler.layout import byte_size
from knerex_jax.npu.isa import NpuProgram
from knerex_jax.performance.evaluation import Evaluation
from knerex_jax.performance.nodes import backend_groups, owners

ENGINES = ("getw", "rdma", "cfunc", "pfunc", "wdma", "host")
"""Units in the order that data pass them: weights in, data in, main unit, auxiliary unit, data out, processor."""

MOST_BARS = 3000
"""Above that, commands of one unit for one node are drawn as one bar."""

MOST_BUFFERS = 1500
"""Above that, the smallest buffers are left out."""


def schedule(program: NpuProgram, evaluation: Evaluation) -> dict[str, Any]:
    """The timeline of the units and the memory map, times in ms from the start of an inference.

    Args:
      program: compiled.
      evaluation: its clock, and its costs by node.

    Returns:
      "labels": names of the nodes; "bars": [unit, start, end, node, commands] with numbers into `ENGINES` and labels;
      "busy_ms": unit -> time it works; "memories": by name bytes that there are (None: as many as needed) and the
      buffers [offset, bytes, start, end, node, first command, last command]; "left_out": buffers too small to draw.
    """
    cost = evaluation.cost
    owner = owners(program, backend_groups(program))
    finish = np.asarray(cost.finish) * 1e3
    start = finish - np.asarray([c.seconds for c in cost.costs]) * 1e3
    engines = [c.engine for c in cost.costs]
    bars = [
        [ENGINES.index(e), float(a), float(b), int(n), 1]
        for e, a, b, n in zip(engines, start, finish, owner, strict=True)
    ]
    if len(bars) > MOST_BARS:
        bars = _joined(bars)
    busy = {e: 1e3 * sum(c.seconds for c in cost.costs if c.engine == e) for e in ENGINES if e in engines}
    memories, left_out = _memories(program, start, finish, owner)
    return {
        "labels": [n.label for n in evaluation.nodes],
        "engines": list(ENGINES),
        "bars": [[e, _short(a), _short(b), n, k] for e, a, b, n, k in bars],
        "busy_ms": busy,
        "end_ms": float(finish.max(initial=0.0)),
        "memories": memories,
        "left_out": left_out,
    }


def _joined(bars: list[list[Any]]) -> list[list[Any]]:
    """Consecutive commands of one unit for one node as one bar, gaps included."""
    last: dict[int, list[Any]] = {}
    found = []
    for bar in bars:
        before = last.get(bar[0])
        if before is not None and before[3] == bar[3]:
            before[2], before[4] = bar[2], before[4] + 1
        else:
            found.append(bar)
            last[bar[0]] = bar
    return found


def _memories(
    program: NpuProgram, start: np.ndarray, finish: np.ndarray, owner: np.ndarray
) -> tuple[dict[str, Any], int]:
    sizes = dict(program.sizes)
    last, count = float(finish.max(initial=0.0)), len(program.commands)
    rows: list[tuple[str, list[Any]]] = []
    for b, life in zip(program.buffers, program.lifetimes, strict=True):
        if b.memory == "weight" or life.first > life.last:  # the latter is never used: its tensor stays on chip
            continue
        first = max(life.first, 0)
        begins = float(start[first]) if 0 <= life.first < count else 0.0
        ends = float(finish[life.last]) if 0 <= life.last < count else last
        node = int(owner[min(first, count - 1)]) if count else -1
        size = byte_size(b, program.platform)
        rows.append((b.memory, [b.offset, size, _short(begins), _short(ends), node, life.first, life.last]))
    kept = sorted(rows, key=lambda row: -row[1][1] * max(row[1][3] - row[1][2], 1e-9))[:MOST_BUFFERS]
    found: dict[str, Any] = {}
    for memory in ("sram", "working", "input", "output"):
        buffers = sorted(row for name, row in kept if name == memory)
        if buffers:
            found[memory] = {"bytes": sizes.get(memory), "buffers": buffers}
    return found, len(rows) - len(kept)


def _short(x: float) -> float:
    return float(f"{x:.6g}")
