"""Interleaved timing: every contestant runs once per round, and a ratio is taken within its round."""

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Times = Mapping[str, np.ndarray]
"""Contestant -> [rounds, 2]: CPU seconds (user and system, all threads) and wall seconds."""


def interleave(runs: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 2) -> Times:
    """Times every contestant once per round, in the same order; `warm` calls of each before it counts."""
    for run in runs.values():
        for _ in range(warm):
            run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(run))
    return {name: np.asarray(pairs) for name, pairs in times.items()}


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of one call."""
    before, start = cpu_seconds(), time.perf_counter()
    run()
    return cpu_seconds() - before, time.perf_counter() - start


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def summary(times: Times, base: str) -> dict[str, dict[str, float]]:
    """Medians in ms, and medians of each round's ratio to `base`, with their least and largest."""
    rows = {}
    for name, t in times.items():
        cpu, wall = 1e3 * np.median(t, axis=0)
        ratio = t / times[base]
        cpu_ratio, wall_ratio = np.median(ratio, axis=0)
        rows[name] = {
            "cpu_ms": cpu, "wall_ms": wall, "cpu_ratio": cpu_ratio, "wall_ratio": wall_ratio,
            "cpu_ratio_least": ratio[:, 0].min(), "cpu_ratio_most": ratio[:, 0].max(),
        }  # fmt: skip
    return {name: {k: round(float(v), 4) for k, v in row.items()} for name, row in rows.items()}


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load() -> float:
    """Runnable processes, averaged over the last minute."""
    return round(os.getloadavg()[0], 1)


def environment() -> dict[str, Any]:
    """Machine and versions that a figure depends on."""
    return {
        "cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "numpy", "onnxruntime")},
    }  # fmt: skip


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if f in found.get("flags", "").split()]
    return f"{found.get('model name', '?')} ({' '.join(flags) or 'no avx2'})"
