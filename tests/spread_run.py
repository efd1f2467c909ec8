"""Calibrates and quantizes a small net, and hashes everything found; run by tests in processes of their own.

python spread_run.py DEVICES[,DEVICES...]                      prints JSON, devices -> hashes
python spread_run.py PORT NUMBER PROCESSES [FAIL]              one of several processes: prints its own hashes; FAIL: this
                                                               process cannot read its data
"""

import hashlib
import json
import sys
from collections.abc import Mapping
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
    """Convolutions with channels that differ, a pooled branch and a matrix product."""
    net = Net({"x": (1, 3, 16, 16)})
    body = net.add("Relu", net.conv("x", 8))
    pooled = net.add("GlobalAveragePool", net.conv(body, 6))
    return net.model(net.add("Sigmoid", pooled), body)


def digest(*arrays: Any) -> str:
    """Of arrays, their element types and shapes."""
    found = hashlib.sha256()
    for a in map(np.asarray, arrays):
        found.update(f"{a.dtype} {a.shape}".encode() + np.ascontiguousarray(a).tobytes())
    return found.hexdigest()


def hashes(model: Model, measured: Measured, config: kx.PTQConfig, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of counts, ranges, plan and codes."""
    meta, arrays = measured.state.packed()
    ranges = flow.ranges_of(measured, config)
    planned = kx.make_plan(model, ranges, config)
    fixed = kx.FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    formats = planned.plan.formats.values()
    return {
        "counts": digest(json.dumps(meta), *arrays.values()),
        "ranges": digest(*(r.layer_absmax(bits) for r in ranges.tensors.values() for bits in (8, 15))),
        "plan": digest(*(a for f in formats for a in (f.bits, f.radix, f.scale))),
        "codes": digest(*fixed.run(inputs, "fixed").values()),
    }


SAMPLES, BATCH = 45, 4
"""The last step of 8 devices has 13 samples: three full microbatches, one of a single sample, four empty ones."""


def calibrated(devices: int | None, *, broken: bool = False) -> dict[str, str]:
    """Hashes of a run on so many devices; broken: the last sample is no number."""
    model = small_model()
    data = samples(model, SAMPLES, 3)
    if broken:
        data["x"][-1] = np.nan
    config = kx.PTQConfig(batch_size=BATCH, devices=devices, data_analysis_pct=0.99)
    measured = flow.measure(model, data, config)
    return hashes(model, measured, config, {t: a[:5] for t, a in data.items()})


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps({n: calibrated(int(n)) for n in sys.argv[1].split(",")}))
    else:
        processes.join(f"localhost:{sys.argv[1]}", int(sys.argv[3]), int(sys.argv[2]))
        print(json.dumps(calibrated(None, broken="FAIL" in sys.argv)))
