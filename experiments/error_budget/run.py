"""Error budgets of real models, and what their suggestions promise and deliver on other samples; see README.md.

python experiments/error_budget/run.py [--models embedded,A9,A6_cls,A1] [--samples 16] [--batch 8]
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.diagnose.budget import error_budget  # noqa: E402
from knerex_jax.diagnose.suggest import merge_entries, suggest_overrides  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.quantize.planner import Planned  # noqa: E402

Arrays = dict[str, np.ndarray]
TOP = (1, 3, 5)


def worst_db(planned: Planned, inputs: Arrays, reference: Arrays, batch: int) -> float:
    """SNR of the worst output on samples, in real integers."""
    fixed = kx.FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    found = fixed.run(inputs, batch_size=batch)
    return min(snr_db(reference[t], found[t]) for t in reference)


def study(name: str, args: argparse.Namespace) -> None:
    """Prints the budget of one model, its suggestions, and what the first of them bring."""
    real = REAL_MODELS[name]()
    shapes = real.input_shapes or None

    def config(entries: dict | None = None) -> kx.PTQConfig:
        return kx.PTQConfig(platform=args.platform, input_shape=shapes, quan_config=entries)

    model = kx.decompose_onnx(real.path, config())
    calibration = dict(real.calibration(args.calibration))
    others = dict(real.evaluation(args.evaluation)[0])
    ranges = kx.analyze(model, calibration, config())
    planned = kx.make_plan(model, ranges, config())

    started = time.perf_counter()
    budget = error_budget(planned, calibration, samples=args.samples, batch_size=args.batch)
    seconds = time.perf_counter() - started
    print(f"## {name}: budget in {seconds:.0f} s\n\n{budget.table(10)}\n", flush=True)

    found = suggest_overrides(budget, planned, count=max(TOP))
    for s in found:
        print(f"{s.gain_db:+.1f} dB  {s.why}: {', '.join(s.entries)}")
    samples = (
        ("the budget's samples", {t: v[: args.samples] for t, v in calibration.items()}),
        ("other samples", others),
    )
    reference = {label: kx.FloatModel(model).run(x, batch_size=args.batch) for label, x in samples}
    before = {label: worst_db(planned, x, reference[label], args.batch) for label, x in samples}
    for count in dict.fromkeys(min(k, len(found)) for k in TOP if found):
        better = kx.make_plan(model, ranges, config(merge_entries(found[:count])))
        gains = [worst_db(better, x, reference[label], args.batch) - before[label] for label, x in samples]
        reached = ", ".join(f"{g:+.1f} on {label}" for g, (label, _) in zip(gains, samples, strict=True))
        print(f"top {count}: predicted {found[count - 1].cumulative_db:+.1f} dB, reached {reached}", flush=True)
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda s: s.split(","), default=["embedded", "A9", "A6_cls", "A1"])
    parser.add_argument("--platform", default="720")
    parser.add_argument("--calibration", type=int, default=64, help="samples")
    parser.add_argument("--evaluation", type=int, default=32, help="other samples, on which gains are measured")
    parser.add_argument("--samples", type=int, default=16, help="calibration samples of the budget")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    for name in args.models:
        study(name, args)
        jax.clear_caches()


if __name__ == "__main__":
    main()
