"""What a finished run looks like in a terminal."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from knerex_jax.api import PTQResult
from knerex_jax.check import CheckReport
from knerex_jax.performance.text import rate, rendered
from knerex_jax.quantize.planner import Planned
from knerex_jax.verdict import Verdict

_SOME = 5
"""Names on one line."""


def _span(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def print_result(console: Console, result: PTQResult, scores: Mapping[str, str]) -> None:
    """Model, ranges and formats, notes, SNR, labelled scores and files; of mode 0 the estimate."""
    report = result.report
    if "nodes" not in report:
        assert result.evaluation is not None, "mode 0 has nothing else"
        console.print(rendered(result.evaluation))
        for key, path in result.paths.items():
            console.print(f"{key:>12}  {path}", highlight=False)
        return
    model = report["model"]
    console.print(
        f"[bold]{model['name']}[/]  {model['nodes']} nodes, {model['parameters']:,} parameters"
        f"  ->  platform {result.plan.platform}, {report['applied']['datapath_bitwidth_mode']} data,"
        f" {report['applied']['weight_bitwidth_mode']} weights"
    )
    table = Table("node", "tensor", "bits", "range", "radix", "scale", "weights", box=None, pad_edge=False)
    for row in report["nodes"]:
        if "exact" in row:
            table.add_row(row["op"], row["tensor"], row["exact"])
            continue
        f = result.plan.formats[row["tensor"]]
        span = row["range"] and "{:.4g} .. {:.4g}".format(*row["range"])
        table.add_row(
            row["op"], row["tensor"], str(f.bits), span or "", _span(f.radix), _span(f.scale.round(3)),
            row["weight_bits"] and f"int{16 if row['weight_bits'] == 15 else row['weight_bits']}",
        )  # fmt: skip
    console.print(table)
    _print_cpu(console, report)
    for text in report["calibration_notes"]:
        console.print(f"note: calibration: {text}", markup=False)
    for note in result.plan.notes:
        console.print(f"note: {note}")
    for hint in report["hints"]:
        console.print(f"hint: {hint}")
    if (tuned := report["learned"].get("fine_tuning")) is not None and tuned["kept"]:
        console.print(
            "fine-tuning: {before:.1f} -> {after:.1f} dB on held-out samples".format(**tuned["snr_db"])
            + f", best behind step {tuned['best_step']} of {tuned['steps']}"
        )
    for name, snr in result.snr_db.items():
        flag = "" if snr >= 20 else "  [bold red]below 20 dB[/]"
        behind = " behind its sigmoid" if name in report["behind_sigmoid"] else ""
        console.print(f"SNR of {name}{behind}: {snr:.1f} dB on {report['snr_samples']} calibration samples{flag}")
    for name, text in scores.items():
        console.print(f"{name}: {text}")
    overflow = report["overflow"]
    console.print(f"accumulators: {overflow['proven']} of {overflow['total']} proven free of overflow")
    for where in overflow["saturating"]:
        console.print(f"  can saturate: {where}")
    _print_built(console, report)
    if (found := result.evaluation) is not None:
        slow = ", ".join(f"{a.label} ({a.share:.0%}, {a.limit})" for a in found.advice)
        caveat = f" ({found.caveat})" if found.caveat else ""
        console.print(f"estimate: {rate(found.fps)} fps, {found.time_ms:.3g} ms{caveat}", highlight=False)
        console.print(f"  costs most: {slow}", highlight=False)
    for key, path in result.paths.items():
        console.print(f"{key:>12}  {path}", highlight=False)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Equal or not, what was compared, and what was left out."""
    said = "equal" if verdict.equal else f"[bold red]different[/]: {', '.join(verdict.differing)}"
    said = said if verdict.tensors else "[bold]nothing to compare[/], all outputs are left out"
    console.print(f"{verdict.model}: {verdict.executor} here and the file's hashes of the probe: {said}")
    console.print(f"  compared: {', '.join(verdict.tensors) or 'nothing'}", highlight=False)
    if verdict.where:
        console.print(f"  first difference of emulator and simulator: {verdict.where}", markup=False)
    if verdict.islands:
        left = ", ".join(verdict.left_out) or "no output"
        console.print(f"  left out, behind float operators ({', '.join(verdict.islands)}): {left}", markup=False)


def _print_built(console: Console, report: Mapping[str, Any]) -> None:
    """The compiled program, and whether the simulator agrees with the emulator."""
    if (built := report["compiled"]) is not None:
        times = ", ".join(f"{ms:.3g} ms with the {cut} cut" for cut, ms in built["estimate_ms"].items())
        console.print(f"compiled: {built['commands']} commands, {times}", highlight=False)
    if (match := report["bit_true_match"]) is not None:
        where = "all layers" if match["layers"] else "outputs"
        said = f"{match['differing']} of {match['codes']:,} codes differ"
        console.print(f"bit-true match: {said} ({match['samples']} samples, {where})", highlight=False)
        if match["first"] is not None:
            console.print(f"  first: {match['first']}", markup=False)
    for name, row in report["qdq_deviation"].items():
        console.print(
            f"QDQ model, {name}: at most {row['codes']:g} codes off on {row['samples']} samples", highlight=False
        )


def _print_cpu(console: Console, report: Mapping[str, Any]) -> None:
    """What does not run on the NPU."""
    if count := len(report["cpu_nodes"]):
        names = ", ".join(report["cpu_nodes"][:_SOME]) + (", ..." if count > _SOME else "")
        what = f"{count} node{'s' * (count > 1)} on the CPU instead of the NPU: {names} (knerex check says why)"
        console.print(what, highlight=False, markup=False)
    if report["islands"]:
        kinds = Counter(island["op"] for island in report["islands"])
        named = ", ".join(f"{count} {op}" for op, count in kinds.most_common())
        console.print(f"runs on the host in float: {named}", highlight=False)


def print_check(console: Console, report: CheckReport) -> None:
    """One line per node of the user's model that is left to run, what was folded away in one, and the counts."""
    console.print(f"[bold]{report.model}[/]  {len(report.nodes)} nodes  ->  platform {report.platform}")
    table = Table("node", "operator", "where", "reason", "suggestion", box=None, pad_edge=False)
    for node in report.nodes:
        if node.where != "folded":
            style = {"CPU": "yellow", "unsupported": "bold red", "unchecked": "dim"}.get(node.where, "")
            cells = (node.name, node.op_type, node.where, node.reason, node.suggestion)
            table.add_row(*(Text(c) for c in cells), style=style)
    console.print(table)
    folded = Counter(n.op_type for n in report.nodes if n.where == "folded")
    if folded:
        kinds = ", ".join(f"{count} {op}" for op, count in folded.most_common())
        console.print(f"folded away: {kinds}", highlight=False)
    console.print("in total: " + ", ".join(f"{count} {where}" for where, count in report.counts.items()))


def print_trial(console: Console, planned: Planned, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """SNR of every output before and after a change, and what of the change was not applied."""
    table = Table("output", "before, dB", "after, dB", box=None, pad_edge=False)
    for name, value in before.items():
        table.add_row(name, f"{value:.1f}", f"{after[name]:.1f}")
    console.print(table)
    for note in planned.plan.notes:
        console.print(f"note: {note}")
