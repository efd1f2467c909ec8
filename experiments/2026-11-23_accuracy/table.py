"""Float and fixed accuracy of the real models, one row per model, platform and width; see README.md.

python experiments/2026-11-23_accuracy/table.py [--models A1,A9] [--oracle 1] [--out FOLDER/NAME] [--resume]
"""

import argparse
import json
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import relative_error  # noqa: E402
from real_models import (  # noqa: E402
    REAL_MODELS,
    RealModel,
    every_tensor,
    first,
    oracle_mismatches,
    ort_run,
    stage_error,
)

import knerex_jax as kx  # noqa: E402
from knerex_jax.artifacts.stages import finite  # noqa: E402
from knerex_jax.metrics import behind_sigmoids, snr_db  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402
from knerex_jax.zoo import ZOO  # noqa: E402

WIDTHS = {
    "int8": {},
    "w8a16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "model_in", "model_out")},
    "int16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "weight", "model_in", "model_out")},
}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "searched": {"range_search": True},
    "rounded": {"range_search": True, "weight_rounding": "learned"},
    "learned": {"range_search": True, "weight_rounding": "learned", "optimize": 3},
}
"""What is learned from the calibration data, apart from ranges at a percentage; one for all models."""
SCORE = {
    "embedded": "top1", "A1": "top1", "A3_front": "auc", "A3_back": "auc", "A4": "characters_found",
    "A5": "character_accuracy", "A6_cls": "top1", "A7": "notes_right", "A8": "auc", "A9": "top1",
}  # fmt: skip
"""The measure by labels whose loss gets an interval."""
OVERRIDES: dict[str, dict[str, dict[str, Any]]] = {
    # What a logarithm reads spans more decades than 8 bits have: magnitude and power of every bin in 15 bits.
    "A7": {
        f"*{name}": {"bitwidth": 15} for name in
        ("cq_t2010v2_1/Sqrt_1", "transpose_70", "normalized_log_1/Square", "normalized_log_1/add")
    },
}  # fmt: skip
"""Widths of single nodes, by model."""
RESAMPLES = 200
HEADERS = (
    "model", "platform", "width", "pct; samples", "worst dB", "SNR dB per output", "float -> fixed", "paired 95 %",
    "islands", "worst stage error", "unlike the oracle", "seconds",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A model with its data and what it gives in float, made once for all its rows."""

    name: str
    real: RealModel
    calibration_count: int | None
    sample_count: int | None
    batch: int

    @cached_property
    def calibration(self) -> dict[str, np.ndarray]:
        return dict(self.real.calibration(self.calibration_count))

    @cached_property
    def evaluation(self) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        inputs, labels = self.real.evaluation(self.sample_count)
        return dict(inputs), labels

    @cached_property
    def reference(self) -> dict[str, np.ndarray]:
        """Outputs of the float model as it was read."""
        model = FloatModel.load(self.real.path, input_shapes=self.real.input_shapes)
        return model.run(self.evaluation[0], batch_size=self.batch)


def closeness(reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, float | bool]:
    """Per output its SNR in dB; for integers whether all are equal."""
    return {
        t: snr_db(v, outputs[t]) if v.dtype.kind == "f" else bool(np.array_equal(v, outputs[t]))
        for t, v in reference.items()
    }


def paired_loss(
    subject: Subject, outputs: Mapping[str, np.ndarray], resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """95 % interval of (fixed - float) of the model's measure by labels, drawing samples again, the same for both."""
    labels, score, reference = subject.evaluation[1], SCORE.get(subject.name), subject.reference
    if labels is None or score is None:
        return None
    count, rng = len(labels), np.random.default_rng(0)

    def drawn(places: np.ndarray) -> float:
        made, exact = ({t: v[places] for t, v in values.items()} for values in (outputs, reference))
        fixed, real = (subject.real.metrics(values, exact, labels[places])[score] for values in (made, exact))
        return fixed - real

    found = [drawn(rng.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def stage_errors(subject: Subject, result: kx.PTQResult) -> dict[str, float]:
    """Largest relative error of our float model and of every stage file on ONNX Runtime, against the model there."""
    one = first(subject.evaluation[0], 1)
    expected = ort_run(subject.real.path, one)
    ours = first(subject.reference, 1)
    errors = {"float": max(relative_error(v, ours[t].reshape(v.shape)) for t, v in expected.items())}
    for stage in ("origin", "decomposed", "scaled"):
        plan = result.plan if stage == "scaled" else None
        errors[stage] = stage_error(expected, result.paths[stage], one, plan)
    return errors


def mismatches(
    result: kx.PTQResult,
    fixed: FixedModel,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    count: int,
) -> list[str]:
    """Tensors unlike the oracle's in the first samples, and outputs that change when all tensors are asked for."""
    few = first(inputs, count)
    held = every_tensor(fixed, few)
    moved = [t for t in outputs if not np.array_equal(fixed.dequantize(t, held[t]), outputs[t][:count])]
    return [*oracle_mismatches(result.planned, fixed, few), *(f"{t}: other codes without taps" for t in moved)]


def measure(subject: Subject, platform: str, width: str, args: argparse.Namespace) -> Row:
    """Quantizes from file to file and evaluates what was written."""
    inputs, labels = subject.evaluation
    reference = subject.reference
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = kx.run_ptq(
            p_onnx=subject.real.path, np_txt=subject.calibration, input_shape=subject.real.input_shapes,
            platform=platform, data_analysis_pct=args.pct, batch_size=subject.batch, p_output=folder, **WIDTHS[width],
            **RECIPES[args.recipe], **_sigmoids(subject.name, args.sigmoids),
            quan_config=_overrides(subject.name, args),
        )  # fmt: skip
        fixed = FixedModel.load(result.paths["bie"])
        quantized = time.perf_counter()
        outputs = fixed.run(inputs, batch_size=subject.batch)
        behind = _sigmoids(subject.name, args.sigmoids).get("sigmoid_outputs", ())
        close = closeness(*(behind_sigmoids(v, behind) for v in (reference, outputs)))
        searched = result.report["learned"].get("range_search", {})
        return {
            "worst_db": min(v for v in close.values() if not isinstance(v, bool)),
            "closeness": close,
            "float": subject.real.metrics(reference, reference, labels),
            "fixed": subject.real.metrics(outputs, reference, labels),
            "loss": paired_loss(subject, outputs),
            "islands": result.report["islands"],
            "chosen": searched.get("chosen"),
            "held_out": searched.get("held_out"),
            "stage_errors": stage_errors(subject, result),
            "bytes": {key: path.stat().st_size for key, path in result.paths.items()},
            "oracle_mismatches": mismatches(result, fixed, inputs, outputs, args.oracle) if args.oracle else None,
            "tensors": len(fixed.program.shapes),
            "calibration": result.ranges.samples,
            "samples": len(next(iter(inputs.values()))),
            "ptq_seconds": quantized - started,
            "seconds": time.perf_counter() - started,
        }


def _overrides(name: str, args: argparse.Namespace) -> dict[str, Any] | None:
    wide = {"output_nodes": {"bitwidth": 15}} if args.wide_outputs else {}
    return {**wide, **(OVERRIDES.get(name, {}) if args.overrides else {})} or None


def _sigmoids(name: str, wanted: bool) -> dict[str, Any]:
    """What a user tells of a model whose outputs sigmoids follow."""
    behind = ZOO[name].sigmoid_outputs if wanted and name in ZOO else ()
    return {"quantize_mode": "post_sigmoid", "sigmoid_outputs": behind} if behind else {}


def rows(args: argparse.Namespace, done: Mapping[tuple, Row]) -> Iterator[Row]:
    """Yields every asked row, the ones that are done unchanged; one that fails carries "error" instead of figures."""
    for name in args.models:
        subject = Subject(name, REAL_MODELS[name](), args.calibration, args.samples, args.batch)
        for platform, width in ((p, w) for p in args.platforms for w in args.widths if w in widths_of(p)):
            row = {"model": name, "platform": platform, "width": width, "asked": asked(args)}
            if key(row) in done:
                yield done[key(row)]
                continue
            try:
                row |= measure(subject, platform, width, args)
            except Exception as error:  # hours of other rows must not be lost to one
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {error}"
            jax.clear_caches()
            yield row


def widths_of(platform: str) -> tuple[str, ...]:
    """The widths a platform has; 520 knows 8 bits alone."""
    return tuple(WIDTHS) if 15 in kx.TARGETS[platform].data_bits else ("int8",)


def asked(args: argparse.Namespace) -> Row:
    """The settings that a row depends on."""
    names = ("pct", "calibration", "samples", "oracle", "recipe", "wide_outputs", "sigmoids", "overrides")
    return {name: getattr(args, name) for name in names}


def key(row: Row) -> tuple:
    return (row["model"], row["platform"], row["width"], *row["asked"].values())


def line(row: Row) -> str:
    """One markdown row."""
    asked = row["asked"]
    rule = f"{asked['pct']:g}" if asked["recipe"] == "plain" else row.get("chosen") or asked["recipe"]
    width = row["width"] + ", outputs 15" * bool(asked.get("wide_outputs"))
    width += ", sigmoids behind scores" * bool(_sigmoids(row["model"], asked.get("sigmoids", False)))
    width += ", widths of nodes" * (asked.get("overrides", False) and row["model"] in OVERRIDES)
    start = f"| {row['model']} | {row['platform']} | {width} | {rule}; "
    if "error" in row:
        return start + f" | failed | {row['error'].splitlines()[0]} |" + " |" * (len(HEADERS) - 6)
    words = {True: "equal", False: "unequal"}
    close = " / ".join(words[v] if isinstance(v, bool) else f"{float(v):.1f}" for v in row["closeness"].values())
    scores = ", ".join(f"{k} {float(row['float'][k]):.4g} -> {float(v):.4g}" for k, v in row["fixed"].items())
    wrong = "-" if row["oracle_mismatches"] is None else f"{len(row['oracle_mismatches'])} of {row['tensors']}"
    stage, error = max(row["stage_errors"].items(), key=lambda item: item[1])
    loss = "-" if row["loss"] is None else "{:+.4f} .. {:+.4f}".format(*row["loss"])
    cells = (
        f"{row['calibration']} / {row['samples']}", f"{float(row['worst_db']):.1f}", close, scores, loss,
        len(row["islands"]), f"{stage} {error:.0e}", wrong, f"{row['seconds']:.0f}",
    )  # fmt: skip
    return start + " | ".join(map(str, cells)) + " |"


def heading() -> str:
    return f"| {' | '.join(HEADERS)} |\n|{'---|' * len(HEADERS)}"


def write(found: list[Row], out: Path) -> None:
    """Both forms of the table, after every row."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(finite({"rows": found}), indent=1, default=float))
    out.with_suffix(".md").write_text("\n".join([heading(), *map(line, found)]) + "\n")


def main() -> int:
    args = _arguments()
    stored = args.out.with_suffix(".json")
    kept = json.loads(stored.read_text())["rows"] if args.resume and stored.is_file() else []
    done = {key(row): row for row in kept if "error" not in row}
    print(f"jax {jax.__version__}, {jax.default_backend()}, numpy {np.__version__}\n\n{heading()}", flush=True)
    found: dict[tuple, Row] = dict(done)
    for row in rows(args, done):
        found[key(row)] = row
        print(line(row), flush=True)
        write(list(found.values()), args.out)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB", file=sys.stderr)
    return int(any("error" in row or row["oracle_mismatches"] for row in found.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=_listed, default=list(REAL_MODELS))
    parser.add_argument("--platforms", type=_listed, default=["720", "730"])
    parser.add_argument("--widths", type=_listed, default=list(WIDTHS))
    parser.add_argument("--pct", type=float, default=0.999, help="data_analysis_pct; detectors and transformers want 1")
    parser.add_argument("--recipe", choices=RECIPES, default="plain", help="what is learned from the calibration data")
    parser.add_argument("--wide-outputs", action="store_true", help="outputs of 15 bits (quan_config)")
    parser.add_argument("--sigmoids", action="store_true", help="say what a sigmoid follows (A3); SNR behind it")
    parser.add_argument("--overrides", action="store_true", help="widths of single nodes as in OVERRIDES (A7)")
    parser.add_argument("--oracle", type=int, default=0, help="samples of which every tensor meets the oracle")
    parser.add_argument("--calibration", type=int, help="calibration samples; default: the model's count")
    parser.add_argument("--samples", type=int, help="evaluation samples; default: all")
    parser.add_argument("--batch", type=int, default=8, help="samples per compiled step; decides the memory")
    parser.add_argument("--out", type=Path, default=ROOT / "kneron_flow" / "accuracy", help="for .json and .md")
    parser.add_argument("--resume", action="store_true", help="keep the rows of a former run in the .json")
    return parser.parse_args()


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
