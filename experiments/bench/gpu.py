"""On a GPU: are the codes those of the CPU, and how many images a second?

    python gpu.py                                     # all models, widths and batches; needs a GPU
    python gpu.py --models A9 --batch 4 --forced      # without one: the GPU's methods on the CPU, codes only

Every model of the zoo, int8, w8a16 and int16: codes of the same inputs from the CPU's methods on the CPU and from the
GPU's on the GPU, each layer's signature tried against integers first (`emulator/trust.py`). Then images per second on
the device, inputs on it: float32 and bfloat16 of the float lowering, and the emulation with each element type that the
bounds permit. Without a GPU it says so and ends with exit code 2, unless --forced.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from subjects import WIDTHS, Subject, subject
from timing import environment

from knerex_jax.artifacts.bie import Bie
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import Methods, choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.stream import samples_at_once
from knerex_jax.emulator.trust import ENGINES, methods_here
from knerex_jax.lowering.batch import over_samples
from knerex_jax.lowering.float import lower_float
from knerex_jax.program.bounds import bound_program

MODELS = ("A1", "A2", "A3_front", "A3_back", "A4", "A5", "A6_det", "A6_cls", "A7", "A8", "A9")


def gpu() -> Any:
    """The first GPU, or None."""
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        return None


def emulate(
    bie: Bie, methods: Methods, device: Any, at_once: int, taps: tuple[str, ...] | None = None
) -> Callable[[Mapping[str, Any]], Any]:
    """The emulation on a device: inputs [N, *shape] there -> codes of the outputs, or of `taps`."""
    step = jax.jit(over_samples(lower_fixed(bie.program, methods, taps), at_once))
    params = jax.device_put(prepare(bie.program, bie.constants), device)
    return lambda inputs: step(params, inputs)


def compare(asked: Subject, bie: Bie, batch: int, device: Any) -> dict[str, Any]:
    """Codes that differ between the CPU's methods on the CPU and the GPU's on `device`; all tensors up to batch 8."""
    program = bie.program
    taps = tuple(program.tensor) if batch <= 8 else None
    bounds = bound_program(program, bie.constants)
    data, host = asked.batch(batch), jax.devices("cpu")[0]
    with jax.default_device(host):
        wanted = emulate(bie, choose(program, bounds, "cpu"), host, samples_at_once(program), taps)(
            jax.device_put(data, host)
        )
    with jax.default_device(device):
        methods = methods_here(program, bounds, "gpu", samples=batch)
        found = emulate(bie, methods, device, batch, taps)(jax.device_put(data, device))
    engines = [m.engine for _, m in methods.steps if m.form not in ("none", "taps")]
    return {
        "codes": int(sum(np.asarray(v).size for v in wanted.values())),
        "differing": int(sum((np.asarray(v) != np.asarray(found[t])).sum() for t, v in wanted.items())),
        "engines": {e: engines.count(e) for e in dict.fromkeys(engines)},
    }


def rates(asked: Subject, bie: Bie, batch: int, device: Any, repeats: int) -> dict[str, float]:
    """Images per second on a device; inputs there, results left there."""
    data = jax.device_put(asked.batch(batch), device)
    fn, constants = lower_float(asked.model)
    found = {}
    for name, kind in (("float32", jnp.float32), ("bfloat16", jnp.bfloat16)):

        def cast(a: Any, kind: Any = kind) -> Any:
            a = jnp.asarray(a)
            return a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a

        held, inputs = jax.device_put({t: cast(v) for t, v in constants.items()}, device), jax.tree.map(cast, data)
        step = jax.jit(jax.vmap(fn, (None, 0)))
        try:
            found[name] = rate(lambda step=step, held=held, inputs=inputs: step(held, inputs), batch, repeats)
        except TypeError as error:  # an operator that insists on one type
            found[f"{name}_failed"] = str(error)[:120]
    bounds = bound_program(bie.program, bie.constants)
    tried = {"fixed": methods_here(bie.program, bounds, "gpu", samples=batch)}
    tried |= {f"fixed {e}": choose(bie.program, bounds, "gpu", engine=e) for e in ENGINES[:-1]}
    for name, methods in tried.items():
        run = emulate(bie, methods, device, batch)
        found[name] = rate(lambda run=run: run(data), batch, repeats)
    return found


def rate(run: Callable[[], Any], batch: int, repeats: int) -> float:
    jax.block_until_ready(run())
    start = time.perf_counter()
    for _ in range(repeats):
        made = run()
    jax.block_until_ready(made)
    return round(repeats * batch / (time.perf_counter() - start), 1)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=list(MODELS))
    p.add_argument("--widths", nargs="+", default=list(WIDTHS))
    p.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64])
    p.add_argument("--repeats", type=int, default=20)
    p.add_argument("--forced", action="store_true", help="without a GPU: its methods on the CPU, codes only")
    p.add_argument("--json", type=Path, help="also write the rows here")
    args = p.parse_args()
    device = gpu()
    if device is None:
        print("no GPU: JAX sees only", ", ".join(str(d) for d in jax.devices()), file=sys.stderr)
        if not args.forced:
            print("nothing was measured; --forced compares codes of the GPU's methods on the CPU", file=sys.stderr)
            return 2
    where = device or jax.devices("cpu")[0]
    rows = []
    for name in args.models:
        asked = subject(name)
        for width in args.widths:
            bie = asked.bie(width)
            for batch in args.batch:
                row = {"model": name, "width": width, "batch": batch, "device": where.device_kind}
                row |= {"forced": device is None, **compare(asked, bie, batch, where)}
                with jax.default_device(where) if device else nullcontext():
                    row |= rates(asked, bie, batch, where, args.repeats) if device else {}
                rows.append(row)
                print(json.dumps(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    differing = sum(row["differing"] for row in rows)
    print("codes equal everywhere" if not differing else f"{differing} codes differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
