"""A comparison of two runs in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from knerex_jax.report.html import change, decibels, option_value, relative, short

MOST_NODES = 20
"""So many nodes are listed."""


def comparison_text(found: Mapping[str, Any]) -> RenderableType:
    """What `compare_reports` found: verdicts, options, scores, speed, and the nodes that differ most."""
    heads = ["", *found["runs"], "change"]
    verdict = _table(heads, [("model", *found["models"], ""), ("verdict", *found["verdicts"], "")])
    parts: list[RenderableType] = [verdict]
    if not found["same_model"]:
        parts.append(Text("the models are not the same file", style="yellow"))
    if found["options"]:
        rows = [(k, *map(option_value, pair), "") for k, pair in found["options"].items()]
        parts.append(_table(["option", *heads[1:]], rows))
    rows = [(f"SNR of {t}", *map(decibels, pair), change(pair, " dB")) for t, pair in found["snr_db"].items()]
    rows += [(name, *map(short, pair), change(pair)) for name, pair in found["labelled"].items()]
    rows += [(name, *map(short, pair), relative(pair)) for name, pair in found["performance"].items()]
    parts.append(_table(["result", *heads[1:]], rows))
    if found["nodes"]:
        rows = [
            (
                n["node"], n["op"], *(decibels(v) for v in n["accumulated_db"]), change(n["accumulated_db"], " dB"),
                *(f"{b or '-'}{f'/w{w}' if w else ''}" for b, w in zip(n["bits"], n["weight_bits"], strict=True)),
                relative(n["time_ms"]),
            )
            for n in found["nodes"][:MOST_NODES]
        ]  # fmt: skip
        first, second = found["runs"]
        heads = [
            "node",
            "operator",
            f"SNR {first}",
            f"SNR {second}",
            "change",
            f"bits {first}",
            f"bits {second}",
            "time",
        ]
        parts.append(_table(heads, rows))
        if left := len(found["nodes"]) - MOST_NODES:
            parts.append(Text(f"and {left} more nodes" if left > 0 else "", style="dim"))
    return Group(*parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(Text(head))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
