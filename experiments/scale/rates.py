"""Rates and memory of a calibration from image files, and the plan of a run on 100,000 samples; see README.md.

python experiments/scale/rates.py [--model A9] [--counts 64,256,1024] [--batch 16] [--planned 100000]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import jax  # noqa: E402
from real_models import REAL_MODELS  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax import flow  # noqa: E402
from knerex_jax.data.sources import open_source  # noqa: E402


def pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files of noise over a gradient, twice the size of the model's input."""
    from PIL import Image

    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 160, 2 * side)[:, None, None]
    for k in range(count):
        noise = rng.integers(0, 96, (2 * side, 2 * side, 3))
        Image.fromarray((ramp + noise).astype(np.uint8)).save(folder / f"{k:06d}.jpg", quality=90)


def one(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of reading alone, computing alone (samples in memory), and both, in this process; peak memory."""
    real = REAL_MODELS[args.model]()
    config = kx.PTQConfig(
        batch_size=args.batch, data_analysis_threads=args.threads, input_shape=real.input_shapes or None,
        datapath_range_method="mmse",
    )  # fmt: skip
    model = flow.decompose_onnx(real.path, config)
    types = {t: model.graph.types[t] for t in model.graph.inputs}
    source = open_source(args.data, types, preprocess="kneron")
    few = [job() for job in list(source.jobs())[: args.batch]]
    warm = {t: np.stack([sample[t] for sample in few]) for t in few[0]}
    flow.measure(model, warm, config)
    assert source.count is not None, "a folder of images knows its number"
    found = {"samples": source.count}
    started, cpu = time.perf_counter(), time.process_time()
    if args.what == "read":
        for _ in range(2):
            for batch in source.batches(args.batch, args.threads):
                del batch
    elif args.what == "compute":
        count = -(-source.count // args.batch)
        again = lambda: (sample for _ in range(count) for sample in few)  # noqa: E731
        flow.measure(model, open_source(again, types), config)
    else:
        measured = flow.measure(model, source, config)
        state = measured.state
        found["state_mb"] = round(sum(a.nbytes for a in state.packed()[1].values()) / 1e6, 1)
    found["s"], found["cpu_s"] = time.perf_counter() - started, time.process_time() - cpu
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="A9")
    parser.add_argument("--counts", type=lambda s: [int(n) for n in s.split(",")], default=[64, 256, 1024])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--planned", type=int, default=100_000)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what:
        print(json.dumps(one(args)))
        return
    real = REAL_MODELS[args.model]()
    side = next(iter(real.calibration(1).values())).shape[-1]
    print(f"jax {jax.__version__}, {args.model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"JPEG files of {2 * side} x {2 * side}, two readings, a process per row\n")
    print("| samples | what | s | CPU s | samples/s and reading | peak MB |\n|---|---|---|---|---|---|")
    rows: dict[str, dict[str, Any]] = {}
    for count in args.counts:
        with tempfile.TemporaryDirectory() as folder:
            pictures(Path(folder), count, side)
            for what in ("read", "compute", "both") if count == args.counts[-1] else ("both",):
                command = [sys.executable, __file__, "--model", args.model, "--batch", str(args.batch)]
                command += ["--threads", str(args.threads), "--data", folder, "--what", what]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rows[what] = found
                rows.setdefault("first", found)
                rate = 2 * count / found["s"]
                print(
                    f"| {count} | {what} | {found['s']:.1f} | {found['cpu_s']:.1f} | {rate:.1f} |"
                    f" {found['peak_mb']:.0f} |", flush=True,
                )  # fmt: skip
    both, read, compute = (rows[what]["s"] for what in ("both", "read", "compute"))
    print(f"\noverlap: both take {both:.1f} s, one after the other {read + compute:.1f} s")
    wall, cpu = (
        (rows["both"][key] - rows["first"][key]) / (args.counts[-1] - args.counts[0]) for key in ("s", "cpu_s")
    )
    print(
        f"a sample more costs {wall * 1e3:.1f} ms ({cpu * 1e3:.1f} ms CPU) in both readings together; {args.planned} "
        f"samples: {wall * args.planned / 3600:.2f} h on this machine ({cpu * args.planned / 3600:.2f} CPU hours)"
    )
    print(f"counts of {rows['both']['state_mb']} MB, whatever the number of samples")


if __name__ == "__main__":
    main()
