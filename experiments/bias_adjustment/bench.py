"""Bias adjustment on real models: its gain, and what the sequential form costs beside one float and one fixed pass.

    python experiments/bias_adjustment/bench.py snr embedded A9 A1
    python experiments/bias_adjustment/bench.py cost resnet A9 A1

Prints one JSON line per row. SNR: on evaluation samples that neither calibration nor adjustment saw. Cost: one batch;
in each round a float pass, a fixed pass, the adjustment with its decisions, and the plan made again with the new
biases, which confirms their integers; CPU seconds, everything compiled before; ratios are median, least, largest.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers import Net  # noqa: E402
from helpers import samples as random_samples  # noqa: E402
from real_models import REAL_MODELS, first  # noqa: E402

from knerex_jax.artifacts.bie import Bie  # noqa: E402
from knerex_jax.flow import analyze, decompose_onnx, make_plan  # noqa: E402
from knerex_jax.graph.ir import Model  # noqa: E402
from knerex_jax.metrics import snr_db  # noqa: E402
from knerex_jax.ops import REGISTRY  # noqa: E402
from knerex_jax.passes.pipeline import decompose_model  # noqa: E402
from knerex_jax.quantize.config import make_config  # noqa: E402
from knerex_jax.refine.bias import Adjustment, adjust_bias  # noqa: E402
from knerex_jax.refine.bias_nodes import view_of, weighted_nodes  # noqa: E402
from knerex_jax.refine.bias_run import Passes  # noqa: E402
from knerex_jax.refine.bias_sequential import Sequential  # noqa: E402
from knerex_jax.runtime import FixedModel, FloatModel  # noqa: E402


def resnet(blocks=(64, 64, 128, 128, 256, 256), size=56):
    """A residual network with random weights: the widths of ResNet-18 on its 56 x 56 maps."""
    net = Net({"x": (1, 3, size, size)})
    x = net.add("Relu", net.conv("x", blocks[0]))
    for channels in blocks:
        stride = 1 if net.types[x].shape[1] == channels else 2
        y = net.conv(net.add("Relu", net.conv(x, channels, stride=stride)), channels)
        x = net.add("Relu", net.add("Add", y, x if stride == 1 else net.conv(x, channels, kernel=1, stride=2)))
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    model = decompose_model(net.model(net.add("Gemm", flat, net.random(blocks[-1], 10), net.random(10))))
    return model, lambda count: random_samples(model, count), lambda count: random_samples(model, count, seed=2)


def light_resnet50():
    """ResNet-50 of the ONNX project's light models, which come without weights, with random ones of He's variance."""
    path = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    model, rng = decompose_onnx(path), np.random.default_rng(0)
    constants = dict(model.constants)
    for node in model.graph.nodes:
        if node.op_type in ("Conv", "Gemm"):
            weight, bias = (constants[t] for t in node.inputs[1:3])
            fan_in = weight[0].size if node.op_type == "Conv" else model.graph.shape(node.inputs[0])[-1]
            constants[node.inputs[1]] = np.float32(rng.normal(0, (2 / fan_in) ** 0.5, weight.shape))
            constants[node.inputs[2]] = np.float32(rng.normal(0, 0.1, bias.shape))
    model = Model(model.graph, constants)
    return model, lambda count: random_samples(model, count), lambda count: random_samples(model, count, seed=2)


def load(name):
    """(decomposed model, count -> calibration data, count -> evaluation data)."""
    if name == "resnet":
        return resnet()
    if name == "tiny-resnet":
        return resnet((16, 16, 32, 32, 64, 64), 32)
    if name == "light-resnet50":
        return light_resnet50()
    real = REAL_MODELS[name]()
    model = decompose_onnx(real.path, make_config(input_shape=real.input_shapes or None))
    return model, real.calibration, lambda count: real.evaluation(count)[0]


def planned_model(name, args):
    model, calibration, evaluation = load(name)
    config = make_config(platform=args.platform, datapath_bitwidth_mode=args.width, weight_bitwidth_mode=args.width)
    data = calibration(args.samples)
    return make_plan(model, analyze(model, data, config), config), data, evaluation, config.target


def fixed_model(planned):
    return FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))


def snr(name, args):
    planned, data, evaluation, target = planned_model(name, args)
    inputs = evaluation(args.evaluation)
    reference = FloatModel(planned.model).run(inputs)

    def measured(planned):
        outputs = fixed_model(planned).run(inputs)
        return {t: round(snr_db(v, outputs[t]), 2) for t, v in reference.items()}

    row = {"model": name, "before": measured(planned)}
    for mode in ("parallel", "sequential"):
        start = time.perf_counter()
        made = adjust_bias(planned, data, mode, target=target, batch_size=args.batch)
        seconds = round(time.perf_counter() - start, 1)
        kept = f"{sum(r.kept for r in made.records)} of {len(made.records)}"
        row |= {mode: measured(made.planned), f"{mode}_kept": kept, f"{mode}_seconds_compilation_included": seconds}
        row["spool_mib"] = round(made.spool_bytes / 2**20, 1)
    return row


def cost(name, args):
    planned, data, _, target = planned_model(name, args)
    data = first(data, args.batch)
    view = view_of(planned, planned.refined, target, REGISTRY)
    weighted = weighted_nodes(planned, view)
    passes = Passes(planned.program, planned.constants, planned.model, weighted, REGISTRY)
    sequential, floating, fixed = Sequential(passes), FloatModel(planned.model), fixed_model(planned)

    def adjust():
        adjustment = Adjustment(view, planned.constants, len(weighted), foresees=True)
        blocks = list(passes.blocks(data))
        *_, (_, sums) = passes.floats(blocks)
        assert sequential.in_one_trace(blocks, sums, adjustment.decide)
        return adjustment

    start = time.perf_counter()
    done = [adjust()]
    compiled = {"first_adjustment_seconds": round(time.perf_counter() - start, 1)}

    def plan():
        assert done[0].foresaw(done[0].adjusted(planned).planned)

    runs = {
        "float": lambda: floating.run(data, batch_size=args.batch),
        "fixed": lambda: fixed.run(data, batch_size=args.batch),
        "adjust": adjust,
        "plan": plan,
    }
    rounds = [{key: seconds(run) for key, run in runs.items()} for _ in range(args.rounds + 1)][1:]
    row = {key: round(statistics.median(r[key] for r in rounds), 3) for key in runs}
    for label, parts in (("ratio", ("adjust",)), ("ratio_with_plan", ("adjust", "plan"))):
        ratios = [sum(r[p] for p in parts) / (r["float"] + r["fixed"]) for r in rounds]
        row[label] = [round(float(np.quantile(ratios, q)), 2) for q in (0.5, 0, 1)]
    return {"model": name, "batch": args.batch, **compiled, **row}


def seconds(run):
    """CPU seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["snr", "cost"])
    p.add_argument("models", nargs="+")
    p.add_argument("--platform", default="720")
    p.add_argument("--width", default="int8")
    p.add_argument("--samples", type=int, default=64, help="calibration samples, which the adjustment uses, too")
    p.add_argument("--evaluation", type=int, default=100)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rounds", type=int, default=7)
    args = p.parse_args()
    for name in args.models:
        row = {"platform": args.platform, "width": args.width} | {"snr": snr, "cost": cost}[args.what](name, args)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
