"""An evaluation as text."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from knerex_jax.performance.evaluation import Evaluation

WIDTH = 200
"""Columns of the text form."""


def evaluation_text(found: Evaluation) -> str:
    """The whole evaluation as plain text."""
    text = StringIO()
    Console(file=text, width=WIDTH, force_terminal=False, color_system=None).print(rendered(found, wide=True))
    return text.getvalue()


def rendered(found: Evaluation, *, wide: bool = False) -> RenderableType:
    """Verdict, what does not fit, where the time goes, and the figures behind it.

    Args:
      found: to show.
      wide: all columns; else those that fit a terminal.
    """
    parts: list[RenderableType] = [_verdict(found)]
    if found.unsupported:
        rows = [(n.name, n.op_type, n.reason, n.suggestion) for n in found.unsupported]
        parts.append(_table(("cannot run", "operator", "why", "what to do"), rows))
    if found.cpu_nodes:
        parts.append(_table(("on the CPU", "why"), list(found.cpu_nodes.items())))
    return Group(*parts, _nodes(found, wide), _advice(found), _figures(found))


def compared(found: Sequence[Evaluation]) -> Table:
    """One row per platform."""
    heads = ("platform", "fps", "ms", "MAC eff.", "read MB", "written MB", "weights MB", "CPU", "cannot run")
    rows = []
    for e in found:
        moved = (e.totals.read_bytes, e.totals.written_bytes, e.totals.weight_bytes)
        counts = (len(e.cpu_nodes), len(e.unsupported))
        figures = (rate(e.fps), f"{e.time_ms:.4g}", f"{e.totals.mac_efficiency:.0%}")
        rows.append((e.platform, *figures, *(f"{m / 1e6:.2f}" for m in moved), *map(str, counts)))
    return _table(heads, rows)


def rate(fps: float) -> str:
    """Frames per second with as many digits as they deserve."""
    return f"{fps:,.0f}" if 1000 <= fps < float("inf") else f"{fps:.4g}"


def _verdict(found: Evaluation) -> Text:
    widths = f"{found.widths['datapath']} data, {found.widths['weight']} weights"
    said = f"{found.model}  ->  platform {found.platform}, {widths}: {rate(found.fps)} fps, {found.time_ms:.4g} ms"
    text = Text(said, style="bold")
    if found.caveat:
        text.append(f" ({found.caveat})", style="bold red" if found.unsupported else "yellow")
    return text


def _nodes(found: Evaluation, wide: bool) -> Table:
    total = found.time_ms or 1.0
    heads = ["node", "type", "bits", "share", "ms", "MAC cycles", "data KB", "weights KB", "limit"]
    more = ["runtime ms", "main ms", "aux ms", "read ms", "write ms", "weights ms", "mul/byte", "in", "out"] * wide
    rows = []
    for n in found.nodes:
        row = [
            n.label, n.kind, f"{n.bits_in or '-'}>{n.bits_out or '-'}", f"{n.sync_ms / total:.1%}",
            f"{n.sync_ms:.4f}", f"{n.mac_cycles:.0f}", f"{(n.read_bytes + n.written_bytes) / 1e3:.1f}",
            f"{n.weight_bytes / 1e3:.1f}", n.limit,
        ]  # fmt: skip
        times = (n.runtime_ms, n.main_ms, n.auxiliary_ms, n.read_ms, n.written_ms, n.weight_ms)
        layouts = (" ".join(dict.fromkeys(f for _, f in side)) for side in (n.in_formats, n.out_formats))
        ends = (f"{n.intensity:.1f}", *layouts)
        rows.append([*row, *([*(f"{t:.4f}" for t in times), *ends] if wide else [])])
    return _table(heads + more, rows)


def _advice(found: Evaluation) -> Table:
    rows = [(a.label, f"{a.share:.0%}", a.help) for a in found.advice]
    return _table(("costs most", "share", "what would help"), rows)


def _figures(found: Evaluation) -> Table:
    """The summary, and which of the machine's figures no public source states."""
    table = Table(box=None, pad_edge=False, show_header=False)
    skipped = ("model", "platform", "fps", "ITC(ms)", "comments", "cpu_node")
    shown = {k: v for k, v in found.summary().items() if k not in skipped}
    cells = [(k, f"{v:.6g}" if isinstance(v, float) else f"{v}") for k, v in shown.items()]
    half = -(-len(cells) // 2)
    for k in range(half):
        table.add_row(*cells[k], *(cells[k + half] if k + half < len(cells) else ()))
    table.add_row("not published, fitted or assumed", ", ".join(found.machine.assumed))
    return table


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
