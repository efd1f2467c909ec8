"""Nearest and learned weight rounding on real models, judged on data that calibration never saw; see README.md.

python experiments/weight_rounding/run.py [--models embedded,A9,A1] [--widths w4a8,w8a8] [--calibration 128]
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS, RealModel, first  # noqa: E402

from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.flow import analyze, decompose_onnx, make_plan  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.quantize.config import make_config  # noqa: E402
from knerex_jax.quantize.planner import Planned  # noqa: E402
from knerex_jax.refine.rounding import learn_rounding  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402

WIDTHS = {"w4a8": ("730", {"weight_bitwidth_mode": "int4"}), "w8a8": ("720", {})}


def row(name: str, width: str, calibration: int, samples: int, batch: int) -> str:
    real: RealModel = REAL_MODELS[name]()
    inputs = first(real.calibration(None), calibration)
    evaluated, labels = real.evaluation(None)
    evaluated, labels = first(evaluated, samples), None if labels is None else labels[:samples]
    platform, options = WIDTHS[width]
    config = make_config(
        p_onnx=real.path, np_txt=inputs, input_shape=real.input_shapes or None, platform=platform, batch_size=batch,
        **options,
    )  # fmt: skip
    model = decompose_onnx(real.path, config)
    planned = make_plan(model, analyze(model, inputs, config), config)
    started, cpu = time.perf_counter(), time.process_time()
    rounded = learn_rounding(planned, inputs, target=config.target)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    reference = FloatModel(model).run(evaluated, batch_size=batch)

    def judged(plan: Planned) -> tuple[float, dict[str, float]]:
        outputs = FixedModel(Bie(plan.program, plan.constants, plan.plan, {})).run(evaluated, batch_size=batch)
        return min(snr_db(reference[t], outputs[t]) for t in reference), real.metrics(outputs, reference, labels)

    (before, nearest), (after, learned) = judged(planned), judged(rounded.planned)
    float_scores = real.metrics(reference, reference, labels)
    scores = ", ".join(f"{k} {v:.4g}: {nearest[k]:.4g} -> {learned[k]:.4g}" for k, v in float_scores.items())
    kept, clipped = (sum(getattr(r, key) and r.kept for r in rounded.records) for key in ("kept", "clipped"))
    used, count = len(next(iter(inputs.values()))), len(next(iter(evaluated.values())))
    return (
        f"| {name} | {platform} {width} | {used} / {count} | {before:.1f} -> {after:.1f} | {scores} "
        f"| {kept} ({clipped}) of {len(rounded.records)} | {wall:.0f} ({cpu:.0f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="embedded,A9,A1")
    parser.add_argument("--widths", default="w4a8,w8a8")
    parser.add_argument("--calibration", type=int, default=128, help="samples that ranges and rounding see")
    parser.add_argument("--samples", type=int, default=1000, help="samples that judge; at most what there is")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    headers = (
        "model", "width", "calibration / evaluation", "SNR dB, nearest -> learned", "score, float: nearest -> learned",
        "nodes kept (clipped)", "seconds (CPU)",
    )  # fmt: skip
    print(f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}", flush=True)
    for name in args.models.split(","):
        for width in args.widths.split(","):
            print(row(name, width, args.calibration, args.samples, args.batch), flush=True)


if __name__ == "__main__":
    main()
