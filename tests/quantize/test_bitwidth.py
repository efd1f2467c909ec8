"""Widths by tensor: what the CPU makes, and constant operands; every mixture against the oracle."""

import pytest
from helpers import samples
from onnx_text import model_of
from planning import EVERY_CHANNEL, exact_ranges, fixed_model
from real_models import oracle_mismatches

import knerex_jax as kx
from knerex_jax.graph.ir import Model
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.bitwidth import cpu_nodes
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

NET = """
(float[1,4,11,7] x) => (float[1,4,h,w] z, float[1,4,h,w] out)
<float[4,4,3,3] k1, float[4,4,3,3] k2, float[4,4,1,1] k3, float[1,4,1,5] c, int64 two = {2}> {
  [near] a = Conv<pads = [1,1,1,1]>(x, k1)  [act] b = Relu(a)
  [far] d = Conv<strides = [5,1]>(b, k2)    [limit] e = Relu(d)
  [erf] f = Erf(e)
  [back] g = Conv(f, k3)
  [soft] s = Softmax<axis = 1>(g)
  [sum] t = CumSum(s, two)
  [plus] z = Add(t, c)
  [neg] u = Neg(z)
  [last] out = Erf(u)
}"""
SWISH = """
(float[1,4,6,6] x) => (float[1,4,h,w] z) <float[4,4,3,3] k1, float[4,4,1,1] k2> {
  a = Conv(x, k1)  [swish] b = HardSwish(a)  c = Conv(b, k2)  z = Relu(c)
}"""


def planned(model: Model, inputs, platform: str = "720", **widths: int) -> Planned:
    request, ranges = WidthRequest(**widths), exact_ranges(model, inputs, platform)
    return plan_model(model, ranges, request, TARGETS[platform], policy=EVERY_CHANNEL)


def bits_of(made: Planned) -> dict[str, int]:
    return {t: f.bits for t, f in made.plan.formats.items()}


@pytest.mark.parametrize(("data", "cpu"), [(8, 15), (15, 8)])
def test_what_the_cpu_makes_has_its_width_and_nothing_else_changes(data, cpu):
    model = decompose_model(model_of(NET))
    inputs = samples(model, 4)
    widths = {"data": data, "model_in": data, "model_out": data}
    before, after = planned(model, inputs, **widths), planned(model, inputs, **widths, cpu=cpu)
    changed = {t for t, bits in bits_of(after).items() if bits != bits_of(before)[t]}
    assert changed == {
        "e",
        "f",
        "t",
    }  # fused into a Conv on the CPU, a table, an island; neither wide tensors nor outputs
    assert all(bits_of(after)[t] == cpu for t in changed)
    wide = {t for n in model.graph.nodes if n.wide for t in n.outputs}
    assert wide and all(bits_of(after)[t] == 15 for t in wide)
    (note,) = after.plan.notes
    assert note.where == "cpu_node_bitwidth_mode" and note.applied == {8: "int8", 15: "int16"}[cpu]
    assert note.why == "4 nodes on the CPU: far, limit, erf, sum"
    assert before.plan.notes == ()
    evaluation = samples(model, 4, scale=2.0)
    assert oracle_mismatches(after, fixed_model(after), evaluation) == []


def test_nodes_on_the_cpu_are_those_of_the_check_and_what_is_fused_into_them():
    model = decompose_model(model_of(NET))
    for platform, expected in (("720", {"far", "limit", "erf", "sum", "last"}), ("730", {"sum"})):
        target = TARGETS[platform]
        found = {n for n in cpu_nodes(model, analyse(model, target, kx.REGISTRY), target, kx.REGISTRY)
                 if not model.graph.node[n].wide}  # fmt: skip
        assert found == expected


@pytest.mark.parametrize(("data", "cpu"), [(8, 15), (15, 8)])
def test_a_fused_activation_of_the_cpu(data, cpu):
    model = decompose_model(model_of(SWISH))
    made = planned(model, samples(model, 4), data=data, model_in=data, model_out=data, cpu=cpu)
    assert bits_of(made) == {"x": data, "b": cpu, "z": data}
    assert oracle_mismatches(made, fixed_model(made), samples(model, 4, scale=2.0)) == []


@pytest.mark.parametrize(("platform", "asked", "applied"), [("720", 15, 15), ("720", 8, 8), ("520", 15, 8)])
def test_constant_operands_have_their_own_width(platform, asked, applied):
    text = "(float[1,4,3] x) => (float[1,4,3] z) <float[1,4,3] c> { y = Add(x, c) z = Relu(y) }"
    model = decompose_model(model_of(text))
    made = planned(model, samples(model, 4), platform, constants=asked)
    (constant,) = (n.outputs[0] for n in made.model.graph.nodes if n.op_type == "Identity")
    assert bits_of(made)[constant] == applied
    assert oracle_mismatches(made, fixed_model(made), samples(model, 4)) == []


def test_the_same_width_leaves_the_plan_as_it_is():
    model = decompose_model(model_of(NET))
    inputs = samples(model, 4)
    assert planned(model, inputs).plan.to_json() == planned(model, inputs, cpu=8).plan.to_json()
