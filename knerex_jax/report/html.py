"""The page of a report: a pure function of its data, in one file that needs nothing else."""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from knerex_jax.artifacts.stages import finite
from knerex_jax.quantize.note import outcome
from knerex_jax.report.figures import figures
from knerex_jax.report.graph import HEIGHT, WIDTH, draw
from knerex_jax.report.score import number, shortened, with_score
from knerex_jax.report.view import NodeView, node_views, options

if TYPE_CHECKING:
    from jinja2 import Environment

_ABSENT = dict.fromkeys(
    ("performance", "support", "schedule", "overflow", "bit_true_match", "error_budget", "first_bad")
)
"""Sections that a mode, or an older version, leaves out."""

_MOST_LOSSES = 40
"""Rows of the error budget that are shown."""


def render_report(report: Mapping[str, Any]) -> str:
    """The HTML of a report.

    Args:
      report: content of `model_fx_report.json`, as read from the file or as in `PTQResult.report`.

    Returns:
      A page without outside resources: its charts are drawn by Plotly, which it carries in compressed form.
    """
    plain = _ABSENT | finite(report if "score" in report else with_score(report))
    nodes = node_views(plain)
    budget = plain.get("error_budget")
    losses = sorted(budget["rows"], key=lambda r: -_largest_share(r))[:_MOST_LOSSES] if budget else []
    return _environment().get_template("report.html.j2").render(
        report=plain, nodes=nodes, options=options(plain), drawing=draw(nodes), box=(WIDTH, HEIGHT), losses=losses,
        start=_start(nodes), figures=_embedded(figures(plain, nodes)), plotly=_plotly(),
    )  # fmt: skip


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """The HTML of what `compare_reports` found."""
    return _environment().get_template("comparison.html.j2").render(found=finite(comparison))


def render_sweep(sweep: Mapping[str, Any]) -> str:
    """The HTML of a sweep: its `page_data`."""
    return _environment().get_template("sweep.html.j2").render(sweep=finite(sweep))


def _start(nodes: Sequence[NodeView]) -> int | None:
    """The node whose details are shown first: the first bad one, or that with the lowest SNR."""
    known = [n for n in nodes if n.accumulated_db is not None]
    bad = (n.id for n in nodes if n.first_bad)
    return next(bad, min(known, key=lambda n: number(n.accumulated_db)).id if known else None)


def _largest_share(row: Mapping[str, Any]) -> float:
    return max((loss["share"] or 0.0 for loss in row["losses"].values()), default=0.0)


@cache
def _environment() -> "Environment":
    """Templates with escaping; jinja2 is imported when a page is made."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("knerex_jax.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "outcome": outcome,
        "db": decibels,
        "short": short,
        "span": _span,
        "percent": _percent,
        "size": _size,
        "time": _time,
        "value": option_value,
        "shortened": shortened,
        "change": change,
        "relative": relative,
    }
    return made


@cache
def _plotly() -> str:
    """Plotly's script, gzip in base64: 1.9 MB instead of 4.8.

    Plotly, because its figures are plain data, so that charts are made and tested here, and because it draws SVG, which
    prints. Bokeh's script is smaller, but draws on canvas, and its documents are objects of nine more packages.
    """
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 6, mtime=0)).decode()


def _embedded(data: Any) -> str:
    """JSON for a script element: no name in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def decibels(value: Any) -> str:
    """Decibels with one digit; an exact result has no error."""
    db = number(value)
    if math.isfinite(db):
        return f"{round(db, 1) + 0.0:.1f} dB"  # not -0.0
    return "–" if math.isnan(db) else "exact" if db > 0 else "no signal"


def short(value: Any, digits: int = 4) -> str:
    """A number with so many digits, thousands apart."""
    if value is None:
        return "–"
    x = number(value)
    return f"{x:,.0f}" if math.isfinite(x) and (abs(x) >= 10**digits or x == int(x)) else f"{x:.{digits}g}"


def _span(ends: Any) -> str:
    """Two ends, or what both are."""
    if ends is None:
        return "–"
    low, high = (short(e) for e in ends)
    return low if low == high else f"{low} … {high}"


def _percent(share: Any) -> str:
    x = 100 * number(share)
    return f"{x:.0f} %" if x >= 10 else f"{x:.2g} %" if x >= 0.005 or x == 0 else "< 0.01 %"


def _size(count: Any) -> str:
    """Bytes, decimal as in the performance table."""
    x = number(count)
    return f"{x / 1e6:,.2f} MB" if x >= 1e6 else f"{x / 1e3:,.1f} KB" if x >= 1e3 else f"{x:.0f} B"


def _time(ms: Any) -> str:
    """A time in ms, or in µs where that is shorter."""
    x = number(ms)
    return f"{short(x)} ms" if x >= 0.1 else f"{1e3 * x:.3g} µs" if x else "0"


def option_value(value: Any) -> str:
    """An option's value as one writes it."""
    return "not given" if value is None else value if isinstance(value, str) else json.dumps(value)


def change(pair: Sequence[Any], unit: str = "") -> str:
    """By how much the second is larger; empty where one is missing or not finite."""
    try:
        difference = float(pair[1]) - float(pair[0])
    except (TypeError, ValueError):
        return ""
    return f"{difference:+.4g}{unit}" if abs(difference) < float("inf") else ""


def relative(pair: Sequence[Any]) -> str:
    """The same as a share of the first."""
    return f"{pair[1] / pair[0] - 1:+.1%}" if None not in pair and pair[0] else ""
