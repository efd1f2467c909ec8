"""AMD Quark's percentile calibration and quantization of a model, from nothing; runs in Quark's environment.

python quark_calibration.py FOLDER SAMPLES      one JSON line; FOLDER as `experiments/peers/export.py` writes it
"""

# Its packages are in an environment of their own.
# pyright: reportMissingImports=false

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))

from exchange import Exchange  # noqa: E402
from quark.onnx import ModelQuantizer  # noqa: E402
from quark_peer import CONFIGURATIONS, Reader  # noqa: E402


def whole(folder: Path, samples: int) -> dict[str, Any]:
    """CPU and wall seconds, and peak memory in MiB, of one call of `quantize_model`: int8, percentiles, symmetric."""
    exchange = Exchange(folder, "quark")
    arrays = {name: values[:samples] for name, values in exchange.calibration().items()}
    quantizer = ModelQuantizer(CONFIGURATIONS["s8s8_percentile_channel_symmetric"]())
    load, before = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_SELF)
    wall = time.perf_counter()
    with tempfile.TemporaryDirectory() as made, contextlib.redirect_stdout(sys.stderr):
        target = str(Path(made) / "quantized.onnx")
        quantizer.quantize_model(str(exchange.float_model), target, calibration_data_reader=Reader(arrays))
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "side": "quark", "samples": samples, "method": "percentile",
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_s": round(wall, 1), "peak_mib": round(after.ru_maxrss / 1024),
        "before_mib": round(before.ru_maxrss / 1024), "load": round(load, 1),
    }  # fmt: skip


if __name__ == "__main__":
    folder, samples = sys.argv[1:]
    print(json.dumps(whole(Path(folder), int(samples))))
