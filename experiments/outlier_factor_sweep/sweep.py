"""SNR over outlier factors, percentiles and percentages: one calibration, one compiled emulator; see README.md.

python experiments/outlier_factor_sweep/sweep.py [--models embedded,A9,A1,A6_cls] [--full 1] [--stack 4]
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS, RealModel  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax import flow  # noqa: E402
from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.emulator.fixed import lower_fixed  # noqa: E402
from knerex_jax.emulator.methods import choose  # noqa: E402
from knerex_jax.emulator.prepare import prepare  # noqa: E402
from knerex_jax.emulator.stream import compiler_options, samples_at_once  # noqa: E402
from knerex_jax.lowering.batch import over_samples  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.program.bounds import bound_program, join  # noqa: E402
from knerex_jax.quantize.planner import Planned  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402

WIDTHS = {
    "int8": {},
    "w8a16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "model_in", "model_out")},
    "int16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "weight", "model_in", "model_out")},
}
Arrays = Mapping[str, np.ndarray]
Row = dict[str, Any]


@dataclass
class Clock:
    """Seconds by step, in order: wall, and CPU of the whole process, which other work on the machine changes less."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[step] = self.wall.get(step, 0.0) + time.perf_counter() - wall
        self.cpu[step] = self.cpu.get(step, 0.0) + time.process_time() - cpu


@dataclass(frozen=True)
class Emulator:
    """One compiled program for several plans.

    Attributes:
      fn: (params, inputs of a batch) -> codes; params and codes have a leading axis of plans if `stack`.
      stack: plans at a time; 0: one after the other.
      batch: samples per step.
    """

    fn: Callable[[Any, Any], Mapping[str, jax.Array]]
    stack: int
    batch: int

    def run(self, plans: Sequence[Planned], inputs: Arrays) -> list[Arrays]:
        """Float outputs of every plan: name -> [N, ...]."""
        results = []
        for start in range(0, len(plans), max(self.stack, 1)):
            group = plans[start : start + max(self.stack, 1)]
            params = self._params(group)
            parts = [(size, self.fn(params, batch)) for size, batch in self._batches(plans[0], inputs)]
            for place, planned in enumerate(group):
                at = (place,) if self.stack else ()
                codes = {
                    t: np.concatenate([np.asarray(found[t][at])[:size] for size, found in parts]) for t in parts[0][1]
                }
                results.append(_dequantized(planned, codes))
        return results

    def _params(self, group: Sequence[Planned]) -> Any:
        params = [prepare(p.program, p.constants) for p in group]
        if not self.stack:
            return jax.device_put(params[0])
        # A last group is filled up, so that there is one shape to compile.
        params += params[-1:] * (self.stack - len(group))
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *params))

    def _batches(self, planned: Planned, inputs: Arrays) -> Iterator[tuple[int, Arrays]]:
        shapes = {t: planned.model.graph.shape(t) for t in planned.program.inputs}
        count = len(next(iter(inputs.values())))
        for start in range(0, count, self.batch):
            places = np.minimum(np.arange(start, start + self.batch), count - 1)
            yield (
                min(self.batch, count - start),
                {t: inputs[t][places].reshape(self.batch, *shape) for t, shape in shapes.items()},
            )


def _dequantized(planned: Planned, codes: Arrays) -> Arrays:
    fixed = FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    dropped = {t: c[:, 0] if c.ndim > 1 and c.shape[1] == 1 else c for t, c in codes.items()}
    return {t: fixed.dequantize(t, c) for t, c in dropped.items()}


def emulator_of(plans: Sequence[Planned], batch: int, stack: int) -> Emulator:
    """The emulator that is exact for all these plans of one program."""
    program = plans[0].program
    bounds = join([bound_program(p.program, p.constants) for p in plans])
    methods = choose(program, bounds, jax.default_backend())
    fn = over_samples(lower_fixed(program, methods), samples_at_once(program))
    options = compiler_options(jax.default_backend())
    return Emulator(jax.jit(jax.vmap(fn, (0, None)) if stack else fn, compiler_options=options), stack, batch)


def settings(args: argparse.Namespace) -> list[kx.PTQConfig]:
    """One config per row: every factor at every percentile, and the percentages to compare with."""
    common = {"platform": args.platform, "batch_size": args.batch, "mode": 1, **WIDTHS[args.width]}
    searched = [
        kx.PTQConfig(datapath_range_method="mmse", percentile=p, outlier_factor=f, **common)
        for p in args.percentiles
        for f in args.factors
    ]
    return searched + [kx.PTQConfig(data_analysis_pct=pct, **common) for pct in args.pcts]


def sweep(real: RealModel, configs: Sequence[kx.PTQConfig], args: argparse.Namespace) -> tuple[list[Row], Clock]:
    """One row per config: worst output SNR and the model's own measures."""
    model = flow.decompose_onnx(real.path, kx.PTQConfig(input_shape=real.input_shapes or None))
    data = real.calibration(args.calibration)
    inputs, labels = real.evaluation(args.samples)
    reference = FloatModel(model).run(inputs, batch_size=args.batch)
    clock = Clock()
    with clock("calibrate"):
        measured = flow.measure(model, dict(data), configs[0], also=configs[1:])
    with clock("ranges"):
        ranges = flow.ranges_of_each(measured, configs)
    with clock("plan"):
        base = flow.make_plan(model, ranges[0], configs[0])
        plans = [base, *(flow.make_plan(model, r, c, base=base) for r, c in zip(ranges[1:], configs[1:], strict=True))]
    outputs: list[Arrays | None] = [None] * len(plans)
    for group in _by_program(plans):
        same = [plans[i] for i in group]
        with clock("compile"):
            emulator = emulator_of(same, args.batch, args.stack)
            emulator.run(same[: max(args.stack, 1)], {t: a[: args.batch] for t, a in inputs.items()})
        with clock("emulate"):
            for i, found in zip(group, emulator.run(same, inputs), strict=True):
                outputs[i] = found
    rows = []
    for config, planned, found in zip(configs, plans, outputs, strict=True):
        assert found is not None, "every plan belongs to a group"
        real_valued = [t for t, v in reference.items() if v.dtype.kind == "f"]
        rows.append(
            {
                "method": config.datapath_range_method,
                "percentile": config.percentile if config.datapath_range_method == "mmse" else "",
                "outlier_factor": config.outlier_factor if config.datapath_range_method == "mmse" else "",
                "pct": "" if config.datapath_range_method == "mmse" else config.data_analysis_pct,
                "snr_db": round(min(snr_db(reference[t], found[t]) for t in real_valued), 2),
                "same_program": planned.program == base.program,
                **{k: round(float(v), 4) for k, v in real.metrics(found, reference, labels).items()},
            }
        )
    return rows, clock


def _by_program(plans: Sequence[Planned]) -> list[list[int]]:
    """Places of the plans that share a program."""
    groups: list[list[int]] = []
    for i, planned in enumerate(plans):
        group = next((g for g in groups if plans[g[0]].program == planned.program), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def full_run(real: RealModel, config: kx.PTQConfig, args: argparse.Namespace) -> float:
    """Seconds from data to fixed-point outputs for one setting alone."""
    model = flow.decompose_onnx(real.path, kx.PTQConfig(input_shape=real.input_shapes or None))
    data = real.calibration(args.calibration)
    inputs, _ = real.evaluation(args.samples)
    started = time.perf_counter()
    planned = flow.make_plan(model, flow.analyze(model, dict(data), config), config)
    FixedModel(Bie(planned.program, planned.constants, planned.plan, {})).run(inputs, batch_size=args.batch)
    return time.perf_counter() - started


def report(name: str, rows: Sequence[Row], clock: Clock, full: Sequence[float]) -> None:
    """Prints the table and the times."""
    print(f"\n### {name}\n\n{table(rows)}\n")
    count = len(rows)
    for kind, seconds in (("wall", clock.wall), ("CPU", clock.cpu)):
        total, goal = sum(seconds.values()), 1.2 * seconds["calibrate"] + seconds["emulate"]
        steps = ", ".join(f"{step} {s:.2f}" for step, s in seconds.items())
        print(f"{kind} s: {steps}; sweep of {count} {total:.2f}; ", end="")
        print(f"1.2 calibrations + {count} warm emulations {goal:.2f}; ratio {total / goal:.2f}")
    if full:
        mean = sum(full) / len(full)
        ratio = count * mean / sum(clock.wall.values())
        print(f"one full run: {mean:.1f} s, {count} of them: {count * mean:.0f} s = {ratio:.1f} sweeps")
    apart = [i for i, row in enumerate(rows) if not row["same_program"]]
    if apart:
        print(f"rows {apart} have a program of their own and were compiled apart")


def table(rows: Sequence[Row]) -> str:
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([str(row[h]) for h in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(found: Mapping[str, Sequence[Row]], path: Path) -> None:
    """SNR over the factor, one panel per model, percentages as level lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 3.2), squeeze=False)
    for panel, (name, rows) in zip(panels[0], found.items(), strict=True):
        for percentile in dict.fromkeys(row["percentile"] for row in rows if row["method"] == "mmse"):
            points = [(r["outlier_factor"], r["snr_db"]) for r in rows if r["percentile"] == percentile]
            panel.plot(*zip(*points, strict=True), marker="o", label=f"mmse {percentile}")
        for place, row in enumerate(r for r in rows if r["method"] == "percentage"):
            panel.axhline(row["snr_db"], linestyle="--", color=f"C{5 + place}", label=f"pct {row['pct']}")
        panel.set(title=name, xlabel="outlier factor", ylabel="worst output SNR, dB")
        panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write(found: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Tables of all models so far, csv and md, and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [{"model": name, **row} for name, rows in found.items() for row in rows]
    heads = list(dict.fromkeys(key for row in every for key in row))
    with (folder / "sweep.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, heads)
        writer.writeheader()
        writer.writerows(every)
    text = "\n\n".join(f"### {name}\n\n{table(rows)}" for name, rows in found.items())
    (folder / "sweep.md").write_text(text + "\n")
    plot(found, folder / "sweep.png")


def main() -> None:
    args = _arguments()
    configs = settings(args)
    print(f"jax {jax.__version__}, {jax.default_backend()}, {args.width} on {args.platform}")
    found: dict[str, list[Row]] = {}
    for name in args.models:
        real = REAL_MODELS[name]()
        found[name], clock = sweep(real, configs, args)
        report(name, found[name], clock, [full_run(real, c, args) for c in configs[: args.full]])
        write(found, args.out)
        jax.clear_caches()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda s: s.split(","), default=["embedded", "A9", "A1", "A6_cls"])
    parser.add_argument("--factors", type=_numbers, default=[round(float(f), 2) for f in np.linspace(1, 4, 16)])
    parser.add_argument("--percentiles", type=_numbers, default=[0.001])
    parser.add_argument("--pcts", type=_numbers, default=[], help="percentages to compare with, e.g. 0.999,1")
    parser.add_argument("--platform", default="720")
    parser.add_argument("--width", choices=WIDTHS, default="int8")
    parser.add_argument("--calibration", type=int, help="calibration samples; default: the model's count")
    parser.add_argument("--samples", type=int, help="evaluation samples; default: all")
    parser.add_argument("--batch", type=int, default=16, help="samples per compiled step")
    parser.add_argument("--stack", type=int, default=0, help="plans that are emulated at once; 0: one by one")
    parser.add_argument("--full", type=int, default=1, help="settings that are also run alone, for their time")
    parser.add_argument("--out", type=Path, default=ROOT / "kneron_flow" / "outlier_factor_sweep")
    return parser.parse_args()


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
