"""What a page needs of every node in one place: the node, its tensor, what happens inside, its cost and its losses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knerex_jax.report.score import number

_SNR_STEPS = (10.0, 20.0, 30.0, 40.0)
_COST_STEPS = (0.01, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class NodeView:
    """One instruction, or one input of the model.

    Attributes:
      id: number on the page.
      row: as in the report ("nodes" or "input_tensors").
      layer: what happens to its tensor in integers; None for exact tensors.
      cost: its row of the performance table; None where it costs nothing of its own.
      share: of the inference time, 0 to 1.
      loss: its row of the error budget, where there is one.
      place: "NPU", "CPU" or "host" (in float, between codes), and why.
      first_bad: the first node below 20 dB that is to blame itself.
      is_output: whether it makes an output of the model.
    """

    id: int
    row: Mapping[str, Any]
    layer: Mapping[str, Any] | None
    cost: Mapping[str, Any] | None
    share: float
    loss: Mapping[str, Any] | None
    place: tuple[str, str]
    first_bad: bool
    is_output: bool

    @property
    def name(self) -> str:
        return self.row["name"]

    @property
    def op(self) -> str:
        return self.row["op"]

    @property
    def tensor(self) -> str:
        return self.row["tensor"]

    @property
    def bits(self) -> int | None:
        """Significant bits of its result; None if that is exact."""
        return self.row.get("bits")

    @property
    def alone_db(self) -> float | None:
        return None if self.layer is None else number(self.layer["alone_db"])

    @property
    def accumulated_db(self) -> float | None:
        return None if self.layer is None else number(self.layer["accumulated_db"])

    @property
    def snr_step(self) -> str:
        """Class of colour by SNR: 0 (below 10 dB) to 4, or "none"."""
        db = self.accumulated_db
        return "none" if db is None or math.isnan(db) else str(sum(db >= step for step in _SNR_STEPS))

    @property
    def cost_step(self) -> str:
        """Class of colour by cost: 0 (below 1 %) to 4, or "none"."""
        return str(sum(self.share >= step for step in _COST_STEPS)) if self.cost is not None else "none"

    @property
    def width_step(self) -> str:
        """Class of colour by width: "8", "15", "exact"."""
        return str(self.bits) if self.bits else "exact"


def node_views(report: Mapping[str, Any]) -> list[NodeView]:
    """Inputs and nodes in order; none in mode 0."""
    costs = {n["node"]: n for n in (report.get("performance") or {}).get("nodes", ()) if n["type"] != "FUSED"}
    total = (report.get("performance") or {}).get("summary", {}).get("ITC(ms)") or 1.0
    losses = {r["tensor"]: r for r in (report.get("error_budget") or {}).get("rows", ())}
    islands = {i["node"]: i["why"] for i in report.get("islands", ())}
    reasons = {n["name"]: n["reason"] for n in (report.get("support") or {}).get("nodes", ())}
    cpu, outputs = set(report.get("cpu_nodes", ())), set(report.get("snr_db", ()))
    bad = (report.get("first_bad") or {}).get("node")
    layers, found = report.get("layers") or {}, []
    for row in (*report.get("input_tensors", ()), *report.get("nodes", ())):
        names = row.get("nodes", ())
        cost = next((costs[n] for n in names if n in costs), None)
        place = ("NPU", "")
        if island := next((n for n in names if n in islands), None):
            place = ("host", islands[island])
        elif not cpu.isdisjoint(names):
            place = ("CPU", next((reasons[o] for o in row.get("origin", ()) if reasons.get(o)), ""))
        found.append(
            NodeView(
                id=len(found), row=row, layer=layers.get(row["tensor"]), cost=cost,
                share=cost["SYNC_runtime(ms)"] / total if cost else 0.0, loss=losses.get(row["tensor"]), place=place,
                first_bad=bad is not None and row["name"] == bad,
                is_output=not outputs.isdisjoint(row.get("outputs", (row["tensor"],))),
            )
        )  # fmt: skip
    return found


def options(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every option as requested and applied; its "state" is "same", "filled in" or "changed", and the notes say why."""
    why = {n["where"]: n["why"] for n in report.get("notes", ())}
    found = []
    for name, asked in report["requested"].items():
        applied = report["applied"].get(name, asked)
        state = "same" if applied == asked and name not in why else "filled in" if asked is None else "changed"
        reason = why.get(name, "left open: this is what applies" if state == "filled in" else "")
        noted = next((n["applied"] for n in report.get("notes", ()) if n["where"] == name), applied)
        found.append({
            "name": name, "requested": asked, "applied": noted if state == "changed" else applied, "state": state,
            "why": reason,
        })  # fmt: skip
    return sorted(found, key=lambda o: ("changed", "filled in", "same").index(o["state"]))
