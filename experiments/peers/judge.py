"""Runs what the peers made on the evaluation data and tabulates it; runs in the environment of the project.

python experiments/peers/judge.py --folder FOLDER [--models A1,A9] [--out FOLDER/NAME]
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from exchange import Arrays, feeds  # noqa: E402
from export import MODELS  # noqa: E402
from real_models import REAL_MODELS  # noqa: E402

from knerex_jax.metrics import behind_sigmoids, snr_db  # noqa: E402
from knerex_jax.zoo import ZOO  # noqa: E402

HEADERS = (
    "model", "peer", "configuration", "samples", "worst dB", "SNR dB per output", "float -> quantized",
    "reads no codes",
)  # fmt: skip

Row = dict[str, Any]


def run(path: Path, inputs: Arrays) -> list[np.ndarray]:
    """Outputs in their order, [N, ...] each: the graph as it is written, nothing fused, in float."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    rows = [session.run(None, dict(zip(names, feed.values(), strict=True))) for feed in feeds(inputs)]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def reading_no_codes(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes by operator that compute, but read no activation that was quantized: what the peer leaves in float."""
    constants = {t.name for t in model.graph.initializer}
    coded: set[str] = set()
    left: Counter[str] = Counter()
    for node in model.graph.node:  # in the order of execution
        read = {name for name in node.input if name} - constants
        if not read:
            constants |= set(node.output)
        elif node.op_type == "DequantizeLinear":
            coded |= set(node.output)
        elif node.op_type != "QuantizeLinear" and not coded & read:
            left[node.op_type] += 1
    return dict(left.most_common())


class Judge:
    """A model with its evaluation data and what the float file gives for it."""

    def __init__(self, name: str, folder: Path, samples: int | None, sigmoids: bool) -> None:
        self.name, self.folder, self.samples, self.real = name, folder / name, samples, REAL_MODELS[name]()
        self.behind = ZOO[name].sigmoid_outputs if sigmoids and name in ZOO else ()

    @cached_property
    def evaluation(self) -> tuple[Arrays, np.ndarray | None]:
        inputs, labels = self.real.evaluation(self.samples)
        model = onnx.load(self.folder / "float.onnx", load_external_data=False)
        return {i.name: inputs[i.name] for i in model.graph.input}, labels

    @cached_property
    def reference(self) -> Arrays:
        stored = self.folder / f"reference{self.samples or ''}.npz"
        if not stored.is_file():
            model = onnx.load(self.folder / "float.onnx", load_external_data=False)
            outputs = run(self.folder / "float.onnx", self.evaluation[0])
            np.savez(stored, **{o.name: v for o, v in zip(model.graph.output, outputs, strict=True)})
        with np.load(stored) as arrays:
            return dict(arrays)

    def judged(self, path: Path) -> Row:
        """SNR and measures of one quantized file; peers rename outputs, so these go by their order."""
        outputs = run(path, self.evaluation[0])
        named = {
            name: value.reshape(exact.shape)
            for (name, exact), value in zip(self.reference.items(), outputs, strict=True)
        }
        labels = self.evaluation[1]
        exact, made = (behind_sigmoids(v, self.behind) for v in (self.reference, named))
        snr = {name: snr_db(v, made[name]) for name, v in exact.items()}
        return {
            "worst_db": min(snr.values()),
            "snr_db": snr,
            "float": self.real.metrics(self.reference, self.reference, labels),
            "quantized": self.real.metrics(named, self.reference, labels),
            "reading_no_codes": reading_no_codes(onnx.load(path, load_external_data=False)),
            "samples": len(next(iter(named.values()))),
        }

    def rows(self, asked: Callable[[str], bool]) -> Iterator[Row]:
        """One per configuration on record; what is judged already is read, whatever is asked."""
        records = (p for p in sorted(self.folder.glob("*/*.json")) if ".judged" not in p.name)
        for record in records:
            row = {"model": self.name, "peer": record.parent.name, "configuration": record.stem}
            row |= json.loads(record.read_text())
            verdict = record.with_suffix(".judged-behind-sigmoids.json" if self.behind else ".judged.json")
            if verdict.is_file():
                row |= json.loads(verdict.read_text())
            elif not asked(f"{row['peer']}/{row['configuration']}"):
                continue
            elif "error" not in row:
                try:
                    found = self.judged(record.with_suffix(".onnx"))
                except Exception as error:  # a file that does not run is a result
                    found = {"error": f"does not run: {type(error).__name__}: {error}"[:500]}
                verdict.write_text(json.dumps(found, indent=1, default=float))
                row |= found
            yield row


def line(row: Row) -> str:
    """One markdown row."""
    start = f"| {row['model']} | {row['peer']} | {row['configuration']} | "
    if "error" in row:
        return start + f" | failed | {row['error'].splitlines()[0].replace('|', '/')[:160]} | | |"
    snr = " / ".join(f"{v:.1f}" for v in row["snr_db"].values())
    scores = ", ".join(f"{k} {row['float'][k]:.4g} -> {v:.4g}" for k, v in row["quantized"].items())
    left = ", ".join(f"{k} {v}" for k, v in row["reading_no_codes"].items()) or "-"
    samples = f"{row['calibration']} / {row['samples']}"
    return start + " | ".join((samples, f"{row['worst_db']:.1f}", snr, scores, left)) + " |"


def table(rows: list[Row]) -> str:
    heading = f"| {' | '.join(HEADERS)} |\n|{'---|' * len(HEADERS)}"
    return "\n".join([heading, *map(line, rows)]) + "\n"


def best(rows: list[Row]) -> str:
    """Worst-output SNR in dB: one row per configuration, one column per model."""
    models = list(dict.fromkeys(r["model"] for r in rows))
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(f"{row['peer']} {row['configuration']}", {})[row["model"]] = row

    def cell(by_model: Mapping[str, Row], model: str) -> str:
        row = by_model.get(model)
        return "" if row is None else "failed" if "error" in row else f"{row['worst_db']:.1f}"

    lines = [f"| {name} | {' | '.join(cell(by_model, m) for m in models)} |" for name, by_model in found.items()]
    return "\n".join([f"| worst output, dB | {' | '.join(models)} |", "|---|" + "---|" * len(models), *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--configurations", default="*", help="patterns of PEER/CONFIGURATION; default: all")
    parser.add_argument("--samples", type=int, help="evaluation samples; default: all; judged rows keep theirs")
    parser.add_argument("--sigmoids", action="store_true", help="SNR of scores behind the sigmoids that follow (A3)")
    parser.add_argument("--out", type=Path, help="for .json and .md; default: FOLDER/table")
    args = parser.parse_args()
    out = args.out or args.folder / "table"
    patterns = args.configurations.split(",")

    def asked(configuration: str) -> bool:
        return any(fnmatch(configuration, pattern) for pattern in patterns)

    rows: list[Row] = []
    for name in (n for n in args.models.split(",") if (args.folder / n).is_dir()):
        for row in Judge(name, args.folder, args.samples, args.sigmoids).rows(asked):
            rows.append(row)
            print(line(row), flush=True)
            out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=1))
            out.with_suffix(".md").write_text(best(rows) + "\n" + table(rows))


if __name__ == "__main__":
    main()
