"""SNR of the width modes on real models, and which way of measuring sensitivity chooses better; see README.md.

python experiments/mixed_precision/run.py [--models embedded,A9] [--ratio 0.2] [--reverse] [--out FILE.json]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS, first  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.graph.ir import Model  # noqa: E402
from knerex_jax.ops import REGISTRY  # noqa: E402
from knerex_jax.quantize.bitwidth import WidthRequest  # noqa: E402
from knerex_jax.quantize.mixing import mac_nodes, mixed_request  # noqa: E402
from knerex_jax.quantize.planner import Planned, plan_model  # noqa: E402
from knerex_jax.quantize.request import Side  # noqa: E402
from knerex_jax.quantize.solve import RangePolicy  # noqa: E402
from knerex_jax.quantize.structure import Structure, analyse  # noqa: E402
from knerex_jax.refine.mixed import choose_widths, make_units, spend, to_db  # noqa: E402
from knerex_jax.refine.rounding import learn_rounding  # noqa: E402
from knerex_jax.refine.sensitivity import Reference, lean, output_noise, run_float  # noqa: E402

INT8, INT16 = WidthRequest(), WidthRequest(15, 15, 15, 15)
LIGHT = WidthRequest(8, 8, 15, 15, cpu=15)  # boundary and CPU at 16 bits, as the maker advises for mixed widths
PAIRS: dict[str, tuple[Side, ...]] = {
    "(int16, mixbw)": ("weight",),
    "(mixbw, int16)": ("data",),
    "(mixbw, mixbw)": ("data", "weight"),
}


@dataclass(frozen=True)
class Subject:
    """A decomposed model, its ranges, and samples of either kind."""

    name: str
    args: argparse.Namespace

    @cached_property
    def model(self) -> Model:
        return kx.decompose_onnx(REAL_MODELS[self.name]().path, self.config)

    @cached_property
    def config(self) -> kx.PTQConfig:
        shapes = REAL_MODELS[self.name]().input_shapes or None
        return kx.PTQConfig(data_analysis_pct=self.args.pct, batch_size=self.args.batch, input_shape=shapes)

    @cached_property
    def calibration(self) -> dict[str, np.ndarray]:
        return dict(REAL_MODELS[self.name]().calibration(self.args.calibration))

    @cached_property
    def ranges(self) -> Any:
        return kx.analyze(self.model, self.calibration, self.config)

    @cached_property
    def structure(self) -> Structure:
        return analyse(self.model, self.config.target, REGISTRY)

    @cached_property
    def evaluation(self) -> Reference:
        return self.reference(dict(REAL_MODELS[self.name]().evaluation(self.args.samples)[0]))

    def reference(self, inputs: dict[str, np.ndarray]) -> Reference:
        return run_float(self.model, inputs, REGISTRY, self.args.batch)

    def plan(self, request: WidthRequest, guard: int, slots: Any = None) -> Planned:
        policy = RangePolicy(guard_bits=guard)
        return plan_model(self.model, self.ranges, request, self.config.target, policy=policy, slots=slots)

    def snr_db(self, asked: list[tuple[WidthRequest, int]]) -> list[float]:
        """On the evaluation samples, of the plans that a user would get; inputs and the CPU have 16 bits."""
        plans = [lean(self.plan(*a)) for a in asked]
        return [to_db(n) for n in output_noise(plans, self.evaluation, batch_size=self.args.batch)]

    def learned_db(self, request: WidthRequest, guard: int) -> float:
        """The same with learned weight rounding."""
        made = self.plan(request, guard)
        return self.run_db(learn_rounding(made, self.calibration, target=self.config.target).planned)

    def run_db(self, made: Planned) -> float:
        """The same of a plan as it is, with inputs of its own width."""
        fixed = kx.FixedModel(Bie(made.program, made.constants, made.plan, {}))
        samples = {t: a[:, 0] for t, a in self.evaluation.inputs.items()}
        got = fixed.run(samples, taps=tuple(self.evaluation.outputs), batch_size=self.args.batch)
        noise = [
            np.sum((got[t].astype(np.float64).reshape(want.shape) - want) ** 2) / np.sum(want**2)
            for t, want in self.evaluation.outputs.items()
        ]
        return to_db(float(np.mean(noise)))


def share_at_16(subject: Subject, request: WidthRequest) -> tuple[float, float]:
    """Shares of the multiplications that read 15-bit data, and that have 15-bit weights."""
    made, costs = subject.plan(request, 0), mac_nodes(subject.model, subject.structure)
    node = made.model.graph.node
    bits = {t: f.bits for t, f in made.plan.formats.items()}
    data = sum(c for n, c in costs.items() if max(bits[t] for t in node[n].inputs if t in bits) == 15)
    weights = sum(c for n, c in costs.items() if made.plan.weight_bits.get(n, 0) == 15)
    return data / sum(costs.values()), weights / sum(costs.values())


def guard_of(sides: tuple[Side, ...], mode: str) -> int:
    """The default of guard_bits where this mode is asked for on these sides, and int16 on the other."""
    modes = {"datapath_bitwidth_mode": "data", "weight_bitwidth_mode": "weight"}
    return kx.PTQConfig(**{o: mode if side in sides else "int16" for o, side in modes.items()}).guard


def reverse_request(subject: Subject, sides: tuple[Side, ...], samples: Reference) -> WidthRequest:
    """The choice by the other measurement: one side of one unit at 16 bits, everything that is ranked at 8."""
    config, model = subject.config, subject.model
    units = make_units(model, subject.structure, config.target, REGISTRY, sides, {})
    free = [u for u in units if u.free]
    low = INT16
    for unit in free:
        for side in unit.sides:
            low = unit.narrow(low, side)
    guard = guard_of(sides, "mixbw")
    base = subject.plan(low, guard)
    raised = []
    for unit in free:
        asked = low
        for side in unit.sides:
            asked = unit.narrow(asked, side, 15)
        raised.append(lean(subject.plan(asked, guard, base.slots), base))
    noise = output_noise([lean(base), *raised], samples, batch_size=subject.args.batch)
    costs = mac_nodes(model, subject.structure)
    prices = {u.name: float(sum(costs[n] for n in u.nodes)) for u in units}
    names = [u.name for u in free]
    budget = subject.args.ratio * sum(prices.values()) - sum(prices[u.name] for u in units if not u.free)
    gains = dict(zip(names, (noise[0] - noise[1:]).tolist(), strict=True))
    wide = spend(budget, {n: prices[n] for n in names}, gains)
    request = INT16
    for unit in free:
        for side in unit.sides if unit.name not in wide else ():
            request = unit.narrow(request, side)
    return request


def requests(subject: Subject) -> Iterator[tuple[str, WidthRequest, int, float, float | None]]:
    """Mode, its widths, its guard_bits, seconds to choose them, predicted SNR."""
    args, few = subject.args, first(subject.calibration, subject.args.rank)
    for mode, base in (("mix light", LIGHT), ("mix balance", INT16)):
        for sides in (("data", "weight"), ("data",), ("weight",)):
            mixes = dict.fromkeys(sides, mode)
            guard = guard_of(sides, mode) if base is INT16 else guard_of(("data", "weight"), mode)
            request = mixed_request(subject.model, subject.structure, base, REGISTRY, mixes)
            yield f"{mode}, {' and '.join(sides)}", request, guard, 0.0, None
    for pair, sides in list(PAIRS.items())[: args.pairs]:
        started, guard = time.perf_counter(), guard_of(sides, "mixbw")
        mixed = choose_widths(
            subject.model, subject.ranges, INT16, subject.config.target, few, sides=sides, budget=args.ratio,
            policy=RangePolicy(guard_bits=guard), batch_size=args.batch,
        )  # fmt: skip
        yield f"mixbw {pair}", mixed.request, guard, time.perf_counter() - started, mixed.predicted_snr
        if args.reverse:
            started = time.perf_counter()
            request = reverse_request(subject, sides, subject.reference(few))
            yield f"reverse {pair}", request, guard, time.perf_counter() - started, None


def measure(subject: Subject) -> Iterator[dict[str, Any]]:
    """One row per mode; `recovered` is the fraction of the way from int8 to int16, in dB."""
    found = list(requests(subject))
    low = subject.run_db(subject.plan(INT8, 2))
    high, *reached = subject.snr_db([(INT16, 4), *((request, guard) for _, request, guard, _, _ in found)])
    yield {"model": subject.name, "mode": "int8", "snr_db": low}
    for (mode, request, guard, seconds, predicted), snr in zip(found, reached, strict=True):
        shares = share_at_16(subject, request)
        yield {
            "model": subject.name, "mode": mode, "snr_db": snr, "recovered": (snr - low) / (high - low),
            "predicted_db": predicted, "data_share": shares[0], "weight_share": shares[1], "guard_bits": guard,
            "seconds": seconds,
        }  # fmt: skip
    yield {"model": subject.name, "mode": "int16", "snr_db": high}
    if subject.args.learned:
        low = subject.learned_db(INT8, 2)
        yield {"model": subject.name, "mode": "int8, learned rounding", "snr_db": low}
        for mode, request, guard, _, _ in found:
            if mode.startswith("mixbw"):
                snr = subject.learned_db(request, guard)
                recovered = (snr - low) / (high - low)
                yield {
                    "model": subject.name, "mode": f"{mode}, learned rounding", "snr_db": snr, "recovered": recovered,
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda s: s.split(","), default=["embedded", "A1", "A3_front", "A6_cls", "A9"])
    parser.add_argument("--ratio", type=float, default=0.2, help="flops_ratio")
    parser.add_argument("--pct", type=float, default=0.999)
    parser.add_argument("--calibration", type=int, default=64, help="samples")
    parser.add_argument("--rank", type=int, default=16, help="calibration samples on which sensitivity is measured")
    parser.add_argument("--samples", type=int, default=32, help="evaluation samples")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--pairs", type=int, default=3, help="how many of the pairs of mixbw, in the order of the table"
    )
    parser.add_argument("--learned", action="store_true", help="also with learned weight rounding")
    parser.add_argument("--reverse", action="store_true", help="also choose by the other measurement")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.models:
        for row in measure(Subject(name, args)):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1))
        jax.clear_caches()


if __name__ == "__main__":
    main()
