"""The benchmark suite: one command, every cell a process of its own, results kept as JSON and shown as tables.

    python bench.py                                               # everything; hours on two cores
    python bench.py --what speed --models A2 A1 --batch 8 --rounds 9
    python bench.py --what calibration bias compile growth peak   # the other tables
    python bench.py --python ~/venv311/bin/python --what speed    # the same under another jax
    python bench.py --table                                       # only writes the tables again

See README.md. Cells already measured under the same versions are measured again and replaced.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = ("A2", "light-resnet50", "A1", "A9", "A4", "A6_det")
WHAT = ("peak", "speed", "calibration", "bias", "compile", "growth")

_ONE_BLAS_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}
"""A BLAS that starts threads loses to itself here: they spin, and the CPU time of the other side counts them."""

Cell = dict[str, Any]


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """What is measured, one process each."""
    for what in args.what:
        if what == "peak":
            yield {"what": what}
        elif what == "speed":
            for model in args.models:
                for batch in args.batch:
                    yield {"what": what, "model": model, "batch": batch, "rounds": args.rounds, "widths": args.widths}
        elif what == "calibration":
            for model in (m for m in args.models if m != "A4"):
                batch = 4 if model == "A6_det" else 16
                yield {"what": "readings", "model": model, "batch": batch, "rounds": args.rounds}
            for side, method, samples in (
                ("ours", "percentage", 8), ("ours", "percentage", 24), ("ours", "percentage", 104),
                ("ours", "mmse", 24), ("ort", "", 4), ("ort", "", 24), ("quark", "", 4), ("quark", "", 24),
            ):  # fmt: skip
                yield {"what": "whole", "model": "A6_det", "side": side, "method": method, "samples": samples}
        elif what == "bias":
            for model in (m for m in args.models if m in ("A1", "A2", "light-resnet50")):
                batch = 16 if model == "light-resnet50" else 32
                yield {"what": what, "model": model, "batch": batch, "rounds": args.rounds}
        elif what == "compile":
            for model in args.models:
                yield {"what": what, "model": model, "batch": 8}
        else:
            for nodes in (125, 250, 500, 1000):
                yield {"what": what, "nodes": nodes}


def measure(cell: Cell) -> Cell:
    """Measures one cell in this process (or, where it needs several, in children of it)."""
    from timing import environment

    return {**cell, **_measured(cell), "environment": environment(), "at": time.strftime("%Y-%m-%d %H:%M")}


def _measured(cell: Cell) -> Cell:
    what = cell["what"]
    if what == "readings":
        from calibration import readings

        return readings(cell["model"], cell["batch"], cell["rounds"])
    if what == "whole":
        if cell["side"] == "quark":
            return _quark(cell["model"], cell["samples"])
        asked = [cell["side"], cell["model"], cell["samples"], *([cell["method"]] if cell["method"] else [])]
        return _child("calibration.py", asked)
    if what == "growth":
        return _child("compiling.py", [f"deep:{cell['nodes']}", 1, 1])
    if what == "compile":
        return _compile(cell["model"], cell["batch"])
    from emulation import numpy_peak, speed

    if what == "peak":
        return numpy_peak()
    from subjects import subject

    if what == "bias":
        from biases import cost

        return cost(subject(cell["model"]), cell["batch"], cell["rounds"], samples=32)
    return speed(subject(cell["model"]), cell["batch"], cell["rounds"], cell["widths"])


def _compile(model: str, batch: int) -> Cell:
    """In one process; then from the cache that a process before has filled."""
    found = _child("compiling.py", [model, batch, 3])
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        first, second = (_child("compiling.py", [model, batch, 1], cache) for _ in range(2))
    cached = {f"cached_{k}": second[k] for k in ("float_cpu_s", "fixed_cpu_s", "fixed_wall_s")}
    return {**found, **cached, "cached_over_first": round(second["fixed_cpu_s"] / first["fixed_cpu_s"], 2)}


def _quark(model: str, samples: int) -> Cell:
    """In the environment that `experiments/peers/run.py --peers quark` makes, on the files that it exchanges."""
    from knerex_jax.zoo.fetch import cache_dir

    peers, cache = HERE.parent / "peers", cache_dir()
    python, folder = cache / "peer_environments" / "quark" / "bin" / "python", cache / "peers"
    if not python.is_file():
        return {"failed": f"no Quark in {python}: run {peers / 'run.py'} --peers quark --models {model}"}
    export = [sys.executable, str(peers / "export.py"), "--folder", str(folder), "--models", model]
    subprocess.run(export, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as left:  # Quark leaves files where it runs
        return _child("quark_calibration.py", [folder / model, samples], python=str(python), cwd=left)


def _child(
    script: str, arguments: list[Any], environment: dict[str, str] | None = None, python: str = sys.executable,
    cwd: str | None = None,
) -> Cell:  # fmt: skip
    command = [python, str(HERE / script), *map(str, arguments)]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=variables, cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"failed": f"{script} {arguments}: exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def key(row: Cell) -> tuple[Any, ...]:
    """What a row replaces."""
    kept = ("what", "model", "batch", "nodes", "side", "method", "samples")
    return (*(row.get(k) for k in kept), row.get("environment", {}).get("jax"))


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--what", nargs="+", default=list(WHAT), choices=WHAT)
    p.add_argument("--models", nargs="+", default=list(MODELS))
    p.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32])
    p.add_argument("--widths", nargs="+", default=["int8", "w8a16"])
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--python", default=sys.executable, help="of an environment with another jax")
    p.add_argument("--json", type=Path, default=HERE / "results.json")
    p.add_argument("--table", action="store_true", help="writes README.md's tables from the JSON, measures nothing")
    p.add_argument("--cell", type=json.loads, help="measures one cell and prints it; for the children")
    args = p.parse_args()
    if args.cell:
        print(json.dumps(measure(args.cell)))
        return 0
    rows = json.loads(args.json.read_text()) if args.json.is_file() else []
    failed = 0
    for cell in () if args.table else cells(args):
        command = [args.python, str(HERE / "bench.py"), "--cell", json.dumps(cell)]
        done = subprocess.run(command, env={**os.environ, **_ONE_BLAS_THREAD}, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed += 1
            print("failed:", cell, file=sys.stderr, flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(row), flush=True)
        if "failed" in row:
            failed += 1
            continue
        rows = [r for r in rows if key(r) != key(row)] + [row]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.json == HERE / "results.json":
        from table import write

        write(rows, HERE / "README.md")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
