"""Work that is spread over simulated devices or over processes; run by tests in processes of their own.

python spread_run.py devices N [N ...]      prints JSON: devices -> hashes and scores of a small net calibrated on them;
                                            on the last number of devices, of plan and codes, too
python spread_run.py process PORT NUMBER    one of two: quantizes the tiny model of this folder, prints its scores
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from helpers import Net, samples

import knerex_jax as kx
from knerex_jax import flow
from knerex_jax.artifacts.bie import Bie
from knerex_jax.calibrate.measured import Measured
from knerex_jax.graph.ir import Model
from knerex_jax.parallel import processes


def small_model() -> Model:
    """Two convolutions and a mean, whose sums of floats would show another order."""
    net = Net({"x": (1, 3, 16, 16)})
    return net.model(net.add("GlobalAveragePool", net.conv(net.add("Relu", net.conv("x", 8)), 6)))


def digest(*arrays: Any) -> str:
    """Of arrays, their element types and shapes."""
    found = hashlib.sha256()
    for a in map(np.asarray, arrays):
        found.update(f"{a.dtype} {a.shape}".encode() + np.ascontiguousarray(a).tobytes())
    return found.hexdigest()


def counted(measured: Measured) -> str:
    """Of all counts."""
    meta, arrays = measured.state.packed()
    return digest(json.dumps(meta), *arrays.values())


def hashes(
    model: Model, measured: Measured, config: kx.PTQConfig, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], kx.FixedModel]:
    """Of counts, ranges, plan and codes; and the fixed-point model."""
    ranges = flow.ranges_of(measured, config)
    planned = kx.make_plan(model, ranges, config)
    fixed = kx.FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    formats = planned.plan.formats.values()
    found = {
        "counts": counted(measured),
        "ranges": digest(*(r.layer_absmax(bits) for r in ranges.tensors.values() for bits in (8, 15))),
        "plan": digest(*(a for f in formats for a in (f.bits, f.radix, f.scale))),
        "codes": digest(*fixed.run(inputs, "fixed").values()),
    }
    return found, fixed


SAMPLES, BATCH = 45, 4
"""The last step of 8 devices has 13 samples: three full microbatches, one of a single sample, four empty ones."""


def calibrated(devices: int, *, whole: bool = True) -> dict[str, Any]:
    """Hashes and scores of a run on so many devices; of counts and the float model alone if not `whole`."""
    model = small_model()
    data = samples(model, SAMPLES, 3)
    config = kx.PTQConfig(batch_size=BATCH, devices=devices, data_analysis_pct=0.99)
    measured = flow.measure(model, data, config)
    found, models = {"counts": counted(measured)}, [kx.FloatModel(model)]
    if whole:
        more, fixed = hashes(model, measured, config, {t: a[:5] for t, a in data.items()})
        found, models = found | more, [*models, fixed]
    labels = np.random.default_rng(4).normal(size=(SAMPLES, 6, 1, 1))
    for each in models:
        score = kx.evaluate_dataset(each, data, ["mse", "snr_db"], labels=labels, batch_size=BATCH, devices=devices)
        found |= {f"{score.kind} {name}": value for name, value in score.scores.items()}
    return found


def quantized(out: str) -> dict[str, Any]:
    """Scores of the tiny model of the current folder after a run."""
    options = {"batch_size": 4, "data_analysis_pct": 0.99}
    result = kx.run_ptq(p_onnx="tiny.onnx", np_txt="data", p_output=out, mode=1, **options)
    labels = np.arange(21) % 7
    found = [
        kx.evaluate_dataset(model, "data", {"first": "top1", "mean": mean}, labels=labels, batch_size=4)
        for model in ("tiny.onnx", "whole/tiny.bie", "whole/models_720.nef")
    ]
    return {"scores": [score.to_json() for score in found], "paths": sorted(map(str, result.paths.values()))}


def mean(outputs: Mapping[str, np.ndarray], labels: Sequence[int]) -> np.ndarray:
    """The mean output, and the label."""
    return next(iter(outputs.values())).mean((1, 2, 3), np.float64) * np.asarray(labels)


if __name__ == "__main__":
    if sys.argv[1] == "devices":
        print(json.dumps({n: calibrated(int(n), whole=n == sys.argv[-1]) for n in sys.argv[2:]}))
    else:
        processes.join(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]))
        print(json.dumps(quantized(f"out{sys.argv[3]}")))
