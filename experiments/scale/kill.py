"""kill -9 at random moments of a calibration, then the same command again: the file of counts has to be that of a run
that was never cut off, byte for byte. See README.md.

python experiments/scale/kill.py [--kills 20] [--samples 200] [--processes 1]
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys, time
from knerex_jax import flow
from knerex_jax.calibrate import checkpoint
from knerex_jax.counts import count_data
from knerex_jax.data.files import NpyRows

whole = NpyRows.whole
NpyRows.whole = lambda self: (time.sleep(0.01), whole(self))[1]  # so that there are moments to be killed at
checkpoint._SHARE = 0
seen = []

def kept(path, key):
    seen.append(checkpoint.Checkpoints(path, key, interval_s=0.1))
    return seen[-1]

flow.Checkpoints = kept
model, data, out, number, count, port = sys.argv[1:]
if int(count) > 1:
    from knerex_jax.parallel import processes

    processes.join(f"localhost:{port}", int(count), int(number))
options = dict(p_onnx=model, np_txt=data, batch_size=4, datapath_range_method="mmse", data_analysis_threads=2)
count_data(**options, to=f"{out}/counts.npz", progress=lambda stage, done, total: print(stage, done, flush=True))
print("notes", *seen[0].notes or ["from the beginning"], flush=True)
"""


def start(folder: Path, out: Path, count: int) -> list[subprocess.Popen]:
    """The processes of a run."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "scripts")))
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    model = ROOT / "knerex_jax" / "embedded" / "digits_cnn.onnx"
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, (model, folder / "data", out, number, count, port))], text=True,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) for number in range(count)
    ]  # fmt: skip


def finished(running: list[subprocess.Popen]) -> list[str]:
    """Lines of the first process of a run that ends by itself."""
    said = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), said
    return said[0].splitlines()


def contents(out: Path) -> dict[str, bytes]:
    """The files of a run: the counts, and nothing that was left behind."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def killed(running: list[subprocess.Popen], lines: int, pause: float) -> None:
    """Kills a run so many lines of progress and seconds after its beginning."""
    assert running[0].stdout is not None
    done = 0
    while done < lines and (line := running[0].stdout.readline()):
        done += line.startswith("calibrate")
    time.sleep(pause)
    for process in running:
        process.kill()
    for process in running:
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    same = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        images = np.random.default_rng(1).normal(size=(args.samples, *_input_shape())).astype(np.float32)
        for k, image in enumerate(images):
            np.save(folder / "data" / f"{k:05d}.npy", image)
        lines = finished(start(folder, folder / "whole", args.processes))
        steps = sum(line.startswith("calibrate") for line in lines)
        whole = contents(folder / "whole")
        counts = len(whole["counts.npz"])
        print(f"{args.samples} samples, {steps} steps in all readings; {', '.join(whole)} of {counts} bytes compared")
        print("\n| kill | at step | went on | equal |\n|---|---|---|---|")
        for number in range(args.kills):
            out = folder / f"run{number}"
            at, pause = chance.randrange(steps), chance.uniform(0, 0.1)
            killed(start(folder, out, args.processes), at, pause)
            said = finished(start(folder, out, args.processes))[-1]
            equal = contents(out) == whole
            same += equal
            print(f"| {number + 1} | {at} of {steps} | {said.removeprefix('notes ')} | {equal} |", flush=True)
    print(f"\n{same} of {args.kills} equal")
    sys.exit(0 if same == args.kills else 1)


def _input_shape() -> tuple[int, ...]:
    import onnx

    model = onnx.load(ROOT / "knerex_jax" / "embedded" / "digits_cnn.onnx")
    return tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]


if __name__ == "__main__":
    main()
