"""One sweep file in this process, in two worker processes and on Ray with two workers: the same table; see README.md.

python experiments/scale/tables.py [--only tiny]      (needs pip install -e ".[experiments]")
python experiments/scale/tables.py --sweep factors.toml [--only A9]
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS, first  # noqa: E402
from tiny import tiny_npz, tiny_onnx, unsteady  # noqa: E402

from knerex_jax import embedded  # noqa: E402

WAYS = {
    "this process": [],
    "two worker processes": ["--workers", "2"],
    "Ray, two workers": ["--ray", "local", "--workers", "2"],
}

CASES = """
[base]
p_onnx = "tiny.onnx"
[[case]]
np_txt = "unsteady:data"
[[case]]
np_txt = "unsteady:never"
"""


# On a busy machine, Ray's own half minute does not suffice to start.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")


def table(path: Path) -> list[dict[str, str]]:
    """Rows without the seconds."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def make_files(name: str, folder: Path) -> None:
    """NAME.onnx and NAME.npz."""
    if name == "tiny":
        tiny_onnx(folder)
        tiny_npz(folder / "tiny.npz", 32)
        return
    if name == "digits":
        path, arrays = embedded.model_path(), first(embedded.calibration(), 64)
    else:
        real = REAL_MODELS[name]()
        path, arrays = real.path, real.calibration(16)
    shutil.copy(path, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", **arrays)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", default="sweep.toml", help="a file beside this script")
    parser.add_argument("--only", help="name of the one model to sweep; default all")
    args = parser.parse_args()
    command = [sys.executable, "-c", "from knerex_jax.command import main; main()", "sweep"]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "scripts")))
    good, expected = True, []
    print(f"load {os.getloadavg()[0]:.1f}\n\n| where | cells done | s | table |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base, *cases = Path(__file__).with_name(args.sweep).read_text().split("[[case]]")
        chosen = [case for case in cases if args.only is None or f'"{args.only}.onnx"' in case]
        (folder / "sweep.toml").write_text("[[case]]".join([base, *chosen]))
        for name in {"tiny", *re.findall(r'p_onnx = "(\w+)\.onnx"', "".join(chosen))}:
            make_files(name, folder)
        for number, (way, options) in enumerate(WAYS.items()):
            started = time.perf_counter()
            subprocess.run(
                [*command, "sweep.toml", "-o", str(number), "-q", *options], cwd=folder, check=True,
                env={**os.environ, "PYTHONPATH": paths},
            )  # fmt: skip
            seconds = time.perf_counter() - started
            rows = table(folder / str(number) / "sweep.csv")
            expected = expected or rows
            good &= rows == expected
            done = sum(row["status"] == "ok" for row in rows)
            said = "equal" if rows == expected else "DIFFERS"
            print(f"| {way} | {done} of {len(rows)} | {seconds:.0f} | {said} |", flush=True)
        (folder / "unsteady.py").write_text(unsteady("tiny.npz"))
        (folder / "unsteady.toml").write_text(CASES)
        options = ["--ray", "local", "--workers", "2"]
        done = subprocess.run(
            [*command, "unsteady.toml", "-o", "lost", "-q", *options], cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        print("\na worker that is killed, on Ray:\n")
        for row in table(folder / "lost" / "sweep.csv"):
            print(f"    {row['np_txt']}: {row['status']} after {row['tries']} tries {row['error'][:80]}")
        good &= done.returncode == 1
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
