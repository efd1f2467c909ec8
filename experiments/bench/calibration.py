"""Cost of a calibration: its readings over the float forward, and whole runs against ONNX Runtime's calibrator.

    python calibration.py ours A6_det 16 percentage
    python calibration.py ort  A6_det 16

A whole run is a process of its own, because its peak memory is asked for; it prints one JSON line.
"""

import importlib.util
import json
import sys
from typing import Any

from subjects import ROOT, Subject, subject
from timing import load, peak_mib, timed

from knerex_jax.flow import measure, ranges_of
from knerex_jax.quantize.config import make_config


def readings(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """First and second reading of one warm batch over the float forward (`2026-11-23_calibration_cost`)."""
    spec = importlib.util.spec_from_file_location(
        "calibration_cost", ROOT / "experiments" / "2026-11-23_calibration_cost" / "bench.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    asked = subject(name)
    held = asked.calibration(batch)
    samples = [{t: v[k] for t, v in held.items()} for k in range(batch)]
    case = module.case_of(asked.model, lambda: iter(samples))
    return {"load": load(), "rounds": rounds, **module.cost(case, batch, rounds)}


def whole(side: str, name: str, samples: int, method: str = "percentage") -> dict[str, Any]:
    """Ranges of every tensor from so many samples, from nothing (compilation included), on either side."""
    asked = subject(name)
    arrays = asked.calibration(samples)
    idle = peak_mib()
    cpu, wall = timed(lambda: _ours(asked, arrays, method) if side == "ours" else _theirs(asked, arrays))
    return {
        "side": side, "samples": samples, "method": method if side == "ours" else "percentile", "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1), "peak_mib": round(peak_mib()), "before_mib": round(idle), "load": load(),
    }  # fmt: skip


def _ours(asked: Subject, arrays: Any, method: str) -> None:
    config = make_config(platform="720", datapath_range_method=method, batch_size=4)
    ranges_of(measure(asked.model, arrays, config), config)


def _theirs(asked: Subject, arrays: Any) -> None:
    from peers import percentile_ranges

    percentile_ranges(asked, arrays)


if __name__ == "__main__":
    side, name, samples, *method = sys.argv[1:]
    print(json.dumps(whole(side, name, int(samples), *method)))
