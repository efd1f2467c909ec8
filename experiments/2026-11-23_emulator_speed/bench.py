"""Emulator against ONNX Runtime float, interleaved in one process: median CPU and wall time, and their ratios.

See README.md beside it. Example: python bench.py --net mobilenet_v2 --batch 32
"""

import argparse
import json
import os
import resource
import time

import jax
import networks
import numpy as np
import onnx
import onnxruntime as ort

from knerex_jax.emulator.fixed import lower_fixed, prepare
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.stream import compiler_options, samples_at_once
from knerex_jax.lowering.batch import over_samples
from knerex_jax.program.bounds import bound_program

WIDTHS = {"int8": (8, 8), "w8a16": (15, 8), "int16": (15, 15)}


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--net", default="mobilenet_v2", choices=sorted(networks.NETWORKS))
    p.add_argument("--width", default="int8", choices=sorted(WIDTHS))
    p.add_argument("--bie", help="a stored fixed model instead of a random one; needs --onnx")
    p.add_argument("--onnx", help="the float model that belongs to --bie")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--at-once", type=int, nargs="*", help="samples per step of the emulator (default: its own choice)")
    p.add_argument("--spin", action="store_true", help="let ONNX Runtime's threads spin (they then take time from JAX)")
    p.add_argument("--plain", action="store_true", help="without the emulator's compiler options")
    p.add_argument("--json", help="also write the figures here")
    return p.parse_args()


def load(args):
    """(program, constants, float model: bytes or path)."""
    if args.bie:
        from knerex_jax.artifacts.bie import load_bie

        bie = load_bie(args.bie)
        return bie.program, bie.constants, any_batch(args.onnx)
    bits, weight_bits = WIDTHS[args.width]
    return networks.NETWORKS[args.net](bits=bits, weight_bits=weight_bits)


def any_batch(path):
    """The float model with its batch size left open."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    return model.SerializeToString()


def session(model, threads, spin):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main():
    args = parse()
    program, constants, model = load(args)
    bounds = bound_program(program, constants)
    methods = choose(program, bounds, jax.default_backend())
    params = jax.device_put(prepare(program, constants))
    rng = np.random.default_rng(1)
    data = {t: rng.normal(size=(args.batch, *program.tensor[t].shape)).astype(np.float32) for t in program.inputs}
    device_data = jax.device_put(data)

    runs, compile_s = {}, {}
    options = compiler_options(jax.default_backend()) if not args.plain else {}
    for at_once in args.at_once or [samples_at_once(program)]:
        fn = jax.jit(over_samples(lower_fixed(program, methods), at_once), compiler_options=options)
        start = time.perf_counter()
        fn = fn.lower(params, device_data).compile()
        name = f"fixed, {min(at_once, args.batch)} at once"
        compile_s[name] = time.perf_counter() - start
        runs[name] = lambda fn=fn: jax.block_until_ready(fn(params, device_data))
    peer = session(model, args.threads, args.spin)
    feeds = {t: v.reshape(-1, *v.shape[2:]) for t, v in data.items()}
    runs["onnxruntime float"] = lambda: peer.run(None, feeds)

    for run in runs.values():
        run()
        run()
    times = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            c, w = cpu(), time.perf_counter()
            run()
            times[name].append((1e3 * (cpu() - c), 1e3 * (time.perf_counter() - w)))
    report(args, program.name, times, compile_s)


def report(args, name, times, compile_s):
    peer = np.asarray(times["onnxruntime float"])
    load = os.getloadavg()[0]
    print(f"{name} {args.width} batch {args.batch}, {args.threads} threads, jax {jax.__version__}, load {load:.1f}")
    heads = ("cpu ms", "wall ms", "images/s", "cpu ratio", "wall ratio", "compile s")
    print(" " * 28 + "".join(f"{h:>11s}" for h in heads))
    rows = {}
    for side, pairs in times.items():
        t = np.asarray(pairs)
        c, w = np.median(t, axis=0)
        # Each round's own ratio, so that a change of load hits both sides.
        c_ratio, w_ratio = np.median(t / peer, axis=0)
        rows[side] = dict(cpu_ms=c, wall_ms=w, cpu_ratio=c_ratio, wall_ratio=w_ratio, compile_s=compile_s.get(side))
        print(
            f"{side:28s}{c:11.1f}{w:11.1f}{1e3 * args.batch / w:11.1f}{c_ratio:11.2f}{w_ratio:11.2f}"
            f"{compile_s.get(side, 0):11.1f}"
        )
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"args": vars(args), "jax": jax.__version__, "load": load, "rows": rows}, f, indent=1)


if __name__ == "__main__":
    main()
