"""Fine-tuning against post-training quantization on real models, judged on data that neither saw; see README.md.

python experiments/qat/table.py [--rows "embedded w4a8" "A9 w4a8"] [--out experiments/qat/results]
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from crops import coloured_crops  # noqa: E402
from real_models import REAL_MODELS, RealModel, first  # noqa: E402

from knerex_jax.api import LEARN_SAMPLES  # noqa: E402
from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.flow import decompose_onnx, make_plan, measure, ranges_of  # noqa: E402
from knerex_jax.graph.ir import Model  # noqa: E402
from knerex_jax.improve import Candidate, choose_ranges, refine_best, searched_configs  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.qat.config import QATConfig  # noqa: E402
from knerex_jax.qat.run import tune_plan  # noqa: E402
from knerex_jax.quantize.config import PTQConfig, make_config  # noqa: E402
from knerex_jax.quantize.planner import Planned  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402

WIDTHS: dict[str, tuple[str, dict[str, Any]]] = {"w4a8": ("730", {"weight_bitwidth_mode": "int4"}), "int8": ("720", {})}


@dataclass(frozen=True)
class Row:
    """A model at a width, and how it is trained.

    Attributes:
      calibration: samples that calibrate, teach and (one of four) judge.
      evaluation: samples of the table, at most; disjoint from the others.
      training: fields of `QATConfig`.
      ptq: options of the PTQ that training starts from; none: plain percentages, nearest rounding.
      crops: so many coloured crops teach and judge instead of the calibration samples.
    """

    calibration: int
    evaluation: int
    training: dict[str, Any]
    ptq: dict[str, Any] = field(default_factory=dict)
    crops: int = 0


SEARCHED = {"range_search": True}
LEARNED = {**SEARCHED, "weight_rounding": "learned", "optimize": 1}
ROWS: dict[str, Row] = {
    "embedded w4a8": Row(200, 1000, {"steps": 150, "learning_rate": 0.002, "train_batch": 32}),
    "A9 w4a8": Row(500, 1000, {"steps": 300, "learning_rate": 0.002, "train_batch": 16}),
    "A3_front w4a8": Row(384, 200, {"steps": 300, "learning_rate": 0.002, "train_batch": 8}, SEARCHED),
    "A6_cls int8": Row(512, 400, {"steps": 300, "learning_rate": 0.00005, "train_batch": 8}),
    "A1 int8": Row(
        128, 200, {"steps": 600, "learning_rate": 0.0001, "train_batch": 8, "mixup": 0.5, "evaluate_every": 50},
        LEARNED, crops=2048,
    ),
}


def judged(real: RealModel, plan: Planned, inputs: Any, reference: Any, labels: Any) -> dict[str, Any]:
    outputs = FixedModel(Bie(plan.program, plan.constants, plan.plan, {})).run(inputs, batch_size=16)
    return {
        "snr_db": {t: snr_db(reference[t], outputs[t]) for t in reference},
        "scores": real.metrics(outputs, reference, labels),
    }


def row_of(key: str, row: Row, more: dict[str, Any]) -> dict[str, Any]:
    name, width = key.split()
    real: RealModel = REAL_MODELS[name]()
    inputs = first(real.calibration(row.calibration), row.calibration)
    evaluated, labels = real.evaluation(row.evaluation)
    evaluated, labels = first(evaluated, row.evaluation), None if labels is None else labels[: row.evaluation]
    platform, options = WIDTHS[width]
    config = make_config(
        p_onnx=real.path, np_txt=inputs, input_shape=real.input_shapes or None, platform=platform, batch_size=16,
        **options, **row.ptq,
    )  # fmt: skip
    model = decompose_onnx(real.path, config)
    nearest, start, rule = plans(model, inputs, config)
    reference = FloatModel(model).run(evaluated, batch_size=16)
    found = {"nearest": judged(real, nearest, evaluated, reference, labels)}
    if row.ptq:
        found["start"] = judged(real, start, evaluated, reference, labels) | {"rule": rule}
    _tell(f"PTQ {found}", 0, None)
    qat = QATConfig(**{"evaluate_every": 25, "warmup": 10, **row.training, **more})
    taught = dict.fromkeys(inputs, coloured_crops(row.crops)) if row.crops else inputs
    wall, cpu = time.perf_counter(), time.process_time()
    tuned = tune_plan(start, model, taught, config, qat, progress=_tell)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    found["fine-tuned"] = judged(real, tuned.planned, evaluated, reference, labels)
    return {
        "row": key, "platform": platform, "found": found, "float": real.metrics(reference, reference, labels),
        "samples": [*tuned.samples, len(next(iter(evaluated.values())))], "training": tuned.to_json(),
        "config": qat.to_json(), "cpu_s": cpu, "wall_s": wall,
    }  # fmt: skip


def plans(model: Model, inputs: Any, config: PTQConfig) -> tuple[Planned, Planned, str]:
    """Plain percentages with nearest rounding; the PTQ that training starts from, as `run_ptq` makes it; its rule."""
    searched = searched_configs(config)
    measured = measure(model, inputs, config, also=searched.values())
    plain = Candidate("plain", config, ranges_of(measured, config))
    nearest = make_plan(model, plain.ranges, config)
    samples = first(inputs, LEARN_SAMPLES)
    candidates = choose_ranges(model, measured, samples, config).candidates(config) if searched else (plain,)
    plans = [(c, make_plan(model, c.ranges, c.config)) for c in candidates]
    refined = refine_best(model, plans, samples, config)
    return nearest, refined.planned, refined.candidate.label


def _tell(stage: str, done: int, total: int | None) -> None:
    if done % 25 == 0 or done == total:
        print(f"{stage} {done} of {total}", file=sys.stderr, flush=True)


def line(made: dict[str, Any]) -> str:
    found = made["found"]
    worst = {k: min(v["snr_db"].values()) for k, v in found.items()}
    mean = {k: float(np.mean(list(v["snr_db"].values()))) for k, v in found.items()}
    scores = ", ".join(
        f"{k} {v:.4g}: {found['nearest']['scores'][k]:.4g} -> {found['fine-tuned']['scores'][k]:.4g}"
        for k, v in made["float"].items()
    )
    start = f"{worst['start']:.1f} ({found['start']['rule']})" if "start" in worst else ""
    held = made["training"]["snr_db"]
    return (
        f"| {made['row']} | {made['platform']} | {' / '.join(map(str, made['samples']))} | {made['config']['steps']} "
        f"(best {made['training']['best_step']}) | {worst['nearest']:.1f} | {start} | {worst['fine-tuned']:.1f} "
        f"| **{worst['fine-tuned'] - worst['nearest']:+.1f}** ({mean['fine-tuned'] - mean['nearest']:+.1f}) "
        f"| {held['before']:.1f} -> {held['after']:.1f} | {scores} | {made['cpu_s']:.0f} ({made['wall_s']:.0f}) |"
    )


HEADERS = (
    "model", "platform", "taught / judged / evaluated", "steps", "PTQ nearest, dB", "PTQ it starts from, dB (rule)",
    "fine-tuned, dB", "gain (mean of outputs)", "held-out dB", "score, float: nearest -> fine-tuned",
    "CPU seconds (wall)",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--steps", type=int, help="instead of the row's")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    path = args.out.with_suffix(".json")
    held = json.loads(path.read_text()) if path.exists() else {}
    more = {} if args.steps is None else {"steps": args.steps}
    for key in args.rows:
        held[key] = row_of(key, ROWS[key], more)
        path.write_text(json.dumps(held, indent=1))
        print(line(held[key]), file=sys.stderr, flush=True)
    rows = [line(held[k]) for k in ROWS if k in held]
    print(f"| {' | '.join(HEADERS)} |", "|" + "---|" * len(HEADERS), *rows, sep="\n")


if __name__ == "__main__":
    main()
