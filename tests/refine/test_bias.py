"""Bias adjustment against the procedure it stands for: one node at a time, everything run again for the next."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers import Net, samples
from oracle import compare, run_oracle
from planning import fixed_model, float_values, plan

from knerex_jax.graph.ir import Model, TensorType
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.program.primitives import Mac
from knerex_jax.quantize.planner import refine_plan
from knerex_jax.refine import bias_sequential
from knerex_jax.refine.bias import Adjustment, adjust_bias
from knerex_jax.refine.bias_nodes import view_of, weighted_nodes, with_biases
from knerex_jax.refine.bias_run import Passes
from knerex_jax.refine.bias_sequential import Sequential
from knerex_jax.refine.split import held_out
from knerex_jax.targets import TARGETS


def residual_net() -> Model:
    """Fused Relu, depthwise, a conv without bias, HardSwish, a residual sum, BatchNormalization, Gemm."""
    net = Net({"x": (1, 3, 6, 6)}, seed=3)
    stem = net.add("Relu", net.conv("x", 6))
    attrs = {"kernel_shape": (1, 1), "strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4, "group": 1}
    bare = net.add("Conv", net.conv(stem, 6, group=6), net.random(6, 6, 1, 1, scale=0.5), name="bare", **attrs)
    swish = net.add("HardSwish", net.conv(bare, 6, kernel=1))
    total = net.batch_norm(net.add("Add", stem, swish))
    flat = net.add("Flatten", net.add("GlobalAveragePool", total))
    return net.model(net.add("Gemm", flat, net.random(6, 4), net.random(4)))


# The naive procedure. Codes come from the oracle, accumulators from the loops below.


def oracle_codes(model, plan, inputs):
    proto = to_proto(unbind(model, REGISTRY))
    return run_oracle(onnx.ModelProto.FromString(proto.SerializeToString()), plan.to_json(), dict(inputs)).codes


def products(mac: Mac, weight, x):
    """Exact sums of products, int64 [N, O, ...] (convolutions of stride 1, dilation 1)."""
    x, w = x.astype(np.int64), weight.astype(np.int64)
    if mac.kind == "dense":
        return x @ w.T
    if mac.kind == "diagonal":
        return x * w[:, None, None]
    x = np.pad(x, ((0, 0), (0, 0), *mac.window.pads))
    (kh, kw), per = mac.window.kernel, len(w) // mac.group
    height, width = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    found = np.zeros((len(x), len(w), height, width), np.int64)
    for o in range(len(w)):
        first = o // per * w.shape[1]
        for j, a, b in np.ndindex(w.shape[1:]):
            found[:, o] += w[o, j, a, b] * x[:, first + j, a : a + height, b : b + width]
    return found


def accumulators(mac: Mac, c, x):
    """p before the activation, int64 [N, O, positions]."""
    top = 1 << (mac.psum_bits - 1)
    p = products(mac, c["weight"], x)
    p = p.reshape(*p.shape[:2], -1)
    n, bias = c["n1"].astype(np.int64)[:, None], c["bias"].astype(np.int64)[:, None]
    p = np.where(n > 0, (p + (1 << np.maximum(n - 1, 0))) >> np.maximum(n, 0), p << np.maximum(-n, 0))
    return np.clip(np.clip(p, -top, top - 1) + bias, -top, top - 1)


def unit_of(planned, mac: Mac):
    """s_y s_w 2**r_p, from the formats; every input channel has the same radix in these nets, or feeds alone."""
    c, formats = planned.constants[mac.name], planned.plan.formats
    outputs = len(c["bias"])
    x_radix = formats[mac.inputs[0]].radix
    alone = mac.kind == "diagonal" or mac.group > 1
    r_ref = np.broadcast_to(x_radix if alone else x_radix.min(), outputs).astype(np.int64)
    s_y = 1.0 if mac.act == "hard_swish" else formats[mac.output].scale.astype(np.float64)
    return s_y * c["weight_scale"].astype(np.float64) * 2.0 ** (c["weight_radix"] + r_ref - c["n1"])


def clipped(real, mac: Mac, unit):
    """Float values as far as partial sums can follow them: where these have 16 bits, within what those hold."""
    if mac.psum_bits > 16:
        return real
    low, high = (np.float32(code / unit)[:, None] for code in (-(2**15), 2**15 - 1))
    return np.minimum(np.maximum(real, low), high)


def mean_error(real, p, unit):
    """Mean of float - fixed over samples and positions, from exact sums."""
    count = p.shape[0] * p.shape[2]
    scaled = np.rint(real.astype(np.float64) * 2.0**24).astype(np.int64).sum(axis=(0, 2))
    fixed = p.sum(axis=(0, 2))
    return np.array([int(s) / (count * 2**24) for s in scaled]) - np.array([int(s) / count for s in fixed]) / unit


def correction(real, p, unit):
    """The fitted samples' mean error, or None if it does not help those held out."""
    held = held_out(np.arange(len(p)))
    delta, mean = mean_error(real[~held], p[~held], unit), mean_error(real[held], p[held], unit)
    return delta if (delta**2 - 2 * delta * mean).sum() < 0 else None


def with_bias(model: Model, name: str, delta) -> Model:
    """The node's bias, zeros where there is none, plus delta, as a constant of its own."""
    node = model.graph.node[name]
    old = model.constants[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(len(delta), np.float32)
    value, made = np.float32(old.astype(np.float64) + delta), f"{name}.adjusted"
    changed = replace(node, inputs=(*node.inputs[:2], made, *node.inputs[3:]))
    nodes = tuple(changed if n is node else n for n in model.graph.nodes)
    types = {**model.graph.types, made: TensorType("float32", value.shape)}
    return Model(replace(model.graph, nodes=nodes, types=types), {**model.constants, made: value})


def macs_of(planned):
    return [i for i in planned.program.instructions if isinstance(i, Mac) and i.name not in planned.plan.rescales]


def real_values(planned, inputs):
    """Float value of every weighted node as it is compared, before its activation: [N, O, positions]."""
    outputs = {m.name: planned.model.graph.node[m.name].outputs[0] for m in macs_of(planned)}
    values = grouped_values(planned.model, inputs, tuple(outputs.values()))
    rows = {name: values[t].reshape(*values[t].shape[:2], -1) for name, t in outputs.items()}
    return {m.name: clipped(rows[m.name], m, unit_of(planned, m)) for m in macs_of(planned)}


def grouped_values(model, inputs, taps):
    """Float values made 16 samples at a time: how many run together may change the last bit of a float."""
    count = len(next(iter(inputs.values())))
    groups = [np.minimum(np.arange(k, k + 16), count - 1) for k in range(0, count, 16)]
    values = [float_values(model, {t: a[g] for t, a in inputs.items()}, taps) for g in groups]
    return {t: np.concatenate([v[t] for v in values])[:count] for t in taps}


def naive_sequential(planned, inputs, target):
    real = real_values(planned, inputs)
    for mac in macs_of(planned):
        codes = oracle_codes(planned.refined, planned.plan, inputs)
        p = accumulators(mac, planned.constants[mac.name], codes[mac.inputs[0]])
        delta = correction(real[mac.name], p, unit_of(planned, mac))
        if delta is not None:
            planned = refine_plan(planned, with_bias(planned.refined, mac.name, delta), target)
    return planned


def assert_same(one, other):
    """The same biases, bit by bit, and the same program."""
    assert one.program == other.program
    for mac in macs_of(one):
        a, b = (p.refined.graph.node[mac.name].inputs for p in (one, other))
        assert len(a) == len(b)
        if len(a) > 2:
            np.testing.assert_array_equal(one.refined.constants[a[2]], other.refined.constants[b[2]], err_msg=mac.name)
    for name, integers in one.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(value, other.constants[name][key], err_msg=f"{name} {key}")


@pytest.mark.parametrize(("platform", "width"), [("720", "int8"), ("520", "int8"), ("720", "int16")])
def test_sequential_is_the_naive_procedure(platform, width, monkeypatch):
    monkeypatch.delattr(Sequential, "by_stages")  # one trace is enough
    model = residual_net()
    inputs = samples(model, 20)
    planned = plan(model, inputs, platform, width)
    made = adjust_bias(planned, inputs, "sequential", target=TARGETS[platform])
    naive = naive_sequential(planned, inputs, TARGETS[platform])
    assert_same(made.planned, naive)
    assert made.samples == (15, 5) and made.spool_bytes == 0
    assert [r.node for r in made.records] == [m.name for m in macs_of(planned)]
    assert any(r.kept for r in made.records)
    for record in made.records:
        assert record.kept == (record.held_after < record.held_before) == (record.why == "")
    assert made.planned.plan.formats is planned.plan.formats
    assert made.planned.model is planned.model


def test_oracle_reproduces_the_adjusted_program():
    model = residual_net()
    inputs = samples(model, 8)
    planned = plan(model, inputs, "720", "int8")
    made = adjust_bias(planned, inputs, "parallel", target=TARGETS["720"]).planned
    assert len(made.refined.graph.node["bare"].inputs) == 3
    fixed = fixed_model(made)
    codes = oracle_codes(made.refined, made.plan, inputs)
    assert not compare(fixed.run(inputs, "fixed", taps=tuple(fixed.program.shapes)), codes)


@pytest.mark.parametrize("platform", ["720", "520"])
def test_parallel_is_one_int64_computation(platform):
    model = residual_net()
    inputs = samples(model, 20)
    planned = plan(model, inputs, platform)
    made = adjust_bias(planned, inputs, "parallel", target=TARGETS[platform]).planned
    macs, real = macs_of(planned), real_values(planned, inputs)
    x_values = grouped_values(model, inputs, tuple(m.inputs[0] for m in macs))
    expected = planned.refined
    for mac in macs:
        f = planned.plan.formats[mac.inputs[0]]
        x = x_values[mac.inputs[0]]
        factor = np.float32(f.factor).reshape([-1 if a == 1 else 1 for a in range(x.ndim)])
        codes = np.clip(np.rint(x * factor), -128, 127).astype(np.int64)
        delta = correction(real[mac.name], accumulators(mac, planned.constants[mac.name], codes), unit_of(planned, mac))
        expected = expected if delta is None else with_bias(expected, mac.name, delta)
    assert_same(made, refine_plan(planned, expected, TARGETS[platform]))


def test_batches_do_not_matter():
    model = residual_net()
    inputs = samples(model, 21)
    planned = plan(model, inputs, "520")
    target = TARGETS["520"]
    whole = adjust_bias(planned, inputs, target=target)
    parts = ({t: a[k : k + 16] for t, a in inputs.items()} for k in range(0, 21, 16))
    batched = adjust_bias(planned, parts, target=target, batch_size=3)
    assert whole.records == batched.records and whole.samples == batched.samples == (16, 5)
    assert_same(whole.planned, batched.planned)
    assert whole.spool_bytes == 0 < batched.spool_bytes


def test_a_correction_that_hurts_held_out_samples_is_refused():
    net = Net({"x": (1, 2, 4, 4)})
    model = net.model(net.conv("x", 2, kernel=1))
    usual = samples(model, 16)
    planned = plan(model, usual, "720")
    held = held_out(np.arange(16)).reshape(-1, 1, 1, 1)
    far = {"x": np.where(held, np.float32(-20), np.float32(20)) + usual["x"]}  # saturates, in opposite directions
    (record,) = (made := adjust_bias(planned, far, target=TARGETS["720"])).records
    assert not record.kept and record.held_after > record.held_before and "held-out" in record.why
    assert made.planned.refined.constants.keys() == planned.refined.constants.keys()
    assert any("bias of" in n.where for n in made.planned.plan.notes)
    (record,) = (made := adjust_bias(planned, {"x": np.abs(far["x"])}, target=TARGETS["720"])).records
    assert record.kept and record.held_after < record.held_before
    (record,) = (made := adjust_bias(planned, {"x": far["x"][:7]}, target=TARGETS["720"])).records
    assert record.kept and record.held_before is None and made.samples == (7, 0)
    assert any("fewer than" in n.why for n in made.planned.plan.notes)


def test_rescales_and_products_without_bias_stay_as_they_are():
    net = Net({"x": (1, 5, 8)})
    y = net.add("MatMul", net.add("MatMul", "x", net.random(8, 6)), net.random(6, 4))
    model = net.model(y)
    inputs = samples(model, 8)
    planned = plan(model, inputs)
    made = adjust_bias(planned, inputs, target=TARGETS["720"])
    assert made.records == () and made.planned is planned


def test_a_bias_that_two_nodes_share_is_parted():
    net = Net({"x": (1, 2, 4, 4)})
    shared = net.random(2)
    attrs = {"kernel_shape": (1, 1), "strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4, "group": 1}
    first = net.add("Conv", "x", net.random(2, 2, 1, 1), shared, name="first", **attrs)
    model = net.model(net.add("Conv", first, net.random(2, 2, 1, 1), shared, name="second", **attrs))
    made = with_biases(model, {"first": np.ones(2, np.float32)})
    assert made.graph.node["second"].inputs[2] == shared
    np.testing.assert_array_equal(made.constants[made.graph.node["first"].inputs[2]], [1, 1])
    again = with_biases(made, {"first": np.zeros(2, np.float32), "second": np.ones(2, np.float32)})
    assert shared not in again.constants and shared not in again.graph.types
    np.testing.assert_array_equal(again.constants[again.graph.node["first"].inputs[2]], [0, 0])


def test_weights_that_follow_from_the_new_bias_are_summed_again(monkeypatch):
    """A bias that grows past the room of 32 bits takes bits from its channel's weights: the trace does not hold."""
    net = Net({"x": (1, 2, 3, 3)})
    attrs = {"kernel_shape": (1, 1), "strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4, "group": 1}
    small, large = net.constant(np.full((2, 2, 1, 1), 1e-6)), net.constant([0.4, 0.6])
    model = net.model(net.conv(net.add("Conv", "x", small, large, **attrs), 2, kernel=1))
    planned = plan(model, samples(model, 8), "720")
    far = {t: np.abs(a) * np.float32(2e6) for t, a in samples(model, 8).items()}
    ways = []
    for way in ("in_one_trace", "by_stages"):
        run = getattr(Sequential, way)
        monkeypatch.setattr(Sequential, way, lambda *args, run=run, way=way: ways.append(way) or run(*args))
    made = adjust_bias(planned, far, target=TARGETS["720"]).planned
    assert ways == ["in_one_trace", "by_stages"]
    first = macs_of(planned)[0].name
    assert (made.constants[first]["weight_radix"] < planned.constants[first]["weight_radix"]).any()
    assert_same(made, naive_sequential(planned, far, TARGETS["720"]))


def test_a_wrong_guess_is_found(monkeypatch):
    model = residual_net()
    inputs = samples(model, 12)
    planned = plan(model, inputs, "720")
    expected = adjust_bias(planned, inputs, target=TARGETS["720"])
    guess, ways = bias_sequential.guessed_bias, []

    def wrong(node, *args):
        left, codes = guess(node, *args)
        return left, codes + (node.name == "bare")

    stages = Sequential.by_stages
    monkeypatch.setattr(Sequential, "by_stages", lambda *args: ways.append("stages") or stages(*args))
    assert adjust_bias(planned, inputs, target=TARGETS["720"]).records == expected.records and not ways
    monkeypatch.setattr(bias_sequential, "guessed_bias", wrong)
    made = adjust_bias(planned, inputs, target=TARGETS["720"])
    assert ways == ["stages"] and made.records == expected.records
    assert_same(made.planned, expected.planned)


def grouped_net() -> Model:
    """Strides, groups, a single channel, a Clip, several images of one sample."""
    net = Net({"x": (1, 4, 9, 7)}, seed=5)
    one = net.conv(net.add("Relu", net.conv("x", 8, group=2, stride=2)), 1, kernel=1)
    clipped = net.add("Clip", net.conv(one, 6), net.constant(-0.5), net.constant(0.7))
    views = net.add("Reshape", net.conv(clipped, 4, kernel=1, group=2), shape=(2, 2, 5, 4))
    return net.model(net.add("Reshape", net.conv(views, 3), shape=(1, 6, 5, 4)))


def transposed_net() -> Model:
    """A transposed convolution, whose sums are no sums of codes, and the dense layer of several positions."""
    net = Net({"x": (1, 4, 5, 5)}, seed=6)
    attrs = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (1,) * 4, "group": 2}
    weight = net.random(4, 3, 3, 3, scale=0.3)
    up = net.add("Relu", net.add("ConvTranspose", "x", weight, net.random(6), **attrs, output_padding=(1, 1)))
    return net.model(net.conv(up, 3, kernel=1))


@pytest.mark.parametrize(
    ("make", "factor", "width", "count"),
    [
        (grouped_net, 1, "int8", 13),
        (grouped_net, 1e9, "int16", 5),
        (transposed_net, 1, "int8", 5),
        (transposed_net, 1, "int16", 13),
    ],
)
def test_one_trace_finds_what_stages_find(make, factor, width, count, monkeypatch):
    model = make()
    inputs = samples(model, count)
    planned = plan(model, inputs, "720", width)
    inputs["x"][0, 0] *= factor  # by the large one: what reads this channel cannot be summed
    with monkeypatch.context() as only:
        only.delattr(Sequential, "by_stages")
        made = adjust_bias(planned, inputs, target=TARGETS["720"])
    monkeypatch.setattr(Sequential, "in_one_trace", lambda *args: False)
    staged = adjust_bias(planned, inputs, target=TARGETS["720"])
    assert made.records == staged.records and any(r.kept for r in made.records)
    assert any("summed" in r.why for r in made.records) == (factor > 1)
    assert_same(made.planned, staged.planned)


def test_one_trace_serves_many_runs():
    model = residual_net()
    data = [samples(model, n) for n in (12, 5, 20)]
    planned = plan(model, data[0], "720")
    view = view_of(planned, planned.refined, TARGETS["720"], REGISTRY)
    weighted = weighted_nodes(planned, view)
    passes = Passes(planned.program, planned.constants, planned.model, weighted, REGISTRY)
    run = Sequential(passes)
    for inputs in (*data, data[0]):
        adjustment = Adjustment(view, planned.constants, weighted, foresees=True)
        blocks = list(passes.blocks(inputs))
        *_, (_, sums) = passes.floats(blocks)
        assert run.in_one_trace(blocks, sums, adjustment.decide)
        expected = adjust_bias(planned, inputs, target=TARGETS["720"])
        assert adjustment.adjusted(planned).records == expected.records


@pytest.mark.parametrize("platform", ["720", "520"])
def test_what_progress_raises_reaches_the_caller(platform):
    net = Net({"x": (1, 2, 4, 4)})
    model = net.model(net.conv("x", 2, kernel=1))
    inputs = samples(model, 8)

    def stop(done, total):
        raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match="1 of 1"):
        adjust_bias(plan(model, inputs, platform), inputs, target=TARGETS[platform], progress=stop)
