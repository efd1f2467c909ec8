"""Compiled programs stay on disk: the next run of a model compiles nothing that an earlier one did."""

import hashlib
import os
import platform
import sys
from pathlib import Path

from knerex_jax.files import cache_dir

SHORTEST_S = 0.1
"""Programs that compile faster are not kept."""

LARGEST = 1 << 30
"""Bytes of all kept programs of one processor; beyond, those that were not used for longest go."""


def keep_compilations(folder: str | Path | None = None) -> Path | None:
    """Turns on JAX's cache of compiled programs, for this process and those that it starts.

    The `knerex` command does so by itself; in Python call it before anything is run. `JAX_COMPILATION_CACHE_DIR` and
    `JAX_ENABLE_COMPILATION_CACHE=false` go before it.

    Args:
      folder: where they are kept; None: `compilations/<processor>` in `~/.cache/knerex_jax` (or `KNEREX_CACHE`). Code
        for one processor may be illegal on another, and homes can be shared: hence one folder each.

    Returns:
      The folder in use; None: the cache is off, or the folder cannot be written.
    """
    env = os.environ
    if env.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("0", "false", "no", "off"):
        return None
    if asked := env.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(asked)
    path = Path(folder) if folder is not None else cache_dir() / "compilations" / _processor()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(path, os.W_OK):
        return None
    options = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": SHORTEST_S,
        "jax_compilation_cache_max_size": LARGEST,
    }
    jax = sys.modules.get("jax")
    for name, value in options.items():
        if name.upper() not in env:
            env[name.upper()] = str(value)
            if jax is not None:  # it has read its variables
                jax.config.update(name, value)
    return path


def _processor() -> str:
    """Names what compiled code depends on; the machine's name where the processor cannot be asked."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said = sorted({line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features")})
    except OSError:
        said = [platform.processor(), platform.node()]
    return hashlib.sha256("\n".join([platform.machine(), *said]).encode()).hexdigest()[:12]
