"""Float and fixed accuracy of the real models, one row per model, platform and width; see README.md.

python experiments/2026-11-23_accuracy/table.py [--models A1,A9] [--oracle 4] [--out table.json]
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from real_models import REAL_MODELS, oracle_mismatches  # noqa: E402

from knerex_jax import api  # noqa: E402
from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.quantize.config import PTQConfig  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402

WIDTHS = {
    "int8": {},
    "w8a16": {"datapath_bitwidth_mode": "int16", "model_in_bitwidth_mode": "int16", "model_out_bitwidth_mode": "int16"},
    "int16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "weight", "model_in", "model_out")},
}
ON_520 = ("embedded", "A1", "A9")


def rows(name: str, oracle_samples: int, pct: float):
    """Yields one result per platform and width; calibrates once per platform."""
    model = REAL_MODELS[name]()
    inputs, labels = model.evaluation
    for platform in ("720", "520") if name in ON_520 else ("720",):
        base = PTQConfig(platform=platform, data_analysis_pct=pct)
        decomposed = api.decompose_onnx(model.path, base)
        reference = FloatModel(decomposed).run(inputs)
        ranges = api.analyze(decomposed, dict(model.calibration), base)
        for width, options in WIDTHS.items():
            if platform == "520" and width != "int8":
                continue
            started = time.perf_counter()
            planned = api.make_plan(decomposed, ranges, replace(base, **options))
            fixed = FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
            outputs = fixed.run(inputs)
            snr = {t: snr_db(reference[t], outputs[t]) for t in reference}
            scores = model.metrics(outputs, reference, labels)
            plain = model.metrics(reference, reference, labels)
            wrong = None
            if oracle_samples:
                few = {k: v[:oracle_samples] for k, v in inputs.items()}
                wrong = len(oracle_mismatches(planned, fixed, few))
            yield {
                "model": name, "platform": platform, "width": width, "samples": len(next(iter(inputs.values()))),
                "snr_db": snr, "fixed": scores, "float": plain, "oracle_mismatches": wrong,
                "seconds": time.perf_counter() - started,
            }  # fmt: skip


def line(row: dict) -> str:
    """One markdown row."""
    snr = " / ".join(f"{v:.1f}" for v in row["snr_db"].values())
    scores = ", ".join(f"{k} {row['float'][k]:.4g} -> {v:.4g}" for k, v in row["fixed"].items())
    wrong = "-" if row["oracle_mismatches"] is None else row["oracle_mismatches"]
    return f"| {row['model']} | {row['platform']} | {row['width']} | {snr} | {scores} | {wrong} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(REAL_MODELS))
    parser.add_argument("--oracle", type=int, default=0, help="samples to compare with the independent oracle")
    parser.add_argument("--pct", type=float, default=0.999)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.default_backend()}, numpy {np.__version__}\n")
    print("| model | platform | width | SNR dB per output | float -> fixed | tensors unlike the oracle |")
    print("|---|---|---|---|---|---|")
    found = []
    for name in args.models.split(","):
        for row in rows(name, args.oracle, args.pct):
            found.append(row)
            print(line(row), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
