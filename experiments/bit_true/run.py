"""Emulator against compiled program on bytes, for real models, platforms and widths; see README.md.

python experiments/bit_true/run.py [--models A1,A9] [--platforms 520,720,730] [--samples 2] [--cut deep_search]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from onnx_sessions import run_codes  # noqa: E402
from real_models import REAL_MODELS, RealModel, first  # noqa: E402

import knerex_jax as kx  # noqa: E402
from knerex_jax.artifacts.bie import Bie, load_bie  # noqa: E402
from knerex_jax.compiler.build import Compiled, Request, compile_program  # noqa: E402
from knerex_jax.compiler.cost import estimate  # noqa: E402
from knerex_jax.export.integer import integer_onnx  # noqa: E402
from knerex_jax.npu_model import NpuModel  # noqa: E402
from knerex_jax.probe import behind_islands  # noqa: E402
from knerex_jax.runtime import FixedModel  # noqa: E402

WIDTHS = {
    "int8": {},
    "w8a16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "model_in", "model_out")},
    "int16": {f"{k}_bitwidth_mode": "int16" for k in ("datapath", "weight", "model_in", "model_out")},
    "w4a8": {"weight_bitwidth_mode": "int4"},
}
HEADS = (
    "model", "platform", "width", "tensors compared", "of", "differing", "commands", "estimate, ms",
    "DRAM MB", "deep_search, ms", "DRAM MB", "csim s per sample", "integer ONNX: codes", "differing",
)  # fmt: skip


def legal(platform: str, width: str) -> bool:
    """Whether a platform has these widths."""
    target = kx.TARGETS[platform]
    return (4 in target.weight_bits or width != "w4a8") and (15 in target.data_bits or width in ("int8", "w4a8"))


def megabytes(compiled: Compiled) -> float:
    """Bytes between DRAM and the chip."""
    return sum(c.moved for c in estimate(compiled.program).costs) / 1e6


def differing(
    fixed: FixedModel, compiled: Compiled, inputs: dict[str, np.ndarray], count: int
) -> tuple[int, int, float]:
    """Tensors compared, codes that differ, and seconds of the simulator per sample."""
    buffers = compiled.program.buffers
    taps = [t for t, n in compiled.program.tensors if buffers[n].memory != "input"]
    wanted = fixed.run(inputs, "fixed", taps=tuple(taps))
    started = time.perf_counter()
    found = NpuModel(compiled.program, compiled.weight).run(inputs, "fixed", taps=taps)
    seconds = time.perf_counter() - started
    wrong = sum(int((v.ravel() != np.asarray(wanted[t]).ravel()).sum()) for t, v in found.items())
    return len(found), wrong, seconds / count


def by_onnx_runtime(
    bie: Bie, fixed: FixedModel, inputs: dict[str, np.ndarray], taps: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Codes of outputs and taps outside float islands that ONNX Runtime gave, optimized and not; those that differ."""
    program, model = bie.program, integer_onnx(bie, taps=taps)
    free = [t for t in dict.fromkeys((*program.outputs, *taps)) if t not in behind_islands(program)]
    wanted, count, wrong = fixed.run(inputs, "fixed", taps=(*program.outputs, *taps)), 0, 0
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        for k in range(len(next(iter(inputs.values())))):
            found = run_codes(model, {t: v[k : k + 1] for t, v in inputs.items()}, level)
            for t in free:
                codes = found[f"{t}_codes"] if f"{t}_codes" in found else found[t]
                wrong += int((codes.ravel() != np.asarray(wanted[t][k]).ravel()).sum())
                count += codes.size
    return count, wrong


def row(real: RealModel, name: str, platform: str, width: str, args: argparse.Namespace) -> tuple[list[str], int]:
    """One line of the table, and the differing codes."""
    with tempfile.TemporaryDirectory() as folder:
        result = kx.run_ptq(
            p_onnx=real.path, np_txt=dict(real.calibration(args.calibration)), input_shape=real.input_shapes,
            platform=platform, p_output=folder, batch_size=4, mode=1, **WIDTHS[width],
        )  # fmt: skip
        bie, host = load_bie(result.paths["bie"]), result.report["cpu_nodes"]
    request = Request(bie.program, bie.constants, host=host)
    plain, deep = (compile_program(request, fm_cut=cut) for cut in ("default", "deep_search"))
    inputs = first(dict(real.evaluation(args.samples)[0]), args.samples)
    used = plain if args.cut == "default" else deep
    fixed = FixedModel(bie)
    compared, wrong, seconds = differing(fixed, used, inputs, args.samples)
    layers = tuple(t for t, _ in bie.program.tensors) if args.layers else ()
    by_onnx, unlike = by_onnx_runtime(bie, fixed, inputs, layers)
    cells = [
        name, platform, width, compared, len(bie.program.shapes), wrong, len(used.program.commands),
        f"{estimate(plain.program).seconds * 1e3:.2f}", f"{megabytes(plain):.1f}",
        f"{estimate(deep.program).seconds * 1e3:.2f}", f"{megabytes(deep):.1f}", f"{seconds:.2f}",
        by_onnx, unlike,
    ]  # fmt: skip
    return [str(c) for c in cells], wrong + unlike


def main() -> int:
    def listed(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=listed, default=list(REAL_MODELS))
    parser.add_argument("--platforms", type=listed, default=["520", "720", "730"])
    parser.add_argument("--widths", type=listed, default=list(WIDTHS))
    parser.add_argument("--calibration", type=int, default=4, help="samples; the codes, not their accuracy, matter")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--cut", choices=("default", "deep_search"), default="default", help="what the simulator runs")
    parser.add_argument("--layers", action="store_true", help="ONNX Runtime: all tensors, not only the outputs")
    args = parser.parse_args()
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    total = 0
    for name in args.models:
        real = REAL_MODELS[name]()
        for platform, width in ((p, w) for p in args.platforms for w in args.widths if legal(p, w)):
            cells, wrong = row(real, name, platform, width, args)
            print(f"| {' | '.join(cells)} |", flush=True)
            total += wrong
            jax.clear_caches()
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
