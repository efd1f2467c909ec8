"""The scale search on real models, int8 on platform 720, judged on data that calibration never saw; see README.md.

python experiments/weight_rounding/scales.py [--models embedded,A9] [--calibration 128] [--searched 128] [--single]
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS, RealModel, first  # noqa: E402

from knerex_jax import analyze, decompose_onnx, make_plan  # noqa: E402
from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.quantize.config import make_config  # noqa: E402
from knerex_jax.quantize.planner import Planned  # noqa: E402
from knerex_jax.quantize.solve import RangePolicy  # noqa: E402
from knerex_jax.refine.scales import search_scales  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402


def row(name: str, args: argparse.Namespace) -> str:
    real: RealModel = REAL_MODELS[name]()
    inputs = first(real.calibration(None), args.calibration)
    evaluated, labels = real.evaluation(None)
    evaluated, labels = first(evaluated, args.samples), None if labels is None else labels[: args.samples]
    config = make_config(
        p_onnx=real.path, np_txt=inputs, input_shape=real.input_shapes or None, platform="720", batch_size=args.batch
    )
    model = decompose_onnx(real.path, config)
    ranges = analyze(model, inputs, config)
    planned = make_plan(model, ranges, config)
    started, cpu = time.perf_counter(), time.process_time()
    found = search_scales(
        model, ranges, config.widths, first(inputs, args.searched), target=config.target,
        policy=RangePolicy(guard_bits=config.guard), descend=not args.single,
    )  # fmt: skip
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    reference = FloatModel(model).run(evaluated, batch_size=args.batch)

    def judged(plan: Planned) -> tuple[float, dict[str, float]]:
        outputs = FixedModel(Bie(plan.program, plan.constants, plan.plan, {})).run(evaluated, batch_size=args.batch)
        return min(snr_db(reference[t], outputs[t]) for t in reference), real.metrics(outputs, reference, labels)

    (before, given), (after, searched) = judged(planned), judged(found.planned)
    scores = ", ".join(f"{k} {given[k]:.4g} -> {v:.4g}" for k, v in searched.items())
    held = " / ".join(f"{-10 * np.log10(found.noise[key]):.1f}" for key in ("given", "single", "each"))
    used = f"{len(next(iter(inputs.values())))}, {min(args.searched, len(next(iter(inputs.values()))))}"
    single = f"guard {found.single.guard_bits}, factor {found.single.factor:g}"
    return (
        f"| {name} | {used} / {len(next(iter(evaluated.values())))} | {held}{' (not searched)' if args.single else ''} "
        f"| {single} | {found.chosen} | {before:.1f} -> {after:.1f} | {scores} | {wall:.0f} ({cpu:.0f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="embedded,A9")
    parser.add_argument("--calibration", type=int, default=128, help="samples that ranges see")
    parser.add_argument("--searched", type=int, default=128, help="how many of them the search sees")
    parser.add_argument("--samples", type=int, default=1000, help="samples that judge; at most what there is")
    parser.add_argument("--single", action="store_true", help="no search by group")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    headers = (
        "model", "ranges, search / evaluation samples", "held-out dB: given / single / each", "best single", "chosen",
        "SNR dB", "score", "seconds (CPU)",
    )  # fmt: skip
    print(f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}", flush=True)
    for name in args.models.split(","):
        print(row(name, args), flush=True)


if __name__ == "__main__":
    main()
