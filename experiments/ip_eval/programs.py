"""What every network asks of every platform: amounts of all commands, and which of them wait for which."""

import pickle
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import networks
import numpy as np
import onnx

from knerex_jax.compiler.build import Request, compile_program
from knerex_jax.compiler.work import waits, work_of
from knerex_jax.flow import decompose_onnx
from knerex_jax.graph.ir import Model
from knerex_jax.npu.isa import NpuProgram
from knerex_jax.ops import REGISTRY
from knerex_jax.performance.nominal import nominal_plan
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.targets.machine import MACHINES


@dataclass(frozen=True)
class Asked:
    """One network on one platform.

    Attributes:
      amounts: float [commands, amounts].
      serial: bool [commands], False for loads of weights, which are not part of the time one after the other.
      before: of every command, the earlier ones that it waits for.
      products: multiplications in all.
      bytes: weights, inputs, outputs: what moves at least.
    """

    amounts: np.ndarray
    serial: np.ndarray
    before: tuple[np.ndarray, ...]
    products: int
    bytes: int

    def milliseconds(self, prices: np.ndarray, exposed: np.ndarray) -> np.ndarray:
        """Time [K] for prices [amounts, K] and shares exposed [K]: `cost.estimate` for many machines at once."""
        seconds = self.amounts @ prices
        finish = np.zeros_like(seconds)
        for k, earlier in enumerate(self.before):
            if len(earlier) == 1:
                np.add(finish[earlier[0]], seconds[k], out=finish[k])
            elif len(earlier):
                np.add(finish[earlier].max(0), seconds[k], out=finish[k])
            else:
                finish[k] = seconds[k]
        side_by_side, serial = finish.max(0), seconds[self.serial].sum(0)
        return 1e3 * (side_by_side + exposed * np.maximum(serial - side_by_side, 0))


def models() -> dict[str, Model]:
    """All networks, decomposed."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in {**networks.TABLE, **networks.OTHERS}.items():
            path = Path(folder) / "model.onnx"
            onnx.save(build(), path)
            found[name] = decompose_onnx(path)
    return found


def compiled(model: Model, platform: str, sram: int | None = None) -> NpuProgram:
    """The program of a network."""
    config = PTQConfig(platform=platform)
    planned = nominal_plan(model, config)
    host = cpu_nodes(model, planned.structure, config.target, REGISTRY)
    machine = MACHINES[platform] if sram is None else replace(MACHINES[platform], sram=sram)
    return compile_program(Request(planned.program, planned.constants, host=host, machine=machine)).program


def asked(program: NpuProgram, block: int) -> Asked:
    """What a program asks for."""
    work = [work_of(c, program.buffers, block) for c in program.commands]
    engines = [w.engine for w in work]
    sizes = dict(program.sizes)
    return Asked(
        np.asarray([w.amounts for w in work], float), np.asarray([e != "getw" for e in engines]),
        tuple(np.asarray(b, int) for b in waits(program.commands, program.buffers, engines)),
        sum(w.products for w in work), sizes["weight"] + sizes["input"] + sizes["output"],
    )  # fmt: skip


def all_asked(cache: Path) -> dict[tuple[str, str, int], Asked]:
    """(network, platform, block) -> what it asks for; compiled once, which takes minutes."""
    if not cache.exists():
        found = {}
        for name, model in models().items():
            for platform in MACHINES:
                program = compiled(model, platform)
                for block in (1, 3) if platform in ("520", "720") else (1,):
                    found[name, platform, block] = asked(program, block)
            print("compiled", name, flush=True)
        cache.write_bytes(pickle.dumps(found))
    return pickle.loads(cache.read_bytes())
