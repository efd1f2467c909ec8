"""Compile time: fixed over float in one process, from the persistent cache in the next, and over the size of a network.

python compiling.py MODEL BATCH [ROUNDS]      one JSON line
python compiling.py deep:250 1 1
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
from subjects import deep, subject
from timing import load, timed

from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.run import Emulator
from knerex_jax.flow import make_plan
from knerex_jax.performance.nominal import nominal_plan
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.runtime import FloatModel

assert make_plan  # the flow's modules are imported before the clock starts


def compile_times(name: str, batch: int, rounds: int = 3) -> dict[str, Any]:
    """Seconds to trace and compile the float step and the int8 step, in turn; all of JAX's caches cleared before."""
    if name.startswith("deep:"):
        model = deep(int(name.removeprefix("deep:")))
        planned = nominal_plan(model, PTQConfig(platform="720"))
        program, constants = planned.program, planned.constants
    else:
        asked = subject(name)
        model, bie = asked.model, asked.bie("int8")
        program, constants = bie.program, bie.constants
    inputs = {t: jax.ShapeDtypeStruct((batch, *model.graph.shape(t)), "float32") for t in model.graph.inputs}
    params = prepare(program, constants)
    parts: dict[str, list[float]] = {}

    def run(label: str, lower: Callable[[], Any]) -> None:
        jax.clear_caches()
        lowered: list[Any] = []
        cpu, wall = timed(lambda: lowered.append(lower()))
        more_cpu, more_wall = timed(lowered[0].compile)
        for key, value in {"trace_cpu": cpu, "cpu": cpu + more_cpu, "wall": wall + more_wall}.items():
            parts.setdefault(f"{label}_{key}", []).append(value)

    jax.jit(lambda x: x + 1)(1)
    for _ in range(rounds):
        step, held = FloatModel(model).step
        run("float", lambda step=step, held=held: step.lower(held, inputs))
        fixed = Emulator.of(program, constants).step(program.outputs)
        run("fixed", lambda fixed=fixed: fixed.lower(params, inputs))
    ratio = statistics.median(a / b for a, b in zip(parts["fixed_cpu"], parts["float_cpu"], strict=True))
    return {
        "nodes": len(model.graph.nodes), "instructions": len(program.instructions), "load": load(),
        **{f"{k}_s": round(statistics.median(v), 2) for k, v in parts.items()}, "fixed_over_float": round(ratio, 2),
    }  # fmt: skip


if __name__ == "__main__":
    name, batch, *rounds = sys.argv[1:]
    print(json.dumps(compile_times(name, int(batch), *map(int, rounds))))
