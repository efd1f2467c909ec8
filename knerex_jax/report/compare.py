"""Two runs side by side: what differs in options, scores, single nodes, speed."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from knerex_jax.errors import ArtifactError
from knerex_jax.report.score import number
from knerex_jax.report.view import NodeView, node_views

LEAST_DB = 0.05
"""A node whose SNR differs by less is left out."""

_FIGURES = (
    "fps", "ITC(ms)", "MAC efficiency", "RV(Byte)", "WV(Byte)", "weight amount(KB)", "peak SRAM(Byte)", "DRAM(Byte)",
    "commands",
)  # fmt: skip
_NO_CHOICE = ("p_output", "np_txt")
"""Options that always differ and say nothing."""


def read_report(path: str | Path) -> dict[str, Any]:
    """Reads a `model_fx_report.json`, or that of a folder.

    Raises:
      ArtifactError: missing, not JSON, or not a report.
    """
    path = Path(path)
    path = path / "model_fx_report.json" if path.is_dir() else path
    fix = "give a model_fx_report.json, or a folder that run_ptq wrote"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ArtifactError(f"cannot read the report: {e}", where=str(path), fix=fix) from e
    if not isinstance(report, dict) or not {"model", "requested", "applied", "versions"} <= report.keys():
        raise ArtifactError("this is not a report", where=str(path), fix=fix)
    return report


def compare_reports(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str] = ("a", "b")) -> dict[str, Any]:
    """What differs between two reports, as plain data; every pair of values is [of a, of b], None where one has none.

    Args:
      a: as `read_report` gives it.
      b: the other.
      names: what to call them.

    Returns:
      "runs", "same_model", "verdicts", "options", "snr_db", "labelled", "performance": name -> pair, and "nodes": those
      that differ in SNR, width or time, the largest difference of SNR first.
    """
    performance = [(r.get("performance") or {}).get("summary", {}) for r in (a, b)]
    return {
        "runs": list(names),
        "models": [r["model"]["name"] for r in (a, b)],
        "platforms": [r["applied"]["platform"] for r in (a, b)],
        "same_model": a["model"]["sha256"] == b["model"]["sha256"],
        "verdicts": [r.get("score", {}).get("headline", "") for r in (a, b)],
        "levels": [r.get("score", {}).get("level", "") for r in (a, b)],
        "options": {
            k: pair for k, pair in _pairs(a["applied"], b["applied"]).items() if pair[0] != pair[1]
            and k not in _NO_CHOICE
        },
        "snr_db": _pairs(a.get("snr_db", {}), b.get("snr_db", {})),
        "labelled": _pairs(*({k: s["fixed"] for k, s in _labelled(r).items()} for r in (a, b))),
        "performance": {k: [p.get(k) for p in performance] for k in _FIGURES if any(k in p for p in performance)},
        "nodes": sorted(_nodes(a, b), key=lambda n: -abs(n["gain_db"] or 0.0)),
    }  # fmt: skip


def _labelled(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return report.get("score", {}).get("labelled", {})


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {k: [a.get(k), b.get(k)] for k in dict.fromkeys((*a, *b))}


def _nodes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    held = [{n.name: n for n in node_views(r)} for r in (a, b)]
    for name in dict.fromkeys((*held[0], *held[1])):
        pair = [h.get(name) for h in held]
        known = [n for n in pair if n is not None]
        row = {
            "node": name,
            "op": known[0].op,
            "in": [n is not None for n in pair],
            "accumulated_db": [_plain(n and n.accumulated_db) for n in pair],
            "alone_db": [_plain(n and n.alone_db) for n in pair],
            "bits": [n and n.bits for n in pair],
            "weight_bits": [n and n.row.get("weight_bits") for n in pair],
            "time_ms": [_time(n) for n in pair],
        }
        first, second = row["accumulated_db"]
        row["gain_db"] = None if first is None or second is None else second - first
        if _differs(row):
            yield row


def _differs(row: Mapping[str, Any]) -> bool:
    return (
        not all(row["in"])
        or abs(row["gain_db"] or 0.0) >= LEAST_DB
        or any(row[k][0] != row[k][1] for k in ("bits", "weight_bits", "time_ms"))
    )


def _time(node: NodeView | None) -> float | None:
    return None if node is None or node.cost is None else node.cost["SYNC_runtime(ms)"]


def _plain(value: Any) -> float | None:
    """Decibels; None for none, and for exact."""
    db = number(value)
    return db if math.isfinite(db) else None
