"""What the page of a sweep shows, as plain data: a curve per setting of the other options, and the table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from knerex_jax.sweep.cell import Row
from knerex_jax.sweep.grid import Sweep

WIDTH, HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 12, 44
_MOST_LINES = 8
"""More curves cannot be told apart; the table has all."""


def page_data(sweep: Sweep, rows: Sequence[Row]) -> dict[str, Any]:
    """What `render_sweep` takes.

    Args:
      sweep: what was asked for.
      rows: its table; those of an earlier run hold text.
    """
    failed = [row for row in rows if row["status"] != "ok"]
    done = [row for row in rows if row["status"] == "ok"]
    best = max(done, key=lambda row: _number(row.get("snr_db"), -math.inf), default=None)
    return {
        "cells": len(sweep.cells), "failed": len(failed), "names": list(sweep.names), "rows": list(rows),
        "best": best and best["key"], "plot": _plot(sweep.names, done), "width": WIDTH, "height": HEIGHT,
    }  # fmt: skip


def _plot(names: Sequence[str], rows: Sequence[Row]) -> Mapping[str, Any] | None:
    """SNR over the last option that has numbers; None where none has, or there is nothing to show."""
    points = [row for row in rows if math.isfinite(_number(row.get("snr_db")))]
    over = next((n for n in reversed(names) if len({_number(row[n]) for row in points} - {math.nan}) > 1), None)
    if over is None or any(math.isnan(_number(row[over])) for row in points):
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in points:
        label = ", ".join(f"{n} {row[n]}" for n in names if n != over)
        lines.setdefault(label, []).append((_number(row[over]), _number(row["snr_db"])))
    xs, ys = (sorted({p[i] for line in lines.values() for p in line}) for i in (0, 1))
    low, high = math.floor(ys[0]), math.floor(ys[-1]) + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0])
        up = (y - low) / (high - low)
        room, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return round(_LEFT + across * room, 1), round(_TOP + (1 - up) * tall, 1)

    shown = dict(list(lines.items())[:_MOST_LINES])
    return {
        "over": over,
        "lines": [{"label": label, "points": [place(*p) for p in sorted(line)]} for label, line in shown.items()],
        "left_out": len(lines) - len(shown),
        "x": [(place(x, low)[0], f"{x:g}") for x in _some(xs)],
        "y": [(place(xs[0], y)[1], f"{y:g}") for y in _some([low + k for k in range(high - low + 1)])],
        "box": [_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM],
    }


def _some(values: Sequence[float]) -> list[float]:
    """At most nine of them, for labels."""
    return list(values[:: max(1, -(-len(values) // 9))])


def _number(value: Any, other: float = math.nan) -> float:
    """As a number; `other` for what is none."""
    try:
        return other if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return other
