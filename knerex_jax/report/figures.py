"""The charts of a report as Plotly figures in plain data. Colours are names ("$good") that the page gives meaning."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from knerex_jax.artifacts.report import FLAG_BELOW_DB
from knerex_jax.diagnose.layers import CODE_BINS, VALUE_BINS
from knerex_jax.report.score import number, shortened
from knerex_jax.report.view import NodeView

Figure = dict[str, Any]

_UNITS = {"ms": 1.0, "µs": 1e3}
_TOP_DB = 100.0
"""Above this an SNR is not drawn: exact, or as good."""

_UNIT_NAMES = {
    "getw": "weights in (GETW)", "rdma": "data in (RDMA)", "cfunc": "main unit (CFUNC)",
    "pfunc": "auxiliary (PFUNC)", "wdma": "data out (WDMA)", "host": "processor",
}  # fmt: skip
_MEMORY_NAMES = {"sram": "on chip (SRAM)", "working": "DRAM, working", "input": "DRAM, input", "output": "DRAM, output"}


def figures(report: Mapping[str, Any], nodes: Sequence[NodeView]) -> dict[str, Figure]:
    """All charts by name; those without data are missing."""
    found: dict[str, Figure] = {}
    if report.get("layers"):
        found["snr"] = snr_figure(nodes)
    if schedule := report.get("schedule"):
        found["timeline"] = timeline_figure(schedule)
        for memory, held in schedule["memories"].items():
            if memory in ("sram", "working"):
                found[f"memory {memory}"] = memory_figure(memory, held, schedule)
    if report.get("performance"):
        found["roofline"] = roofline_figure(report["performance"])
    for tensor, row in (report.get("tensors") or {}).items():
        view = next((n for n in nodes if n.tensor == tensor), None)
        found |= {f"{kind}:{tensor}": figure for kind, figure in tensor_figures(row, view).items()}
    return found


def snr_figure(nodes: Sequence[NodeView]) -> Figure:
    """SNR per node in order, the node alone and all before it."""
    shown = [n for n in nodes if n.accumulated_db is not None]
    hover = [f"{_html(n.name)}<br>{_html(n.op)}" for n in shown]

    def line(name: str, values: Sequence[float | None], color: str, symbol: str) -> dict[str, Any]:
        return {
            "type": "scatter", "mode": "lines+markers", "name": name, "x": list(range(len(shown))), "y": values,
            "customdata": [n.id for n in shown], "text": hover, "line": {"color": color, "width": 2},
            "marker": {"size": 6, "symbol": symbol},
            "hovertemplate": "%{text}<br>%{y:.1f} dB<extra>" + name + "</extra>",
        }  # fmt: skip

    traces = [
        line("the node alone", [_drawn(n.alone_db) for n in shown], "$second", "circle-open"),
        line("accumulated", [_drawn(n.accumulated_db) for n in shown], "$first", "circle"),
    ]
    layout: Figure = {
        "yaxis": {"title": {"text": "SNR, dB"}, "rangemode": "tozero"},
        "xaxis": {"title": {"text": "nodes in order of computation"}, "range": [-0.6, len(shown) - 0.4]},
        "shapes": [_line(y=FLAG_BELOW_DB)],
        "annotations": [_text("20 dB", xref="paper", x=1, xanchor="right", y=FLAG_BELOW_DB, yshift=8)],
        "height": 340,
        "showlegend": True,
    }
    if len(shown) <= 40:
        labels = [_html(shortened(n.name, 22)) for n in shown]
        layout["xaxis"] |= {"tickvals": list(range(len(shown))), "ticktext": labels, "tickangle": -40, "title": None}
    for place, n in enumerate(shown):
        if n.first_bad:
            side = "left" if place < 0.3 * len(shown) else "right" if place > 0.7 * len(shown) else "center"
            text = f"first bad node: {_html(shortened(n.name, 40))}"
            mark = _text(text, x=place, y=_drawn(n.accumulated_db) or 0, xanchor=side)
            layout["annotations"].append(mark | {"showarrow": True, "arrowcolor": "$bad", "ax": 0, "ay": -44})
    return {"data": traces, "layout": layout}


def timeline_figure(schedule: Mapping[str, Any]) -> Figure:
    """What every unit does when."""
    unit, factor = _time_unit(schedule["end_ms"])
    engines, labels = schedule["engines"], [_html(label) for label in schedule["labels"]]
    used = [e for e in engines if any(engines[bar[0]] == e for bar in schedule["bars"])]
    traces = []
    for engine in used:
        bars = [bar for bar in schedule["bars"] if engines[bar[0]] == engine]
        traces.append({
            "type": "bar", "orientation": "h", "name": _UNIT_NAMES[engine], "y": [_UNIT_NAMES[engine]] * len(bars),
            "base": [_round(factor * a) for _, a, _, _, _ in bars],
            "x": [_round(factor * (b - a)) for _, a, b, _, _ in bars],
            "text": [labels[n] + (f", {k} commands" if k > 1 else "") for _, _, _, n, k in bars],
            "textposition": "none", "marker": {"color": f"${engine}", "line": {"width": 0.4, "color": "$paper"}},
            "hovertemplate": f"%{{text}}<br>from %{{base:.4g}} for %{{x:.4g}} {unit}<extra>{engine}</extra>",
        })  # fmt: skip
    layout = {
        "barmode": "overlay", "showlegend": False, "height": 96 + 42 * len(used),
        "xaxis": {"title": {"text": unit}, "range": [0, factor * schedule["end_ms"]]},
        "yaxis": {"autorange": "reversed", "fixedrange": True},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def memory_figure(memory: str, held: Mapping[str, Any], schedule: Mapping[str, Any]) -> Figure:
    """Who holds which bytes when."""
    unit, factor = _time_unit(schedule["end_ms"])
    buffers, labels = held["buffers"], [_html(label) for label in schedule["labels"]]
    top = max(b[0] + b[1] for b in buffers)
    trace = {
        "type": "bar", "orientation": "h", "base": [_round(factor * b[2]) for b in buffers],
        "x": [_round(factor * (b[3] - b[2])) for b in buffers], "y": [(b[0] + b[1] / 2) / 1024 for b in buffers],
        "width": [b[1] / 1024 for b in buffers], "customdata": [[b[1], b[5], b[6]] for b in buffers],
        "text": [labels[b[4]] if b[4] >= 0 else "" for b in buffers], "textposition": "none",
        "marker": {"color": [f"$shade{b[4] % 6}" for b in buffers], "line": {"width": 0.5, "color": "$paper"}},
        "hovertemplate": "%{text}<br>%{customdata[0]:,} bytes, commands %{customdata[1]} to %{customdata[2]}"
        "<extra></extra>",
    }  # fmt: skip
    layout = {
        "barmode": "overlay", "showlegend": False, "height": 300,
        "title": {"text": _MEMORY_NAMES[memory], "font": {"size": 13}},
        "xaxis": {"title": {"text": unit}, "range": [0, factor * schedule["end_ms"]]},
        "yaxis": {"title": {"text": "KiB"}, "range": [0, top / 1024 * 1.04]},
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def roofline_figure(performance: Mapping[str, Any]) -> Figure:
    """Nodes against what multipliers and memory allow; both axes logarithmic."""
    machine, total = performance["machine"], performance["summary"]["ITC(ms)"] or 1.0
    peak = machine["macs"] * machine["megahertz"] * 1e-3  # 10**9 multiplications per second
    rate = machine["rdma"] + machine["wdma"] + machine["getw"]  # GB/s
    rows = [n for n in performance["nodes"] if n.get("multiplications") and n["multiplications per byte"] > 0]
    x = [n["multiplications per byte"] for n in rows]
    y = [n["multiplications"] / _busiest_ms(n, machine) * 1e-6 for n in rows]
    knee = peak / rate
    ends = (min((*x, knee)) / 2, knee, 2 * max((*x, 2 * knee)))
    roof = {
        "type": "scatter", "mode": "lines", "name": "what the machine allows", "x": [_round(v) for v in ends],
        "y": [_round(min(peak, rate * v)) for v in ends], "line": {"color": "$muted", "width": 2}, "hoverinfo": "skip",
    }  # fmt: skip
    shares = [n["SYNC_runtime(ms)"] / total for n in rows]
    dots = {
        "type": "scatter", "mode": "markers", "name": "nodes", "x": [_round(v) for v in x],
        "y": [_round(v) for v in y], "text": [_html(n["node"]) for n in rows],
        "customdata": [[_round(100 * s), n["limit"]] for s, n in zip(shares, rows, strict=True)],
        "marker": {"size": [round(7 + 40 * math.sqrt(s), 1) for s in shares], "color": "$first", "opacity": 0.6},
        "hovertemplate": "%{text}<br>%{y:.3g} G/s at %{x:.3g} per byte<br>%{customdata[0]:.2g} % of the time, limit:"
        " %{customdata[1]}<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": {"type": "log", "title": {"text": "multiplications per byte to or from DRAM"}},
        "yaxis": {"type": "log", "title": {"text": "10⁹ multiplications per second"}}, "height": 360,
    }  # fmt: skip
    return {"data": [roof, dots], "layout": layout}


def _busiest_ms(row: Mapping[str, Any], machine: Mapping[str, Any]) -> float:
    """How long the unit works that works longest for a node: its own speed, whatever is hidden behind others."""
    units = [row[f"{unit}_runtime(ms)"] for unit in ("CFUNC", "PFUNC", "RDMA", "WDMA")]
    return max(*units, row["Weight_amount(Byte)"] / machine["getw"] * 1e-6)


def tensor_figures(row: Mapping[str, Any], node: NodeView | None) -> dict[str, Figure]:
    """Sizes of the float values with the ranges, codes of the integer run, and the search of the clip."""
    found = {"codes": _codes_figure(row["codes"], node)}
    if "values" in row:
        found["values"] = _values_figure(row, node)
    if "search" in row:
        found["search"] = _search_figure(row, node)
    return found


def _values_figure(row: Mapping[str, Any], node: NodeView | None) -> Figure:
    limit, counts = row["values"]["limit"], row["values"]["counts"]
    step = 2 * limit / VALUE_BINS
    first = next((k for k, c in enumerate(counts) if c), 0)
    last = max((k for k, c in enumerate(counts) if c), default=len(counts) - 1)
    bars = {
        "type": "bar", "x0": _round(-limit + (first + 0.5) * step), "dx": step, "y": counts[first : last + 1],
        "marker": {"color": "$first"}, "hovertemplate": "about %{x:.4g}: %{y:,}<extra></extra>",
    }  # fmt: skip
    shapes, notes = [], []
    bits = None if node is None else node.bits
    for name, cut in row.get("cuts", {}).items():
        chosen = name == str(bits)
        color = "$bad" if chosen else "$muted"
        shapes += [_line(x=x, color=color, dash="solid" if chosen else "dot") for x in cut if abs(x) <= limit * 1.001]
        if chosen:
            notes.append(_text(f"range for {name} bits", yref="paper", y=1.07, x=cut[1], xanchor="right", color=color))
    low, high = -limit + first * step, -limit + (last + 1) * step
    reach = (node and node.row.get("reach") or [0.0, 0.0])[1]
    held = [x for x in (-reach, reach) if 2 * low < x < 2 * high]  # farther away it would hide the values
    shapes += [_line(x=x, color="$second", dash="dash") for x in held]
    span = [min(low, *held, low) - step / 2, max(high, *held, high) + step / 2]
    layout = {
        "bargap": 0, "showlegend": False, "height": 260, "shapes": shapes, "annotations": notes,
        "xaxis": {"title": {"text": f"float values ({row['values']['of']})"}, "range": span},
        "yaxis": {"type": "log", "title": {"text": "how many"}, "dtick": 1, "exponentformat": "power"},
    }  # fmt: skip
    return {"data": [bars], "layout": layout}


def _codes_figure(counts: Sequence[int], node: NodeView | None) -> Figure:
    wide = node is not None and node.bits == 15
    step = (1 << 15) // CODE_BINS if wide else 1
    low = -(1 << 14) if wide else -128
    first = next((k for k, c in enumerate(counts) if c), 0)
    last = max((k for k, c in enumerate(counts) if c), default=len(counts) - 1)
    bars = {
        "type": "bar", "x0": low + first * step + (step - 1) / 2, "dx": step, "y": list(counts[first : last + 1]),
        "marker": {"color": "$second"}, "hovertemplate": "code %{x}: %{y:,}<extra></extra>",
    }  # fmt: skip
    ends = [low - step / 2, -low + step / 2]
    layout = {
        "bargap": 0, "showlegend": False, "height": 260,
        "xaxis": {"title": {"text": "codes of the integer run"}, "range": ends},
        "yaxis": {"type": "log", "title": {"text": "how many"}, "dtick": 1, "exponentformat": "power"},
    }  # fmt: skip
    return {"data": [bars], "layout": layout}


def _search_figure(row: Mapping[str, Any], node: NodeView | None) -> Figure:
    search, bits = row["search"], 8 if node is None else node.bits
    traces = [
        {
            "type": "scatter", "mode": "lines", "name": f"{width} bits", "x": search["clip"],
            "y": search[f"snr_db_{width}"], "line": {"color": color, "width": 3 if width == bits else 1.5},
            "hovertemplate": "clipped at %{x:.4g}: %{y:.1f} dB<extra></extra>",
        }
        for width, color in ((8, "$first"), (15, "$second"))
    ]  # fmt: skip
    shapes = []
    if cut := row.get("cuts", {}).get(str(bits)):
        shapes.append(_line(x=max(map(abs, cut)), color="$bad", dash="solid"))
    layout = {
        "height": 260, "shapes": shapes, "legend": {"orientation": "h", "y": 1.15},
        "xaxis": {"title": {"text": "all of the tensor clipped at"}},
        "yaxis": {"title": {"text": "SNR of its values, dB"}},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _line(*, x: float | None = None, y: float | None = None, color: str = "$bad", dash: str = "dash") -> dict[str, Any]:
    """A line across the whole chart, at some x or at some y."""
    across = {"x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y}
    if x is not None:
        across = {"y0": 0, "y1": 1, "yref": "paper", "x0": x, "x1": x}
    return {"type": "line", **across, "line": {"color": color, "width": 1.5, "dash": dash}}


def _text(text: str, *, color: str = "$bad", **place: Any) -> dict[str, Any]:
    return {"text": text, "showarrow": False, "font": {"color": color, "size": 11}, **place}


def _time_unit(end_ms: float) -> tuple[str, float]:
    unit = "ms" if end_ms >= 1 else "µs"
    return unit, _UNITS[unit]


def _drawn(value: Any) -> float | None:
    db = number(value)
    return round(db, 2) if math.isfinite(db) and db <= _TOP_DB else None


def _html(text: str) -> str:
    """Plotly reads some tags in text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _round(x: float) -> float:
    return float(f"{x:.6g}")
