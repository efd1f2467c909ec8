"""What every network asks of every platform: amounts of all commands, and which of them wait for which."""

import pickle
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import networks
import numpy as np
import onnx

from knerex_jax.compiler.build import Request, compile_program
from knerex_jax.compiler.cost import prices
from knerex_jax.compiler.work import waits, work_of
from knerex_jax.flow import decompose_onnx
from knerex_jax.graph.ir import Model
from knerex_jax.npu.isa import NpuProgram
from knerex_jax.ops import REGISTRY
from knerex_jax.performance.nominal import nominal_plan
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.targets.machine import MACHINES, Machine


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
    before: tuple[tuple[int, ...], ...]
    products: int
    bytes: int

    def sensitivity(self, machine: Machine) -> tuple[float, np.ndarray, float]:
        """What `cost.estimate` says, and how it depends on the prices.

        Returns:
          Milliseconds; the derivative of their logarithm by that of every price [amounts]; the same by `exposed`.
        """
        seconds = self.amounts @ np.asarray(prices(machine))
        finish, latest = [0.0] * len(seconds), [-1] * len(seconds)
        for k, (earlier, own) in enumerate(zip(self.before, seconds.tolist(), strict=True)):
            for j in earlier:
                if finish[j] > finish[k]:
                    finish[k], latest[k] = finish[j], j
            finish[k] += own
        k = int(np.argmax(finish))
        path, side_by_side = [], finish[k]
        while k >= 0:
            path.append(k)
            k = latest[k]
        hidden = max(seconds[self.serial].sum() - side_by_side, 0.0)
        exposed = machine.exposed if hidden else 0.0
        on_path, one_by_one = self.amounts[path].sum(0), self.amounts[self.serial].sum(0)
        total = side_by_side + exposed * hidden
        slope = ((1 - exposed) * on_path + exposed * one_by_one) * np.asarray(prices(machine)) / total
        return 1e3 * total, slope, exposed * hidden / total


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
        tuple(waits(program.commands, program.buffers, engines)),
        sum(w.products for w in work), sizes["weight"] + sizes["input"] + sizes["output"],
    )  # fmt: skip


def all_asked(cache: Path) -> dict[tuple[str, str, int], Asked]:
    """(network, platform, block) -> what it asks for; compiled once, which takes minutes."""
    if not cache.exists():
        found = {}
        for name, model in models().items():
            for platform in MACHINES:
                program = compiled(model, platform)
                for block in (1, 3):
                    found[name, platform, block] = asked(program, block)
            print("compiled", name, flush=True)
        cache.write_bytes(pickle.dumps(found))
    return pickle.loads(cache.read_bytes())
