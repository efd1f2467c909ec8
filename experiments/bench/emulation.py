"""Speed of a model: its float lowering and its emulation at several widths, against ONNX Runtime and NumPy."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpy_emulator
import peers
from subjects import Subject
from timing import interleave, load, summary

from knerex_jax.emulator.prepare import prepare
from knerex_jax.emulator.run import Emulator
from knerex_jax.program.primitives import Mac, Window
from knerex_jax.runtime import FloatModel

BASE = "ORT float"


def speed(subject: Subject, batch: int, rounds: int, widths: Sequence[str], slow: bool = True) -> dict[str, Any]:
    """One row of the table: CPU and wall time of every side on one batch, interleaved.

    Args:
      subject: the model.
      batch: samples per call.
      rounds: interleaved rounds.
      widths: of the emulation.
      slow: with the NumPy emulator, whose codes are compared, too.
    """
    data = subject.batch(batch)
    device = jax.device_put(data)
    notes: dict[str, Any] = {}
    runs: dict[str, Callable[[], Any]] = {}
    runs[BASE], notes["ort_batch"] = peers.runner(subject.proto, data)
    try:
        runs["ORT u8s8"], _ = peers.runner(peers.u8s8(subject), data)
    except Exception as error:  # a quantizer that fails on a model is a finding, not the end of the run
        notes["ort_u8s8"] = f"{type(error).__name__}: {str(error)[:200]}"
    floating, params = FloatModel(subject.model).step
    runs["float"] = lambda: jax.block_until_ready(floating(params, device))
    codes = {}
    for width in widths:
        bie = subject.bie(width)
        held = jax.device_put(prepare(bie.program, bie.constants))
        step = Emulator.of(bie.program, bie.constants).step(bie.program.outputs)
        runs[width] = lambda step=step, held=held: jax.block_until_ready(step(held, device))
        started = time.perf_counter()
        codes[width] = step(held, device)
        notes[f"first_call_s_{width}"] = round(time.perf_counter() - started, 2)
    if slow and not subject.bie("int8").program.islands:
        bie = subject.bie("int8")
        plain = numpy_emulator.run(bie.program, bie.constants, data)
        notes["numpy_differing_codes"] = int(sum((plain[t] != np.asarray(v)).sum() for t, v in codes["int8"].items()))
        runs["NumPy float64"] = lambda: numpy_emulator.run(bie.program, bie.constants, data)
    before = load()
    times = interleave(runs, rounds)
    return {"load": [before, load()], "rounds": rounds, "sides": summary(times, BASE), **notes}


def numpy_peak(rounds: int = 7) -> dict[str, float]:
    """Whether the NumPy emulator is a fair opponent: GFLOP/s of its 3x3 convolution of 64 channels on 56x56, 8 samples.

    Against the best of the double-precision matrix products of the same round; CPU seconds, so that threads count.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (8, 64, 56, 56)).astype(np.float64)
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    weight = rng.integers(-127, 128, (64, 64, 3, 3)).astype(np.int8)
    i = Mac(
        name="conv", inputs=("x",), output="y", nodes=(), bits=8, axis=1, kind="conv", x_bits=8, weight_bits=8,
        psum_bits=32, post_multiplier=True, window=Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    )  # fmt: skip
    a, b = rng.normal(size=(2, 1024, 1024))
    runs = {"dgemm": lambda: a @ b, "conv": lambda: numpy_emulator.conv_sums(x, weight, i)}
    flops = {"dgemm": 2 * 1024**3, "conv": 2 * 8 * 56 * 56 * 64 * 64 * 9}
    times = interleave(runs, rounds)
    rates = {name: flops[name] / times[name] / 1e9 for name in runs}
    found = {f"{name}_gflops_{kind}": rates[name][:, k] for name in runs for k, kind in enumerate(("cpu", "wall"))}
    share = rates["conv"] / rates["dgemm"].max(axis=0)
    return {
        **{key: round(float(np.median(v)), 1) for key, v in found.items()},
        "share_of_peak_cpu": round(float(np.median(share[:, 0])), 2),
        "share_of_peak_wall": round(float(np.median(share[:, 1])), 2),
    }
