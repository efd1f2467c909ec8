"""The tables of README.md, from the rows of results.json."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_SIDES = ("float", "int8", "w8a16", "ORT u8s8", "NumPy float64")
_BEGIN, _END = "<!-- tables: made by bench.py -->", "<!-- end of tables -->"


def write(rows: Sequence[Row], readme: Path) -> None:
    """Puts the tables between the two marks of the README."""
    text = readme.read_text()
    before, after = text[: text.index(_BEGIN) + len(_BEGIN)], text[text.index(_END) :]
    readme.write_text(f"{before}\n\n{tables(rows)}\n{after}")


def tables(rows: Sequence[Row]) -> str:
    """All tables, Markdown."""
    parts = []
    for title, what, head, line in _TABLES:
        chosen = sorted((r for r in rows if r["what"] == what), key=_order)
        if chosen:
            lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
            lines += [f"| {' | '.join(str(v) for v in line(r))} |" for r in chosen]
            parts.append(f"### {title}\n\n" + "\n".join(lines) + "\n")
    machines = sorted({_machine(r["environment"]) for r in rows})
    return "\n".join([*parts, "Measured on: " + "; ".join(machines) + ".\n"])


def _order(r: Row) -> tuple[Any, ...]:
    return (
        r["environment"]["jax"], str(r.get("model", "")), r.get("batch", 0), r.get("nodes", 0), str(r.get("side", "")),
        str(r.get("method", "")), r.get("samples", 0),
    )  # fmt: skip


def _machine(e: Row) -> str:
    return (
        f"{e['cpu']}, {e['cores']} cores, Python {e['python']}, jax {e['jax']}, NumPy {e['numpy']}, "
        f"ONNX Runtime {e['onnxruntime']}"
    )


def _load(r: Row) -> str:
    held = r["load"]
    return " .. ".join(str(v) for v in held) if isinstance(held, list) else str(held)


def _speed(r: Row) -> Iterable[Any]:
    sides = r["sides"]
    base = sides["ORT float"]
    yield from (r["model"], r["batch"], r["environment"]["jax"], _load(r))
    yield f"{base['cpu_ms']:.1f} / {base['wall_ms']:.1f}"
    for side in _SIDES:
        if side not in sides:
            yield ""
            continue
        s = sides[side]
        digits = 0 if side == "NumPy float64" else 2
        span = f"{s['cpu_ratio_least']:.{digits}f}..{s['cpu_ratio_most']:.{digits}f}"
        yield f"**{s['cpu_ratio']:.{digits}f}** ({span}) / {s['wall_ratio']:.{digits}f}"
    both = "NumPy float64" in sides
    yield f"{sides['NumPy float64']['cpu_ms'] / sides['int8']['cpu_ms']:.0f}" if both else ""


def _readings(r: Row) -> Iterable[Any]:
    yield from (r["model"], r["batch"], r["environment"]["jax"], r["load"], r["tensors"], r["channels"])
    yield from (r["first_over_forward_cpu"], r["second_over_forward_cpu"], r["state_mib"])


def _whole(r: Row) -> Iterable[Any]:
    yield from (
        {"ours": "knerex", "ort": "ONNX Runtime", "quark": "AMD Quark"}[r["side"]],
        r["method"] or "percentile",
        r["samples"],
        r["load"],
    )
    yield from (r["cpu_s"], r["wall_s"], r["before_mib"], r["peak_mib"])


def _bias(r: Row) -> Iterable[Any]:
    yield from (r["model"], r["batch"], r["load"], r["float"], r["fixed"], r["adjust"], r["plan"])
    for label in ("ratio", "ratio_with_plan"):
        median, least, most = r[label]
        yield f"{median} ({least}..{most})"


def _compile(r: Row) -> Iterable[Any]:
    yield from (r["model"], r["environment"]["jax"], r["nodes"], r["load"])
    yield from (f"{r['float_cpu_s']} ({r['float_trace_cpu_s']})", f"{r['fixed_cpu_s']} ({r['fixed_trace_cpu_s']})")
    yield from (f"**{r['fixed_over_float']}**", r["cached_fixed_cpu_s"], f"**{r['cached_over_first']}**")


def _growth(r: Row) -> Iterable[Any]:
    yield from (r["nodes"], r["instructions"], r["load"], r["float_cpu_s"], r["fixed_cpu_s"], r["fixed_over_float"])
    yield f"{1e3 * r['fixed_cpu_s'] / r['nodes']:.1f}"


def _peak(r: Row) -> Iterable[Any]:
    yield from (r["dgemm_gflops_cpu"], r["conv_gflops_cpu"], r["share_of_peak_cpu"])


_TABLES: tuple[tuple[str, str, tuple[str, ...], Callable[[Row], Iterable[Any]]], ...] = (
    (
        "Speed: CPU time over ONNX Runtime float, median (least..most) / wall ratio", "speed",
        ("model", "batch", "jax", "load", "ORT float, cpu / wall ms", "float", "int8", "w8a16", "ORT u8s8",
         "NumPy float64", "NumPy over int8"), _speed,
    ),
    (
        "The NumPy emulator's 3x3 convolution, 64 channels, 56 x 56, 8 samples, GFLOP/s by CPU time", "peak",
        ("float64 matrix product", "convolution", "share"), _peak,
    ),
    (
        "Calibration: one warm batch, CPU time over the float forward", "readings",
        ("model", "batch", "jax", "load", "tensors", "channels", "first reading", "second reading", "counts MiB"),
        _readings,
    ),
    (
        "Calibration of A6's detector from nothing, in a process of its own", "whole",
        ("side", "method", "samples", "load", "CPU s", "wall s", "MiB before", "peak MiB"), _whole,
    ),
    (
        "Sequential bias adjustment of one batch, CPU s, and over one float and one fixed pass", "bias",
        ("model", "batch", "load", "float", "fixed", "adjustment", "planning again", "ratio", "with planning"), _bias,
    ),
    (
        "Compile time of a step of 8 samples, CPU s (of it tracing)", "compile",
        ("model", "jax", "nodes", "load", "float", "fixed", "ratio", "fixed, from the cache", "of the first"), _compile,
    ),
    (
        "Growth of the compile time, residual network, batch 1, CPU s", "growth",
        ("nodes", "instructions", "load", "float", "fixed", "ratio", "ms per node, fixed"), _growth,
    ),
)  # fmt: skip
