"""Mixed widths by measured sensitivity: the wide emulator is exact, the choice keeps its budget and pays."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from helpers import Net, samples
from onnx_text import model_of
from planning import EVERY_CHANNEL, exact_ranges, fixed_model, float_values
from real_models import oracle_mismatches

import knerex_jax as kx
from knerex_jax import embedded, flow
from knerex_jax.emulator.wide import widen
from knerex_jax.errors import ConfigError
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.planner import plan_model
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.structure import is_weighted
from knerex_jax.refine.afford import Limit
from knerex_jax.refine.mixed import Candidate, choose_widths, spend, to_db, write_candidates
from knerex_jax.refine.sensitivity import WideEmulator, judged_tensors, output_noise, run_float
from knerex_jax.targets import TARGETS

WIDE = WidthRequest(15, 15, 15, 15)
TARGET = TARGETS["720"]

EVERYTHING = """
(float[1,3,10,10] x) => (float[1,4,h,w] y, float[1,n] z)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8,8,1,1] w3, float[8,8,1,1] w4, float[8,4,2,2] w5,
 float[8] s, float[8] o, float[8] mean, float[8] var, float[16,5] w6,
 int64[1] from = {2}, int64[1] to = {10}, int64[1] axis = {1}, int64[3] shape = {1, 8, 16}, int64[1] last = {2}> {
  [stem] c1 = Conv<pads = [1,1,1,1]>(x, w1, b1)   [stem_act] a1 = LeakyRelu<alpha = 0.3>(c1)
  [depth] c2 = Conv<group = 8>(a1, w2)            [depth_act] a2 = HardSwish(c2)
  [point] c3 = Conv(a2, w3)                       [point_act] a3 = Relu(c3)
  [pool] p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a3)
  [mean] q = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a3)
  [sum] u = Add(p, q)  [act] v = LeakyRelu<alpha = 1.5>(u)  [erf] e = Erf(v)
  [one] f = Conv(e, w4)  [gate] g = Sigmoid(f)  [times] h = Mul(f, g)
  [norm] k = BatchNormalization(h, s, o, mean, var)
  [both] l = Concat<axis = 1>(k, e)  [part] m = Slice(l, from, to, axis)
  [up] y = ConvTranspose<strides = [2,2]>(m, w5)
  [row] r = Reshape(m, shape)  [turn] t = Transpose<perm = [0,2,1]>(r)
  [self] d = MatMul(t, r)  [flat] n1 = ReduceMean<keepdims = 0>(d, last)  [fc] z = MatMul(n1, w6)
}"""
"""Every kind of instruction whose limits, registers or tables depend on widths."""

CHAIN = """
(float[1,2,8,8] x) => (float[1,6,h,w] y)
<float[6,2,3,3] w1, float[6,1,3,3] w2, float[6,6,3,3] w3, float[6,6,1,1] w4, float[6,6,1,1] w5> {
  [stem] c1 = Conv<pads = [1,1,1,1]>(x, w1)           [stem_act] a1 = Relu(c1)
  [depth] c2 = Conv<group = 6, pads = [1,1,1,1]>(a1, w2)  [depth_act] a2 = Relu(c2)
  [large] c3 = Conv<pads = [1,1,1,1]>(a2, w3)         [large_act] a3 = Relu(c3)
  [left] c4 = Conv(a3, w4)  [right] c5 = Conv(a3, w5)  [sum] y = Add(c4, c5)
}"""


def mixtures(model):
    """Two requests with random widths, each other's opposite, for every node whose output is not the model's."""
    rng = np.random.default_rng(3)
    outputs = set(model.graph.outputs)
    free = [n.name for n in model.graph.nodes if outputs.isdisjoint(n.outputs)]
    weighted = [n.name for n in model.graph.nodes if is_weighted(n, model, REGISTRY)]
    data, weights = (dict.fromkeys(names, 8) for names in (free, weighted))
    for widths in (data, weights):
        widths.update((n, int(rng.choice([8, 15]))) for n in widths)
    return [
        replace(WIDE, nodes=data, weight_nodes=weights),
        replace(
            WIDE, nodes={n: 23 - b for n, b in data.items()}, weight_nodes={n: 23 - b for n, b in weights.items()}
        ),
    ]  # fmt: skip


def test_the_wide_emulator_gives_the_codes_of_every_mixture():
    model = decompose_model(model_of(EVERYTHING))
    inputs = samples(model, 6)
    ranges = exact_ranges(model, inputs, "720")
    base = plan_model(model, ranges, WIDE, TARGET, policy=EVERY_CHANNEL)
    plans = [plan_model(model, ranges, r, TARGET, policy=EVERY_CHANNEL, slots=base.slots) for r in mixtures(model)]
    rules = {i.rule for p in plans for i in p.program.instructions if i.bits == 8}
    assert rules >= {"mac", "act", "align", "mul", "matmul", "poolsum", "maxpool", "move", "table"}
    assert len({p.program for p in plans}) == 2 and {widen(p.program) for p in plans} == {widen(base.program)}
    pairs = [(p.program, p.constants) for p in plans]
    # Twice the calibrated range: saturation has to agree as well.
    loud = samples(model, 4, seed=5, scale=2.0)
    batches = {t: a[:, None] for t, a in loud.items()}
    runs = WideEmulator.of(pairs, plans_at_once=2).run(pairs, batches, batch_size=3)
    for made, codes in zip(plans, runs, strict=True):
        for t, want in fixed_model(made).run(loud, "fixed").items():
            got = np.concatenate([b[t] for b in codes])[:4].reshape(want.shape)
            np.testing.assert_array_equal(got, want, err_msg=t)


def chain(count=12):
    model = decompose_model(model_of(CHAIN))
    inputs = samples(model, count)
    return model, inputs, exact_ranges(model, inputs, "720")


def test_noise_is_that_of_the_static_program():
    model, inputs, ranges = chain()
    reference = run_float(model, inputs, REGISTRY, 5)
    plans = [
        plan_model(model, ranges, replace(WIDE, nodes=nodes), TARGET, policy=EVERY_CHANNEL)
        for nodes in ({}, {"depth_act": 8})
    ]
    noise = output_noise([(p.program, p.constants) for p in plans], reference, batch_size=5)
    exact = float_values(model, inputs, ("y",))["y"]
    for made, measured in zip(plans, noise, strict=True):
        want = snr_db(exact, fixed_model(made).run(inputs)["y"])
        # The emulator's own dequantization is one float32 product.
        assert to_db(measured) == pytest.approx(want, abs=0.01)
    assert noise[1] > 4 * noise[0]


@pytest.mark.parametrize("sides", [("data",), ("weight",), ("data", "weight")])
def test_the_choice_keeps_the_budget_and_is_the_best_of_all(sides):
    model, inputs, ranges = chain()
    mixed = choose_widths(
        model, ranges, WIDE, TARGET, inputs, sides=sides, budget=0.4, policy=EVERY_CHANNEL, batch_size=12
    )
    assert mixed.share <= 0.4 and mixed.notes == ()
    assert [c.snr_db for c in mixed.candidates] == sorted(c.snr_db for c in mixed.candidates)
    free = {c.nodes: c.cost for c in mixed.candidates}
    harm = {n: sum(10 ** (-c.snr_db / 10) for c in mixed.candidates if c.nodes == n) for n in free}
    unavoidable = mixed.share - sum(free[n] for n in {c.nodes for c in mixed.candidates if c.bits == 15})
    best = max(
        (sum(harm[n] for n in kept), kept)
        for size in range(len(free) + 1)
        for kept in combinations(free, size)
        if unavoidable + sum(free[n] for n in kept) <= 0.4 + 1e-9
    )
    assert {c.nodes for c in mixed.candidates if c.bits == 15} == set(best[1])
    made = plan_model(model, ranges, mixed.request, TARGET, policy=EVERY_CHANNEL)
    narrow = {n for c in mixed.candidates if c.bits == 8 for n in c.nodes}
    read = {model.graph.node[n].inputs[0] for n in narrow} if "data" in sides else set()
    assert {t for t, f in made.plan.formats.items() if f.bits == 8} == read
    assert {n for n, bits in made.plan.weight_bits.items() if bits == 8} == (narrow if "weight" in sides else set())
    assert snr_db(float_values(model, inputs, ("y",))["y"], fixed_model(made).run(inputs)["y"]) == pytest.approx(
        mixed.predicted_snr, abs=2.5
    )
    assert oracle_mismatches(made, fixed_model(made), samples(model, 2, seed=3)) == []


def test_what_the_input_feeds_stays_wide_whatever_the_budget_and_costs_are_an_argument():
    model, inputs, ranges = chain(4)
    costs = {"stem": 6.0, "depth": 1.0, "large": 1.0, "left": 1.0, "right": 1.0}
    mixed = choose_widths(model, ranges, WIDE, TARGET, inputs, sides=("data",), budget=0.5, costs=costs)
    assert {n for c in mixed.candidates for n in c.nodes} == {"depth", "large", "left", "right"}
    assert {c.bits for c in mixed.candidates} == {8} and mixed.share == pytest.approx(0.6)
    (note,) = mixed.notes
    assert (note.where, note.requested, note.applied) == ("flops_ratio", "0.5", "0.600")


def test_a_softmax_or_sigmoid_is_judged_by_what_goes_into_it():
    text = """(float[1,6] x) => (float[1,5] y, float[1,5] z, float[1,5] u) <float[6,5] w, float[6,5] v> {
      [fc] l = MatMul(x, w)  [last] y = Softmax<axis = 1>(l)
      [other] m = MatMul(x, v)  [gate] z = Sigmoid(m)  [plain] u = Add(l, m)
    }"""
    model = decompose_model(model_of(text))
    assert judged_tensors(model) == ("l", "m", "u")
    inputs = samples(model, 5)
    reference = run_float(model, inputs, REGISTRY, 2)
    assert set(reference.outputs) == {"l", "m", "u"}
    made = plan_model(model, exact_ranges(model, inputs, "720"), WIDE, TARGET, policy=EVERY_CHANNEL)
    fixed = fixed_model(made).run(inputs, taps=("l", "m", "u"))
    want = [10 ** (-snr_db(a, fixed[t].reshape(a.shape)) / 10) for t, a in reference.outputs.items()]
    got = output_noise([(made.program, made.constants)], reference, batch_size=2)
    np.testing.assert_allclose(got, np.mean(want), rtol=1e-2)


def test_integer_outputs_have_no_snr():
    net = Net({"x": (1, 4)})
    model = net.model(net.add("ArgMax", net.add("Gemm", "x", net.random(4, 3), net.random(3)), axis=1))
    with pytest.raises(ConfigError, match="real numbers"):
        run_float(model, samples(model, 2), REGISTRY, 2)


def test_the_most_valuable_set_within_the_budget_is_bought():
    prices, gains = {"a": 0.15, "b": 0.1, "c": 0.09, "d": 0.0}, {"a": 5.0, "b": 3.0, "c": 3.0, "d": 1e-9}
    assert spend(0.2, prices, gains) == {"b", "c", "d"}
    assert spend(0.05, prices, gains) == {"d"}
    assert spend(0.0, prices, gains) == {"d"}
    assert spend(-1.0, prices, gains) == set()
    assert spend(1.0, prices, {**gains, "a": 0.0}) == {"b", "c", "d"}


def test_candidates_are_written_by_side(tmp_path):
    found = [Candidate("weight", ("n",), 0.5, 31.5, 8), Candidate("data", ("n", "m"), 0.5, 40.0, 15)]
    files = write_candidates(found, tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in files] == ["data/sensitivity.json", "weight/sensitivity.json"]
    (row,) = json.loads(files[0].read_text())
    assert row == {"side": "data", "nodes": ["n", "m"], "cost": 0.5, "snr_db": 40.0, "bits": 15}


def test_ptq_with_mixbw(tmp_path):
    data = {"input": embedded.calibration()["input"][:24]}
    result = kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, mode=1, datapath_bitwidth_mode="int16", p_output=tmp_path,
        weight_bitwidth_mode="mixbw", mixbw_debug=True, flops_ratio=0.1,
    )  # fmt: skip
    assert set(result.plan.weight_bits.values()) == {8, 15}
    rows = json.loads((tmp_path / "weight" / "sensitivity.json").read_text())
    assert {n: r["bits"] for r in rows for n in r["nodes"]} == dict(result.plan.weight_bits)
    assert sum(r["cost"] for r in rows if r["bits"] == 15) <= 0.1
    with pytest.raises(ConfigError, match="mix_widths"):
        kx.make_plan(result.planned.model, result.ranges, kx.PTQConfig(datapath_bitwidth_mode="mixbw",
                                                                       weight_bitwidth_mode="int16"))  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    model = kx.decompose_onnx(embedded.model_path())
    data = {t: v[:24] for t, v in embedded.calibration().items()}
    return model, kx.analyze(model, data, kx.PTQConfig()), data


def ranked(digits, **options):
    model, ranges, data = digits
    config = kx.PTQConfig(datapath_bitwidth_mode="int16", weight_bitwidth_mode="mixbw", **options)
    mixed = kx.flow.mix_widths(model, ranges, config, data)
    planned = kx.make_plan(model, ranges, config, mixed=mixed)
    wide = {n for n, bits in planned.plan.weight_bits.items() if bits == 15}
    return mixed, planned, wide, {o: Limit(o, 0.0, config.machine).measure(planned) for o in ("max_ms", "max_mb")}


@pytest.mark.parametrize("option", ["max_ms", "max_mb"])
def test_a_limit_of_time_or_bytes_is_kept_and_used(digits, option):
    *_, none, least = ranked(digits, flops_ratio=0.0)
    *_, every, most = ranked(digits, flops_ratio=1.0)
    assert not none and len(every) > 3 and least[option] < most[option]
    limit = (least[option] + most[option]) / 2
    mixed, _, wide, reached = ranked(digits, **{option: limit})
    assert wide and wide < every and reached[option] <= limit and not mixed.notes
    dearer = [c for c in mixed.candidates if c.bits == 8]
    assert mixed.predicted_snr > min(c.snr_db for c in dearer) - 10 * np.log10(len(dearer)) - 1e-6


def test_a_limit_below_what_8_bits_take_is_a_note(digits):
    mixed, _, wide, _ = ranked(digits, max_ms=1e-4)
    assert not wide and [n.where for n in mixed.notes] == ["max_ms"]


def test_limits_without_mixbw_or_two_of_them():
    assert [n.where for n in kx.PTQConfig(max_ms=2.0).notes()] == ["max_ms"]
    with pytest.raises(ConfigError, match="two budgets"):
        kx.PTQConfig(max_ms=2.0, max_mb=3.0)


def test_imposed_widths_are_no_decisions_but_count():
    net = Net({"x": (1, 4, 8, 8)})
    relu = ["x"]
    for _ in range(3):
        relu.append(net.add("Relu", net.conv(relu[-1], 8)))
    model = net.model(net.conv(relu[-1], 4))
    data = samples(model, 8)
    config = kx.PTQConfig(datapath_bitwidth_mode="mixbw", weight_bitwidth_mode="int16", batch_size=8, flops_ratio=0.55)
    ranges = flow.analyze(model, {t: list(a) for t, a in data.items()}, config)

    def chosen(**widths):
        asked = replace(config, quan_config={name: {"bitwidth": bits} for name, bits in widths.items()})
        mixed = flow.mix_widths(model, ranges, asked, data)
        return mixed, flow.make_plan(model, ranges, asked, mixed=mixed).plan

    free, plan = chosen()
    assert len(free.candidates) == 3 and free.share <= 0.55
    mixed, plan = chosen(all_nodes=16)
    assert not mixed.candidates and mixed.share == 1 and {f.bits for f in plan.formats.values()} == {15}
    assert any(n.where == "flops_ratio" and "quan_config" in n.why for n in plan.notes)
    wide = next(c for c in free.candidates if c.bits == 15)
    tensor = model.graph.node[wide.nodes[0]].inputs[0]
    mixed, plan = chosen(**{tensor: 8})
    assert wide.nodes not in [c.nodes for c in mixed.candidates] and plan.formats[tensor].bits == 8
    assert any(c.bits == 15 for c in mixed.candidates), "the budget goes to another one"
