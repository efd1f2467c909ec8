"""The table and the plot of what `fit.py --json FILE` found, and the example report of 530 figure by figure.

python experiments/ip_eval/report.py fit.json        # prints both tables as markdown, writes fit.png
"""

import argparse
import json
import tempfile
from pathlib import Path

import networks
import numpy as np
import onnx

import knerex_jax as kx

HERE = Path(__file__).parent
EXAMPLE = {
    "fps": 64.9343, "total cycles": 7.7001e6, "ITC(ms)": 15.4002, "total time without sync(ms)": 15.6146,
    "data move amount(GB)": 0.00578981, "data move time(ms)": 0.723726, "weight amount(KB)": 9837.86,
    "average DRAM bandwidth GB/s": 1.01477,
}  # fmt: skip
"""Tiny YOLOv3 at 416 x 416 on 530, from the manual; its configuration is ip_config_530_example.json."""
COLUMNS = ("fit", "left out", "roofline")


def table(rows: list[dict]) -> str:
    """One row per published time."""
    lines = [
        "| platform | network | published, ms | fit | | its network left out | | roofline | |",
        "|---|---|" + "---|" * 7,
    ]
    for r in rows:
        cells = (f"{r[c]:.4g} | {100 * (r[c] / r['published'] - 1):+.0f} %" for c in COLUMNS)
        lines.append(f"| {r['platform']} | {r['model']} | {r['published']:.4g} | {' | '.join(cells)} |")
    for c in COLUMNS:
        off = np.asarray([abs(r[c] / r["published"] - 1) for r in rows])
        lines.append(
            f"\n{c}: median error {100 * np.median(off):.1f} %, {(off <= 0.3).sum()} of {len(off)} within 30 %"
        )
    return "\n".join(lines)


def example() -> str:
    """The example report under its own configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny_yolov3.onnx"
        onnx.save(networks.TABLE["Tiny YOLOv3"](), path)
        made = kx.evaluate(path, "530", ip_config=HERE / "ip_config_530_example.json").summary()
    lines = ["| figure | published | estimated | error |", "|---|---|---|---|"]
    for name, value in EXAMPLE.items():
        lines.append(f"| {name} | {value:.6g} | {made[name]:.6g} | {100 * (made[name] / value - 1):+.1f} % |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Estimated over published, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(12, 4.2), sharex=True, sharey=True)
    ends = np.array([0.8, 2500])
    for panel, column in zip(panels, COLUMNS, strict=True):
        panel.plot(ends, ends, color="black", linewidth=0.8)
        panel.fill_between(ends, ends * 0.7, ends * 1.3, color="black", alpha=0.1, label="within 30 %")
        for platform in sorted({r["platform"] for r in rows}):
            mine = [r for r in rows if r["platform"] == platform]
            x, y = ([r[c] for r in mine] for c in ("published", column))
            panel.scatter(x, y, s=18, label=platform)
        panel.set(xscale="log", yscale="log", title=column, xlabel="published, ms")
    panels[0].set_ylabel("estimated, ms")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("found", type=Path, help="what fit.py --json wrote")
    parser.add_argument("--png", type=Path, default=HERE / "fit.png")
    options = parser.parse_args()
    rows = json.loads(options.found.read_text())
    print(table(rows), "\n\n" + example(), sep="")
    plot(rows, options.png)


if __name__ == "__main__":
    main()
