"""What this machine has, which fast paths the emulator takes on it, and whether they give the contract's integers."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from knerex_jax import embedded
from knerex_jax.artifacts.bie import Bie
from knerex_jax.artifacts.report import versions
from knerex_jax.emulator.methods import Method
from knerex_jax.emulator.stream import compiler_options
from knerex_jax.emulator.trust import methods_here
from knerex_jax.files import cache_dir
from knerex_jax.fixedpoint.qformat import ARITH_VERSION
from knerex_jax.flow import decompose_onnx
from knerex_jax.match import bit_true_match
from knerex_jax.npu_model import NpuModel, compile_bie
from knerex_jax.performance.nominal import nominal_plan
from knerex_jax.program.bounds import bound_program
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.runtime import FixedModel

WIDTHS: Mapping[str, Mapping[str, str]] = {
    "int8": {},
    "int16": {f"{part}_bitwidth_mode": "int16" for part in ("datapath", "weight", "model_in", "model_out")},
}
"""Widths of the self-test."""

_EXTRAS = {"yaml": "yaml", "crypto": "cryptography", "cuda": "jax_cuda13_plugin"}
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_SLOW = 5.0
"""An int8 product that takes so many times as long as a float32 one has no kernel of its own in this jaxlib."""


@dataclass(frozen=True)
class SelfTest:
    """One plan of the embedded model, computed by the emulator as it would be here, and by the NumPy simulator.

    Attributes:
      widths: "int8" or "int16".
      methods: how its sums of products are computed, such as "3 conv int8, 1 dot int8".
      codes: number of codes compared, all layers.
      differing: of these; anything but 0 means that results of this machine are not to be trusted.
      first: where the first of them is.
    """

    widths: str
    methods: str
    codes: int
    differing: int
    first: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `knerex doctor` says.

    Attributes:
      versions: package -> version; "arithmetic": of the contract.
      devices: what JAX computes on.
      backend: "cpu", "gpu" or "tpu".
      cpu: name, cores and features that matter for integer products.
      speed: product -> time of the int8 form over that of the float32 form; about 1 or less where it is fast.
      compiler_options: options this jaxlib takes for the emulator.
      extras: optional part -> whether it is installed.
      folders: "cache" of fetched models; "compilations", JAX's cache of compiled programs, or None.
      free_gb: "disk" of the current folder, "memory"; None where the system does not say.
      tests: the self-test.
    """

    versions: Mapping[str, str]
    devices: tuple[str, ...]
    backend: str
    cpu: Mapping[str, Any]
    speed: Mapping[str, float]
    compiler_options: Mapping[str, Any]
    extras: Mapping[str, bool]
    folders: Mapping[str, str | None]
    free_gb: Mapping[str, float | None]
    tests: tuple[SelfTest, ...]

    @property
    def healthy(self) -> bool:
        """Whether the self-test found no difference."""
        return all(test.differing == 0 for test in self.tests)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would make this installation better."""
        said = [
            f"int8 {product} takes {ratio:.0f} times as long as float32: this jaxlib has no fast kernel for it here; "
            "a newer jaxlib (Python 3.12 or newer) may"
            for product, ratio in self.speed.items()
            if ratio > _SLOW
        ]
        if self.folders["compilations"] is None:
            said.append(
                "compiled programs are not kept, so every run compiles: JAX_ENABLE_COMPILATION_CACHE is false, or the "
                "cache folder cannot be written"
            )
        if self.backend == "cpu" and self.extras["cuda"]:
            said.append("the CUDA plugin is installed, but JAX sees no GPU: look at the driver (nvidia-smi)")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"healthy": self.healthy, "advice": list(self.advice)}


def diagnose() -> Diagnosis:
    """Looks at the machine and runs the self-test: some seconds."""
    backend = jax.default_backend()
    return Diagnosis(
        versions={**versions(), "onnxruntime": _onnxruntime(), "arithmetic": str(ARITH_VERSION)},
        devices=tuple(f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()),
        backend=backend,
        cpu=_cpu(),
        speed={"dot": _ratio(_dot), "convolution": _ratio(_convolution)},
        compiler_options=compiler_options(backend),
        extras={extra: importlib.util.find_spec(module) is not None for extra, module in _EXTRAS.items()},
        folders={"cache": str(cache_dir()), "compilations": jax.config.jax_compilation_cache_dir},
        free_gb={"disk": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1), "memory": _free_memory_gb()},
        tests=tuple(_self_test(name) for name in WIDTHS),
    )


def _self_test(widths: str) -> SelfTest:
    """Convolutions of every form, a dot, sums and pools, on two digits."""
    config = PTQConfig(platform="720", **WIDTHS[widths])
    planned = nominal_plan(decompose_onnx(embedded.model_path(), config), config)
    fixed = FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
    compiled = compile_bie(fixed.bie)
    inputs = {t: a[:2] for t, a in embedded.evaluation()[0].items()}
    match = bit_true_match(fixed, NpuModel(compiled.program, compiled.weight), inputs, layers=True, batch_size=2)
    methods = methods_here(planned.program, bound_program(planned.program, planned.constants))
    return SelfTest(
        widths, _summary([m for _, m in methods.steps]), match.codes, match.differing,
        None if match.first is None else str(match.first),
    )  # fmt: skip


def _summary(methods: list[Method]) -> str:
    """How often each form and element type occurs, where there are products at all."""
    kinds = Counter(f"{m.form} {'int32' if m.form == 'taps' else m.engine}" for m in methods if m.form != "none")
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _ratio(product: Callable[[Any, Any], Any]) -> float:
    """Time of a product in int8 over that in float32."""
    seconds = []
    for kind in (jnp.int8, jnp.float32):
        run = jax.jit(lambda x, kind=kind: product(x, kind))
        x = jnp.ones((1, 32, 32, 128), kind)
        run(x).block_until_ready()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            run(x).block_until_ready()
            times.append(time.perf_counter() - started)
        seconds.append(min(times))
    return round(seconds[0] / seconds[1], 2)


def _sum_type(kind: Any) -> Any:
    return jnp.int32 if kind == jnp.int8 else jnp.float32


def _dot(x: jax.Array, kind: Any) -> jax.Array:
    weight = jnp.ones((128, 128), kind)
    return jax.lax.dot_general(
        x.reshape(-1, 128), weight, (((1,), (0,)), ((), ())), preferred_element_type=_sum_type(kind)
    )


def _convolution(x: jax.Array, kind: Any) -> jax.Array:
    weight = jnp.ones((3, 3, 128, 32), kind)
    return jax.lax.conv_general_dilated(
        x, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=_sum_type(kind)
    )


def _cpu() -> dict[str, Any]:
    """Linux says in /proc/cpuinfo what the processor can do; elsewhere only its name is known."""
    found: dict[str, Any] = {"name": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return found | {"features": None}
    pairs = (line.partition(":") for line in lines)
    table = {key.strip(): value.strip() for key, _, value in pairs}
    flags = set(table.get("flags", table.get("Features", "")).split())
    return found | {
        "name": table.get("model name", found["name"]),
        "features": [f for f in _CPU_FEATURES if f in flags],
    }


def _free_memory_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6, 1)
    except (OSError, StopIteration, ValueError):
        return None


def _onnxruntime() -> str:
    return importlib.metadata.version("onnxruntime")
