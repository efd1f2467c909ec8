"""By how many bits other data exceed the ranges of the calibration data, channel by channel; see README.md.

python experiments/int16_headroom/excess.py [--models A1,A2] [--samples 96]
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from real_models import REAL_MODELS  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax.lowering.float import lower_float  # noqa: E402
from knerex_jax.refine.split import HELD_OUT_EVERY, fold_of  # noqa: E402

BATCH, FOLDS = 8, range(HELD_OUT_EVERY)
Peaks = Mapping[str, np.ndarray]
"""Tensor -> [N, C], the largest magnitude of every sample and channel."""


def peaks(model: Any, inputs: Mapping[str, np.ndarray]) -> Peaks:
    """Of all feature maps of a model with one input; samples that fill no batch are left out."""
    graph, (name,) = model.graph, model.graph.inputs
    maps = [t for n in graph.nodes for t in n.outputs if len(graph.shape(t)) == 4]
    fn, params = lower_float(model, taps=tuple(maps))

    @jax.jit
    def largest(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        values = jax.vmap(fn, (None, 0))(params, {name: x})
        return {t: abs(v).reshape(len(v), -1, v.shape[-2] * v.shape[-1]).max(2) for t, v in values.items()}

    data = np.asarray(inputs[name])
    starts = range(0, len(data) - BATCH + 1, BATCH)
    found = [largest(params, data[s : s + BATCH].reshape(BATCH, *graph.shape(name))) for s in starts]
    return {t: np.concatenate([np.asarray(f[t]) for f in found]) for t in maps}


def excess_bits(seen: Peaks, others: Peaks, guard: int) -> float:
    """The largest log2 of a channel's peak over its guarded range, 0 where nothing exceeds."""
    worst = 0.0
    for t, values in seen.items():
        own = values.max(0)
        ranges = np.maximum(own, own.max() * 2.0**-guard)
        if ranges.max() > 0:
            worst = max(worst, float(np.log2(np.maximum(others[t].max(0) / ranges, 1)).max()))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda text: text.split(","), default=["A1", "A2"])
    parser.add_argument("--samples", type=int, default=96, help="evaluation samples")
    args = parser.parse_args()
    print("| model | guard | evaluation | folds |\n|---|---|---|---|")
    for name in args.models:
        real = REAL_MODELS[name]()
        model = kx.decompose_onnx(real.path, kx.PTQConfig(platform="730", input_shape=real.input_shapes))
        seen, others = peaks(model, real.calibration(None)), peaks(model, real.evaluation(args.samples)[0])
        fold = fold_of(np.arange(len(next(iter(seen.values())))))
        parts = [
            ({t: v[fold != k] for t, v in seen.items()}, {t: v[fold == k] for t, v in seen.items()}) for k in FOLDS
        ]
        for guard in range(5):
            folds = [excess_bits(most, rest, guard) for most, rest in parts]
            held = " ".join(f"{bits:.2f}" for bits in folds)
            print(f"| {name} | {guard} | {excess_bits(seen, others, guard):.2f} | {held} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
