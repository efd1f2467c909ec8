"""Real models calibrated and scored on 1, 2, 4 and 8 simulated devices and by 2 processes; see README.md.

python experiments/scale/devices.py [--models embedded,A9,A1] [--samples 44] [--batch 4]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS  # noqa: E402
from spread_run import hashes  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax import flow  # noqa: E402
from knerex_jax.metrics import Metric  # noqa: E402
from knerex_jax.parallel import processes  # noqa: E402

CASES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2))
"""(devices of a process, processes)."""


def one(name: str, samples: int, batch: int) -> dict[str, Any]:
    """Hashes, scores and seconds of a run on all devices of all processes."""
    real = REAL_MODELS[name]()
    config = kx.PTQConfig(batch_size=batch, input_shape=real.input_shapes or None, datapath_range_method="mmse")
    model = flow.decompose_onnx(real.path, config)
    data = dict(real.calibration(samples))
    clock = [time.perf_counter()]
    measured = flow.measure(model, data, config)
    clock.append(time.perf_counter())
    found, fixed = hashes(model, measured, config, {t: a[:8] for t, a in data.items()})
    metric = {"mean": Metric(lambda outputs, _: next(iter(outputs.values())).reshape(len(_), -1).mean(1, np.float64))}
    labels = range(len(next(iter(data.values()))))
    clock.append(time.perf_counter())
    for each in (kx.FloatModel(model), fixed):
        score = kx.evaluate_dataset(each, data, metric, labels=labels, batch_size=batch)
        found[f"{score.kind} score"] = score.scores["mean"]
    clock.append(time.perf_counter())
    return found | {"seconds": [round(clock[1] - clock[0], 1), round(clock[3] - clock[2], 1)]}


def started(name: str, args: argparse.Namespace, devices: int, count: int) -> list[subprocess.Popen]:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }  # fmt: skip
    command = [sys.executable, __file__, "--models", name, "--samples", str(args.samples), "--batch", str(args.batch)]
    return [
        subprocess.Popen(
            [*command, "--process", f"{port} {number} {count}"], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) for number in range(count)
    ]  # fmt: skip


def result(process: subprocess.Popen) -> dict[str, Any]:
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda s: s.split(","), default=["embedded", "A9", "A1"])
    parser.add_argument("--samples", type=int, default=44)
    parser.add_argument("--batch", type=int, default=4, help="samples per device and step")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process:
        port, number, count = map(int, args.process.split())
        if count > 1:
            processes.join(f"localhost:{port}", count, number)
        print(json.dumps(one(args.models[0], args.samples, args.batch)))
        return
    print(f"jax {jax.__version__}, {args.samples} samples, {args.batch} per device and step\n")
    print("| model | devices | processes | counts | ranges | plan | codes | float score | fixed score | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    good = True
    for name in args.models:
        first: dict[str, Any] = {}
        for devices, count in CASES:
            for found in map(result, started(name, args, devices, count)):
                first = first or found
                same = {k: found[k] == first[k] for k in found if k != "seconds"}
                good &= all(same.values())
                said = " | ".join("equal" if same[k] else "DIFFERS" for k in same)
                print(f"| {name} | {devices} | {count} | {said} | {found['seconds']} |", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
