"""SNR at int16 with the default headroom and with the searched one, model by model; see README.md.

python experiments/int16_headroom/headroom.py [--models A1,A9] [--all] [--out FILE.json]
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax.api import LEARN_SAMPLES  # noqa: E402
from knerex_jax.flow import measure, open_calibration  # noqa: E402
from knerex_jax.improve import choose_ranges, searched_configs  # noqa: E402
from knerex_jax.refine.noise import NoiseMeter  # noqa: E402

INT16 = {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "weight", "model_in", "model_out")}


def study(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What `run_ptq` with a range search decides, and what that gives on the evaluation data."""
    real, started = REAL_MODELS[name](), time.perf_counter()
    config = kx.PTQConfig(
        platform="730", range_search=True, batch_size=args.batch, input_shape=real.input_shapes, **INT16
    )
    model = kx.decompose_onnx(real.path, config)
    source = open_calibration(dict(real.calibration(None)), model, config)
    measured = measure(model, source, config, also=searched_configs(config).values())
    rows = [job() for job, _ in zip(source.jobs(), range(LEARN_SAMPLES), strict=False)]
    samples = {t: np.stack([row[t] for row in rows]) for t in model.graph.inputs}
    measured_s = time.perf_counter() - started
    choice = choose_ranges(model, measured, samples, config)
    search_s = time.perf_counter() - started - measured_s
    best, room = choice.finalists[0], choice.room
    assert room is not None
    before = next(iter(room.snr_db))
    tried = {str(r): r for r in (room.snr_db if args.all else (before, room.chosen))}
    configs = {k: replace(best.config, headroom_16b=r.headroom, guard_bits=r.guard) for k, r in tried.items()}
    plans = {k: kx.make_plan(model, best.ranges, c) for k, c in configs.items()}
    inputs = {t: np.asarray(v) for t, v in real.evaluation(args.samples)[0].items()}
    reference = kx.FloatModel(model).run(inputs, batch_size=args.batch)
    real_outputs = {t: v for t, v in reference.items() if v.dtype.kind == "f"}
    meter = NoiseMeter(inputs, real_outputs, args.batch)
    meter.prepare_for(list(plans.values()))
    snr = {k: {t: round(-10 * np.log10(n), 2) for t, n in meter.by_output(p).items()} for k, p in plans.items()}
    return {
        "model": name, "samples": [len(rows), len(next(iter(inputs.values())))], "rule": best.label,
        "folds_db": {str(r): np.round(snr, 2).tolist() for r, snr in room.snr_db.items()}, "outputs_db": snr,
        "measure_s": round(measured_s), "search_s": round(search_s),
    }  # fmt: skip


def main() -> int:
    args = _arguments()
    done = json.loads(args.out.read_text()) if args.out and args.out.is_file() else []
    for name in args.models:
        done.append(study(name, args))
        print(json.dumps(done[-1]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(done, indent=1))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(REAL_MODELS))
    parser.add_argument("--samples", type=int, help="evaluation samples; default: all")
    parser.add_argument("--batch", type=int, default=8, help="samples per compiled step; decides the memory")
    parser.add_argument(
        "--all",
        action="store_true",
        help="evaluate all that was tried, not only before and after",
    )
    parser.add_argument("--out", type=Path, help="JSON; rows are added to those that are there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
