"""The verdict: what a reader has to know first, as a function of the rest of the report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from knerex_jax.artifacts.report import FLAG_BELOW_DB
from knerex_jax.errors import ConfigError

Level = Literal["good", "warning", "alarm"]

MOST_LOST = 0.01
"""A labelled score that falls by more is a warning: the published promise for most models."""

_HEADLINES: Mapping[Level, str] = {
    "good": "No alarm: every output is above 20 dB",
    "warning": "No alarm, but read the remarks",
    "alarm": "Alarm: look at this before you use the model",
}


def with_score(report: Mapping[str, Any], labelled: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The report with its section "score" made anew, in front.

    Args:
      report: all other sections.
      labelled: scores on labelled data, name -> {"float", "fixed", "samples"}; default: those that it has.

    Raises:
      ConfigError: a labelled score is not such a mapping of numbers.
    """
    rest = {k: v for k, v in report.items() if k != "score"}
    held = report.get("score", {}).get("labelled", {})
    scores = dict(held if labelled is None else {**held, **{k: _checked(k, v) for k, v in labelled.items()}})
    alarms = [*_alarms(rest), *_lost(scores)]
    levels = [a["level"] for a in alarms]
    level: Level = "alarm" if "alarm" in levels else "warning" if "warning" in levels else "good"
    estimated = "snr_db" not in rest
    summary = (rest.get("performance") or {}).get("summary", {})
    match = rest.get("bit_true_match")
    score = {
        "level": level,
        "headline": "Estimate only: nothing was quantized" if estimated and level != "alarm" else _HEADLINES[level],
        "alarms": sorted(alarms, key=lambda a: a["level"] != "alarm"),
        "outputs": sorted((_output(rest, t) for t in rest.get("snr_db", {})), key=lambda o: not o["flagged"]),
        "labelled": scores,
        "fps": summary.get("fps"),
        "time_ms": summary.get("ITC(ms)"),
        "bit_true_match": None if match is None else bool(match["equal"]),
    }
    return {"format": rest.pop("format", 2), "score": score, **rest}


def number(value: Any) -> float:
    """A number of a report, which writes infinities as text; None is not a number."""
    return float("nan") if value is None else float(value)


def shortened(name: str, most: int = 44) -> str:
    """A long name without its beginning: what tells nodes apart stands at the end."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(map(shortened, names[:most])) + (" …" if len(names) > most else "")


def _checked(name: str, score: Mapping[str, Any]) -> dict[str, Any]:
    try:
        kept = {k: float(score[k]) for k in ("float", "fixed")}
        return {**kept, "samples": int(score["samples"])} if score.get("samples") is not None else kept
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ConfigError(
            f"the score {name!r} is no mapping with numbers 'float' and 'fixed'", where=f"add_scores, {score!r}",
            fix='write {"top-1": {"float": 0.98, "fixed": 0.97, "samples": 1000}}',
        ) from e  # fmt: skip


def _alarm(level: Level, what: str, fix: str = "", see: str = "") -> dict[str, str]:
    """`see`: the section of the page that says more."""
    return {"level": level, "what": what, "fix": fix, "see": see}


def _output(report: Mapping[str, Any], output: str) -> dict[str, Any]:
    """One output: its SNR, and what its channels say."""
    snr = number(report["snr_db"][output])
    behind = output in report.get("behind_sigmoid", ())
    own = {"name": output, "snr_db": report["snr_db"][output], "behind_sigmoid": behind}
    return own | {"flagged": not snr >= FLAG_BELOW_DB} | dict(report.get("outputs", {}).get(output, {}))


def _alarms(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    yield from _of_outputs(report)
    match, built = report.get("bit_true_match"), report.get("compiled")
    if match is not None and not match["equal"]:
        first = match["first"]
        where = (
            f"; first: {first}" if isinstance(first, str) else f"; first in tensor {first['tensor']}" if first else ""
        )
        yield _alarm(
            "alarm", f"emulator and simulator differ in {match['differing']} of {match['codes']:,} codes{where}",
            "this is a fault of the toolkit, not of the model: please report it with the bie",
        )  # fmt: skip
    overflow = report.get("overflow", {})
    if saturating := overflow.get("saturating"):
        yield _alarm(
            "warning",
            f"accumulators could saturate in {len(saturating)} of {overflow['total']} places: {_some(saturating)} (for"
            " the worst input there can be; the SNR contains what saturates on these samples)",
            "a smaller radix of these nodes: knerex whatif FOLDER --data DATA --set NODE.radix=N says what it gives",
        )  # fmt: skip
    performance = report.get("performance")
    if performance and performance["unsupported"]:
        names = _some([n["name"] for n in performance["unsupported"]])
        yield _alarm(
            "alarm", f"{len(performance['unsupported'])} nodes cannot run anywhere: {names}",
            "operator support says of each what would help", "support",
        )  # fmt: skip
    if "snr_db" in report and built is None:
        yield _alarm("warning", "the model was not compiled, so it has no nef and no estimate", "see the notes for why")
    cpu = list(report.get("cpu_nodes") or (performance or {}).get("cpu_nodes") or ())
    if cpu:
        run, their = (f"{len(cpu)} nodes run", "their") if len(cpu) > 1 else ("1 node runs", "its")
        yield _alarm(
            "warning", f"{run} on the CPU instead of the NPU ({_some(cpu)}): the frame rate leaves {their} time out",
            "operator support says of each why, and what would help", "support",
        )  # fmt: skip


def _of_outputs(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    bad = report.get("first_bad")
    hint = f"start at node {bad['node']}, the first bad one; " if bad else ""
    help = hint + "try datapath_range_method='mmse', range_search, optimize=3, or 16 bits (error_budget says where)"
    for output, value in report.get("snr_db", {}).items():
        snr, row = number(value), report.get("outputs", {}).get(output, {})
        if row.get("constant"):
            yield _alarm(
                "alarm", f"output {output} is constant: whatever the input, the same codes ({snr:.1f} dB)", help
            )
        elif not snr >= FLAG_BELOW_DB:
            behind = " behind its sigmoid" if output in report.get("behind_sigmoid", ()) else ""
            yield _alarm("alarm", f"output {output} has {snr:.1f} dB{behind}, below {FLAG_BELOW_DB:g} dB", help)
        if row.get("collapsed") and not row["constant"]:
            named = ", ".join(map(str, row["collapsed_channels"]))
            more = " ..." if row["collapsed"] > len(row["collapsed_channels"]) else ""
            harmless = row["probabilities"]
            yield _alarm(
                "warning" if harmless else "alarm",
                f"{row['collapsed']} of {row['channels']} channels of output {output} are constant in integers, but not"
                f" in float: {named}{more}",
                "probabilities smaller than one code: give the model without its Softmax, or model_out_bitwidth_mode="
                "'int16'" if harmless else
                "one scale for unlike channels? give boxes and scores as outputs of their own, or"
                " model_out_bitwidth_mode='int16'",
            )  # fmt: skip


def _lost(labelled: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    for name, score in labelled.items():
        lost = score["float"] - score["fixed"]
        if lost > MOST_LOST:
            yield _alarm(
                "warning", f"{name} falls by {lost:.4g}, from {score['float']:.4g} to {score['fixed']:.4g}",
                "the options under SNR help here, too",
            )  # fmt: skip
