"""Fits what no public source states of the machines to the published frame rates, and says how well it generalises.

    python experiments/ip_eval/fit.py            # fits, prints the table of errors; a few minutes
    python experiments/ip_eval/fit.py --write    # and writes knerex_jax/targets/machines.json

All platforms are fitted together: a figure of a platform is the common one times a factor that is expected to be near
1, so that a platform's dozen of rows decides only what it really knows.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from programs import Asked, all_asked
from scipy.optimize import least_squares

from knerex_jax.compiler.work import AMOUNTS
from knerex_jax.targets.machine import MACHINES, Machine

PUBLISHED = Path(__file__).with_name("published_fps.csv")
MACHINES_JSON = Path(__file__).parents[2] / "knerex_jax" / "targets" / "machines.json"
SAME = {"CenterNet": "Centernet res101"}
"""Rows of one network under two names."""

SCALE = 0.1
"""Errors of log time well beyond this count linearly: releases and definitions of networks differ."""


@dataclass(frozen=True)
class Figure:
    """One unknown of a machine.

    Attributes:
      common: what it is expected to be, relative to the machine's multiplications where it is a rate.
      spread: standard deviation of the logarithm of the common figure around that.
      differs: standard deviation of the logarithm of a platform's figure around the common one.
    """

    common: float
    spread: float
    differs: float


UNKNOWN = {
    "sustained": Figure(0.95, 0.05, 0.03),
    "pointwise": Figure(1.1, 0.2, 0.15),
    "depthwise": Figure(1 / 8, 1.0, 0.4),
    "lanes": Figure(1 / 24, 1.0, 0.4),
    "functions": Figure(1 / 24, 1.0, 0.4),
    "pool": Figure(1 / 12, 1.0, 0.4),
    "move": Figure(1 / 24, 1.0, 0.4),
    "start": Figure(64.0, 0.7, 0.4),
    "exposed": Figure(0.25, 0.7, 0.5),
}
"""Bounded by physics through their priors: rates in elements per cycle relative to multiplications per cycle."""

CHANNELS = ("rdma", "wdma", "getw")
RATES = ("depthwise", "lanes", "functions", "pool", "move")
STARTS = (("lanes", 0.0), ("lanes", -3.0), ("move", 1.0))
"""Where the search begins: a common figure and the logarithm of its distance from what is expected."""

MACS = {"520": (576, 0.3), "530": (512, 0.0), "630": (576, 0.3), "720": (1024, 0.3), "730": (1024, 0.3)}
"""Multiplications per cycle expected, and the standard deviation of the logarithm; 0: published."""

BANDWIDTH = {"520": (0.8, 0.0), "530": (8.0, 0.5), "630": (6.0, 0.5), "720": (12.0, 0.5), "730": (16.0, 0.5)}
"""The same for GB/s of each of the three channels. The example report of 530 states 8; the default changed since."""

BLOCK = {"520": 3, "530": 1, "630": 1, "720": 3, "730": 1}


@dataclass(frozen=True)
class Row:
    """One published time; with the bandwidth in GB/s where it is stated beside it."""

    platform: str
    model: str
    milliseconds: float
    bandwidth: float | None = None

    @property
    def network(self) -> str:
        """Which definition it is of."""
        return SAME.get(self.model, self.model)


EXAMPLE = Row("530", "Tiny YOLOv3", 15.4002, bandwidth=8.0)
"""The manual's example report of the evaluator, of an older release than the table."""


def rows(path: Path = PUBLISHED) -> list[Row]:
    """The published table."""
    with path.open() as file:
        return [Row(r["platform"], r["model"], float(r["time_ms"])) for r in csv.DictReader(file)]


class Layout:
    """Where every unknown stands in the vector that is fitted: logarithms relative to what is expected."""

    def __init__(self, platforms: Sequence[str]) -> None:
        self.platforms = tuple(platforms)
        self.names = tuple(UNKNOWN)
        own = [("macs", p) for p in self.platforms] + [("bandwidth", p) for p in self.platforms]
        self.keys = [
            *((name, "common") for name in self.names), *own, *((n, p) for p in self.platforms for n in self.names)
        ]  # fmt: skip
        self.spread = np.asarray([self._spread(*key) for key in self.keys])
        self.free = self.spread > 0

    @staticmethod
    def _spread(name: str, whose: str) -> float:
        if name in ("macs", "bandwidth"):
            return {"macs": MACS, "bandwidth": BANDWIDTH}[name][whose][1]
        return UNKNOWN[name].spread if whose == "common" else UNKNOWN[name].differs

    @cache  # noqa: B019
    def figures(self, platform: str) -> dict[str, np.ndarray]:
        """Of every figure of a machine, how its logarithm depends on the vector [unknowns]."""
        at = {key: k for k, key in enumerate(self.keys)}

        def of(*keys: tuple[str, str]) -> np.ndarray:
            row = np.zeros(len(self.keys))
            row[[at[key] for key in keys]] = 1
            return row

        macs, wide = of(("macs", platform)), of(("bandwidth", platform))
        found = {"macs": macs, **dict.fromkeys(CHANNELS, wide)}
        for name in self.names:
            own = of((name, "common"), (name, platform))
            found[name] = own + macs if name in RATES else own
        return found

    def machine(self, platform: str, x: np.ndarray, bandwidth: float | None = None) -> Machine:
        """The machine of a vector of unknowns."""
        macs, wide = MACS[platform][0], BANDWIDTH[platform][0]
        expected = {"macs": macs, **dict.fromkeys(CHANNELS, wide)}
        expected |= {n: f.common * (macs if n in RATES else 1) for n, f in UNKNOWN.items()}
        values = {n: expected[n] * float(np.exp(row @ x)) for n, row in self.figures(platform).items()}
        if bandwidth is not None:
            values |= dict.fromkeys(CHANNELS, bandwidth)
        return replace(MACHINES[platform], **values, block=BLOCK[platform])


PRICED = {
    "commands": {"start": 1}, "kernels": {"macs": -1, "sustained": -1},
    "pointwise": {"macs": -1, "sustained": -1, "pointwise": 1},
    "depthwise": {"depthwise": -1}, "elements": {"lanes": -1}, "functions": {"functions": -1},
    "pooled": {"pool": -1}, "rearranged": {"move": -1},
    "read": {"rdma": -1}, "written": {"wdma": -1}, "loaded": {"getw": -1},
}  # fmt: skip
"""Amount -> figure -> exponent of its price."""


class Fit:
    """Robust least squares of log time, with every derivative exact: a time is linear in the prices of its path."""

    def __init__(self, asked: dict[tuple[str, str, int], Asked], data: Sequence[Row]) -> None:
        self.asked, self.data = asked, data
        self.layout = Layout(sorted(MACHINES))

    def best(self) -> np.ndarray:
        """The unknowns that explain all rows best, from every start: there can be more than one valley."""
        made = []
        for name, value in STARTS:
            start = np.zeros(len(self.layout.keys))
            start[self.layout.keys.index((name, "common"))] = value
            made.append(self.solve(self.data, start))
        return made[int(np.argmin([self.distance(x) for x in made]))]

    def distance(self, x: np.ndarray) -> float:
        """What `solve` minimises, of all rows."""
        errors = np.asarray([self.error(row, x)[0] for row in (*self.data, EXAMPLE)]) / SCALE
        prior = x[self.layout.free] / self.layout.spread[self.layout.free]
        return float((2 * (np.sqrt(1 + errors**2) - 1)).sum() + (prior**2).sum())

    def solve(self, data: Sequence[Row], start: np.ndarray) -> np.ndarray:
        """The unknowns in the valley of a start; the example counts where its network does."""
        data = [*data, EXAMPLE] if any(r.network == EXAMPLE.network for r in data) else data
        free, spread = self.layout.free, self.layout.spread
        x = start.copy()
        seen: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

        def both(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if z.tobytes() not in seen:
                seen.clear()
                x[free] = z
                errors, slopes = zip(*(self.error(row, x) for row in data), strict=True)
                prior, unit = z / spread[free], np.diag(1 / spread[free])
                e, s = np.asarray(errors) / SCALE, np.asarray(slopes)[:, free] / SCALE
                # soft l1 of the errors alone; the priors stay quadratic
                root = np.sqrt(1 + e**2)
                value = np.sign(e) * np.sqrt(2 * (root - 1))
                slope = np.where(np.abs(e) > 1e-6, e / root / np.where(value == 0, 1, value), 1.0)
                seen[z.tobytes()] = np.concatenate([value, prior]), np.vstack([slope[:, None] * s, unit])
            return seen[z.tobytes()]

        found = least_squares(
            lambda z: both(z)[0], x[free], jac=lambda z: both(z)[1], xtol=1e-5, ftol=1e-5, max_nfev=40
        )
        x[free] = found.x
        return x

    def error(self, row: Row, x: np.ndarray) -> tuple[float, np.ndarray]:
        """log(estimated / published), and its derivative by the unknowns."""
        machine = self.layout.machine(row.platform, x, row.bandwidth)
        milliseconds, by_amount, by_exposed = self.asked[row.network, row.platform, machine.block].sensitivity(machine)
        figures = self.layout.figures(row.platform)
        slope = np.zeros(len(x))
        for amount, share in zip(AMOUNTS, by_amount, strict=True):
            for name, exponent in PRICED[amount].items():
                if row.bandwidth is None or name not in CHANNELS:
                    slope += share * exponent * figures[name]
        slope += by_exposed * figures["exposed"]
        return float(np.log(milliseconds / row.milliseconds)), slope

    def milliseconds(self, row: Row, x: np.ndarray) -> float:
        """The estimate of a row."""
        return row.milliseconds * float(np.exp(self.error(row, x)[0]))

    def left_out(self, x: np.ndarray) -> list[float]:
        """Estimates of every row by a fit without its network."""
        found = {}
        for network in dict.fromkeys(r.network for r in self.data):
            kept = [r for r in self.data if r.network != network]
            without = self.solve(kept, x)
            found |= {r: self.milliseconds(r, without) for r in self.data if r.network == network}
        return [found[r] for r in self.data]

    def roofline(self, row: Row, x: np.ndarray) -> float:
        """The naive one: multiplications at the peak, or the model's bytes at the bandwidth, whichever is longer."""
        machine = self.layout.machine(row.platform, x)
        asked = self.asked[row.network, row.platform, machine.block]
        peak = machine.macs * machine.megahertz * 1e3
        return max(asked.products / peak, asked.bytes / (machine.rdma * 1e6))


def off(estimates: Sequence[float], data: Sequence[Row]) -> np.ndarray:
    """|estimate / published - 1|."""
    return np.abs(np.asarray(estimates) / np.asarray([r.milliseconds for r in data]) - 1)


def write(fit: Fit, x: np.ndarray, path: Path = MACHINES_JSON) -> None:
    """Puts the fitted figures into the data of the machines; published ones stay."""
    table = json.loads(path.read_text())
    for platform in fit.layout.platforms:
        machine = fit.layout.machine(platform, x)
        for name in ("macs", "rdma", "wdma", "getw", *UNKNOWN):
            if not table[platform].get(name, ("", ""))[1].startswith("published"):
                value = getattr(machine, name)
                digits = max(0, 3 - int(np.floor(np.log10(abs(value)))) - 1)
                source = table[platform].get(name, ("", "fitted: experiments/ip_eval"))[1]
                table[platform][name] = [round(value, digits), source]
        table[platform]["block"] = [machine.block, "fitted: experiments/ip_eval"]
    path.write_text(json.dumps(table, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="write machines.json")
    parser.add_argument("--cache", type=Path, default=Path("asked.pkl"), help="compiled networks")
    parser.add_argument("--json", type=Path, help="where the table of estimates goes")
    parser.add_argument("--no-left-out", action="store_true", help="only the fit itself")
    options = parser.parse_args()
    fit = Fit(all_asked(options.cache), rows())
    x = fit.best()
    columns = {"fit": [fit.milliseconds(r, x) for r in fit.data], "roofline": [fit.roofline(r, x) for r in fit.data]}
    if not options.no_left_out:
        columns["left out"] = fit.left_out(x)
    for platform in fit.layout.platforms:
        print(platform, {k: float(f"{v:.3g}") for k, v in fit.layout.machine(platform, x).to_json().items()})
    print("platform model published", *columns)
    made, said = fit.milliseconds(EXAMPLE, x), EXAMPLE.milliseconds
    print(f"example report: {made:.2f} ms, published {said} ({100 * (made / said - 1):+.1f} %)")
    for k, row in enumerate(fit.data):
        print(row.platform, f"{row.model:22s} {row.milliseconds:9.2f}", *(
            f"{c[k]:9.2f} {100 * (c[k] / row.milliseconds - 1):+5.0f}%" for c in columns.values()
        ))  # fmt: skip
    for name, column in columns.items():
        e = off(column, fit.data)
        print(f"{name}: median {100 * np.median(e):.1f} %, within 30 %: {(e <= 0.3).sum()} of {len(e)}")
    if options.json:
        found = [{"platform": r.platform, "model": r.model, "published": r.milliseconds}
                 | {n: c[k] for n, c in columns.items()} for k, r in enumerate(fit.data)]  # fmt: skip
        options.json.write_text(json.dumps(found, indent=1))
    if options.write:
        write(fit, x)


if __name__ == "__main__":
    main()
