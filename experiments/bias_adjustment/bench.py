"""Bias adjustment on real models: its gain, and what the sequential form costs beside one float and one fixed pass.

    python experiments/bias_adjustment/bench.py snr embedded A9 A1
    python experiments/bias_adjustment/bench.py cost resnet A9 A1

Prints one JSON line per row. SNR: on evaluation samples that neither calibration nor adjustment saw. Cost: one batch;
in each round a float pass, a fixed pass, the adjustment with its decisions, and the plan made again with the new
biases, which confirms their integers; CPU seconds, everything compiled before; ratios are median, least, largest.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from biases import cost, fixed_model, planned_model  # noqa: E402
from subjects import subject  # noqa: E402

from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.refine.bias import adjust_bias  # noqa: E402
from knerex_jax.runtime import FloatModel  # noqa: E402


def snr(name, args):
    asked = subject(name)
    planned, data, target = planned_model(asked, args.platform, args.width, args.samples)
    inputs = asked.evaluation(args.evaluation)
    reference = FloatModel(planned.model).run(inputs)

    def measured(planned):
        outputs = fixed_model(planned).run(inputs)
        return {t: round(snr_db(v, outputs[t]), 2) for t, v in reference.items()}

    row = {"before": measured(planned)}
    for mode in ("parallel", "sequential"):
        start = time.perf_counter()
        made = adjust_bias(planned, data, mode, target=target, batch_size=args.batch)
        seconds = round(time.perf_counter() - start, 1)
        kept = f"{sum(r.kept for r in made.records)} of {len(made.records)}"
        row |= {mode: measured(made.planned), f"{mode}_kept": kept, f"{mode}_seconds_compilation_included": seconds}
        row["spool_mib"] = round(made.spool_bytes / 2**20, 1)
    return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["snr", "cost"])
    p.add_argument("models", nargs="+")
    p.add_argument("--platform", default="720")
    p.add_argument("--width", default="int8")
    p.add_argument("--samples", type=int, default=64, help="calibration samples, which the adjustment uses, too")
    p.add_argument("--evaluation", type=int, default=100)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rounds", type=int, default=7)
    args = p.parse_args()
    for name in args.models:
        if args.what == "snr":
            row = snr(name, args)
        else:
            row = cost(subject(name), args.batch, args.rounds, args.platform, args.width, args.samples)
        print(json.dumps({"model": name, "platform": args.platform, "width": args.width, **row}), flush=True)


if __name__ == "__main__":
    main()
