"""What calibration costs: its two readings against the float forward, and its peak memory against the sample count.

    python bench.py cost [--zoo A1] [--batch 16] [--rounds 9]
    python bench.py memory [--zoo A1] [--samples 64 512]
    python bench.py octaves --zoo A1 [--samples 100]
    python bench.py check --zoo A1 [--samples 40]
    python bench.py run --zoo A1 --samples 128 [--method mmse]

Without `--zoo`: MobileNetV2 1.0 at 224 x 224 with random weights, smooth random images, and one tap per convolution
(after its activation), addition, pool and output.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.calibrate.cuts import dropped, is_final
from knerex_jax.calibrate.measured import Measured, RangeRule, ranges_of
from knerex_jax.calibrate.observers import Extremes, histogram
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.calibrate.reading import Measurement, compile_step, init_states
from knerex_jax.calibrate.run import extremes_of, fine_grid, measure
from knerex_jax.calibrate.state import code_of, state_of_range
from knerex_jax.data.sources import Source, open_source
from knerex_jax.graph.ir import Model, TensorType

PCT, PCT_WIDE = 0.999, 0.999999
RULES = {"percentage": RangeRule(pct=PCT, pct_wide=PCT_WIDE), "mmse": RangeRule("mmse", percentile=0.001)}
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True)
class Case:
    """A model to calibrate: fn(params, inputs of one sample) -> taps, and endless samples."""

    fn: Callable[..., dict[str, Array]]
    params: Any
    inputs: dict[str, TensorType]
    outputs: tuple[str, ...]
    observed: dict[str, int | None]
    types: dict[str, TensorType]
    samples: Callable[[], Iterator[dict[str, np.ndarray]]]

    def source(self, count: int) -> Source:
        """The first `count` samples, made anew at every reading, so that the data takes no memory."""

        def items() -> Iterator[dict[str, np.ndarray]]:
            for _, sample in zip(range(count), self.samples(), strict=False):
                yield sample

        return open_source(items, self.inputs)


def _convolve(x: Array, w: Array, b: Array, stride: int) -> Array:
    """[1, C, H, W] -> [1, O, H', W'] as the package lowers it: channels last inside, depthwise as shifted products."""
    x = jnp.moveaxis(x, 1, -1)
    if w.shape[1:] == (x.shape[-1], 1, 1):
        x = x @ w[:, :, 0, 0].T
    elif w.shape[1] == 1:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        side = (x.shape[1] - 3) // stride + 1
        stop = (side - 1) * stride + 1
        taps = [
            lax.slice(x, (0, i, j, 0), (1, i + stop, j + stop, x.shape[-1]), (1, stride, stride, 1)) * w[:, 0, i, j]
            for i in range(3)
            for j in range(3)
        ]
        x = reduce(add, taps)
    else:
        kernel, layout = jnp.moveaxis(w, (0, 1), (3, 2)), ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout)
    return jnp.moveaxis(x + b, -1, 1)


def random_mobilenet() -> Case:
    """MobileNetV2 with random weights."""
    rng = np.random.default_rng(0)
    layers: list[tuple[str, int, bool, bool]] = []
    params: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int, stride: int, act: bool, residual: bool = False) -> None:
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = rng.normal(size=(outputs, inputs, kernel, kernel)) * scale
        params[name] = weight.astype(np.float32), (rng.normal(size=outputs) * 0.1).astype(np.float32)
        layers.append((name, stride, act, residual))

    conv("stem", 3, 32, 3, 2, True)
    width = 32
    for stage, (expansion, out, repeats, first) in enumerate(STAGES):
        for r in range(repeats):
            stride, name = (first if r == 0 else 1), f"s{stage}.{r}"
            if expansion > 1:
                conv(f"{name}.widen", width, width * expansion, 1, 1, True)
            conv(f"{name}.depthwise", 1, width * expansion, 3, stride, True)
            conv(f"{name}.narrow", width * expansion, out, 1, 1, False, residual=stride == 1 and width == out)
            width = out
    conv("head", width, 1280, 1, 1, True)
    params["gemm"] = (rng.normal(size=(1280, 1000)) * 0.03).astype(np.float32), np.zeros(1000, np.float32)

    def fn(params: Any, inputs: Any) -> dict[str, Array]:
        x = block = inputs["input"]
        taps = {"input": x}
        for name, stride, act, residual in layers:
            weight, bias = params[name]
            x = _convolve(x, weight, bias, stride)
            taps[name] = x = jnp.clip(x, 0, 6) if act else x
            if residual:
                taps[f"{name}.add"] = x = x + block
            if name.endswith("narrow") or name == "stem":
                block = x
        taps["pool"] = x.mean((2, 3))
        weight, bias = params["gemm"]
        taps["logits"] = taps["pool"] @ weight + bias
        return taps

    def samples() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(1)
        while True:
            coarse = rng.standard_normal((3, 28, 28)).astype(np.float32)
            fine = rng.standard_normal((3, 224, 224)).astype(np.float32)
            yield {"input": coarse.repeat(8, 1).repeat(8, 2) + 0.3 * fine}

    inputs = {"input": TensorType("float32", (1, 3, 224, 224))}
    shapes = jax.eval_shape(fn, params, {"input": jax.ShapeDtypeStruct((1, 3, 224, 224), np.float32)})
    types = {t: TensorType("float32", s.shape) for t, s in shapes.items()}
    observed = {t: None if t == "input" else 1 for t in types}
    return Case(fn, params, inputs, ("logits",), observed, types, samples)


def zoo_case(name: str) -> Case:
    """A real model, its calibration samples and the tensors its plan needs."""
    from knerex_jax.flow import decompose_onnx
    from knerex_jax.quantize.config import make_config
    from knerex_jax.zoo.sets import zoo_model

    zoo = zoo_model(name)
    return case_of(decompose_onnx(zoo.path(), make_config(input_shape=zoo.input_shapes)), zoo.calibration_samples)


def case_of(model: Model, samples: Callable[[], Iterator[dict[str, np.ndarray]]]) -> Case:
    """A decomposed model and the tensors its plan needs."""
    from knerex_jax.lowering.float import lower_float
    from knerex_jax.ops import REGISTRY
    from knerex_jax.quantize.structure import analyse
    from knerex_jax.targets import TARGETS

    graph = model.graph
    observed = analyse(model, TARGETS["720"], REGISTRY).observed
    fn, params = lower_float(model, taps=observed)
    inputs = {t: graph.types[t] for t in graph.inputs}
    types = {t: graph.types[t] for t in (*graph.inputs, *observed)}
    return Case(fn, params, inputs, graph.outputs, observed, types, samples)


def cost(case: Case, batch: int, rounds: int) -> dict[str, Any]:
    """CPU and wall time of one warm batch: forward, first reading, second reading, interleaved; medians."""
    exact = set(case.outputs)
    samples = case.samples()
    drawn = [next(samples) for _ in range(batch)]
    inputs = {t: jnp.asarray(np.stack([s[t] for s in drawn]).reshape(batch, *y.shape)) for t, y in case.inputs.items()}
    measurement = Measurement(case.fn, case.params, case.observed, case.types, batch)
    params = jax.device_put(case.params)

    first = extremes_of(measurement)
    ranged = compile_step(measurement, first)
    states = init_states(first, None)
    states, _ = ranged(states, params, inputs, np.int32(batch))
    second = {}
    for t, (seen,) in states.items():
        host = state_of_range(case.observed[t], batch * measurement.positions(t), Extremes(*map(np.asarray, seen)))
        if t not in exact and not is_final(host, (PCT, PCT_WIDE)):
            grid = fine_grid(host)
            second[t] = (histogram(grid),), (host.next_window(grid.octaves),)
    counted = compile_step(measurement, second)
    counts = init_states(second, None)
    forward = jax.jit(lambda p, x: {t: v for t, v in jax.vmap(case.fn, (None, 0))(p, x).items() if t in exact})

    held = {"first": states, "second": counts}

    def run(step: str) -> None:
        if step == "forward":
            jax.block_until_ready(forward(params, inputs))
        else:
            program = ranged if step == "first" else counted
            held[step], _ = program(held[step], params, inputs, np.int32(batch))
            jax.block_until_ready(held[step])

    times: dict[str, list[tuple[float, float]]] = {"forward": [], "first": [], "second": []}
    for turn in range(rounds + 1):
        for step in times:
            cpu, wall = time.process_time(), time.perf_counter()
            run(step)
            if turn:
                times[step].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {step: np.median(np.array(seen), axis=0) for step, seen in times.items()}
    elements = sum(case.types[t].size for t in case.observed)
    return {
        "jax": jax.__version__,
        "batch": batch,
        "tensors": len(case.observed),
        "tensors_read_twice": len(second),
        "channels": sum(measurement.channels(t) for t in case.observed),
        "state_mib": round(sum(s.counts.nbytes for (s,) in held["second"].values()) / 2**20),
        "forward_cpu_ms": round(1e3 * medians["forward"][0], 1),
        "forward_cpu_ns_per_tapped_element": round(1e9 * medians["forward"][0] / elements / batch, 2),
        **{
            f"{step}_over_forward_{kind}": round(float(medians[step][i] / medians["forward"][i]), 2)
            for step in ("first", "second")
            for i, kind in enumerate(("cpu", "wall"))
        },
    }


def calibrated(case: Case, batch: int, count: int, method: str = "percentage") -> tuple[Measured, Ranges]:
    measurement = Measurement(case.fn, case.params, case.observed, case.types, batch)
    measured = measure(measurement, case.source(count), [RULES[method]], outputs=case.outputs)
    return measured, ranges_of(measured, [RULES[method]])[0]


def one_run(case: Case, batch: int, count: int, method: str) -> dict[str, Any]:
    """A whole calibration in this process."""
    start, seconds = time.process_time(), time.perf_counter()
    _, ranges = calibrated(case, batch, count, method)
    seconds = time.perf_counter() - seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu_s = time.process_time() - start
    times = {"wall_s": round(seconds, 1), "cpu_s": round(cpu_s, 1)}
    return {"method": method, "samples": ranges.samples, "peak_mib": round(peak), **times}


def octaves(case: Case, batch: int, count: int) -> dict[str, Any]:
    """How many octaves under the channels' maxima the thresholds lie: what width of the fine windows is enough."""
    measured, ranges = calibrated(case, batch, count)
    state = measured.state
    depths = []
    for t, s in state.tensors.items():
        top = code_of(np.maximum(np.abs(s.low), np.abs(s.high)), 0)
        for bits in (8, 15):
            for threshold in (ranges[t].channel_absmax(bits), np.float32(ranges[t].layer_absmax(bits))):
                depth = np.where((top > 0) & (threshold > 0), top - code_of(threshold, 0) + 1, 0)
                depths.append((t, int(depth.max())))
    deepest = {t: max(d for name, d in depths if name == t) for t in state.tensors}
    within = {f"within_{n}": sum(d <= n for d in deepest.values()) for n in (2, 3, 4, 5, 6, 8, 12)}
    return {"samples": state.samples, "tensors": len(deepest), **within}


def check(case: Case, batch: int, count: int) -> dict[str, Any]:
    """Largest relative error of the thresholds of ten tensors, against sorting all their values."""
    _, ranges = calibrated(case, batch, count)
    chosen = [t for t in case.observed if t not in case.outputs][:: max(len(case.observed) // 10, 1)]
    taps = jax.jit(jax.vmap(lambda p, x: {t: v for t, v in case.fn(p, x).items() if t in chosen}, (None, 0)))
    seen: dict[str, list[np.ndarray]] = {t: [] for t in chosen}
    for arrays in case.source(count).batches(batch):
        inputs = {t: a.reshape(len(a), *case.types[t].shape) for t, a in arrays.items()}
        for t, values in taps(case.params, inputs).items():
            seen[t].append(np.abs(np.asarray(values)))
    worst = {"channel": 0.0, "layer": 0.0}
    for t in chosen:
        axis, values = case.observed[t], np.concatenate(seen[t])
        rows = (
            values.reshape(1, -1)
            if axis is None
            else np.moveaxis(values, axis + 1, 0).reshape(values.shape[axis + 1], -1)
        )
        for bits, pct in ((8, PCT), (15, PCT_WIDE)):
            found = {"channel": ranges[t].channel_absmax(bits), "layer": np.array([ranges[t].layer_absmax(bits)])}
            for kind, groups in (("channel", rows), ("layer", rows.reshape(1, -1))):
                exact = np.sort(groups, axis=1)[:, -1 - dropped(pct, groups.shape[1])]
                errors = np.abs(found[kind][exact > 0] / exact[exact > 0] - 1)
                worst[kind] = max(worst[kind], float(errors.max(initial=0)))
    return {"samples": count, "tensors": len(chosen), **{f"worst_{k}_error": f"{v:.1e}" for k, v in worst.items()}}


def main() -> None:
    """Prints one JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "memory", "octaves", "check", "run"))
    parser.add_argument("--zoo", help="name of a zoo model instead of the random network")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--method", choices=RULES, default="percentage", help="of `run`")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 512])
    args = parser.parse_args()
    if args.what == "memory":
        zoo = ["--zoo", args.zoo] if args.zoo else []
        for count in args.samples:
            options = ["run", "--batch", str(args.batch), "--samples", str(count), *zoo]
            subprocess.run([sys.executable, __file__, *options], check=True)
        return
    case = zoo_case(args.zoo) if args.zoo else random_mobilenet()
    if args.what == "cost":
        print(json.dumps(cost(case, args.batch, args.rounds)))
    elif args.what == "run":
        print(json.dumps(one_run(case, args.batch, args.samples[0], args.method)))
    else:
        task = {"octaves": octaves, "check": check}[args.what]
        print(json.dumps(task(case, args.batch, args.samples[0])))


if __name__ == "__main__":
    main()
