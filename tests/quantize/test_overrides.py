"""quan_config: every selector and key, what wins, what is refused and why; and overridden plans against the oracle."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import Net, samples
from onnx_text import model_of
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges, fixed_model
from real_models import oracle_mismatches

from knerex_jax.artifacts.report import node_rows
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.config import make_config
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.overrides import resolve
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.quan_config import read_quan_config
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

TEXT = """
(float[1,3,6,6] x) => (float[1,4,6,6] z) <float[6,3,1,1] k1, float[4,6,1,1] k2, float[4,4,1,1] k3> {
  [first] a = Conv(x, k1)   [act] b = Relu(a)
  [second] c = Conv(b, k2)  [gate] d = Sigmoid(c)
  [both] e = Mul(c, d)      [last] z = Conv(e, k3)
}"""
CHANNELS = 6  # of b, the output of the first convolution and its activation


def network() -> Model:
    """With channels of c so uneven that the gate, which needs them alike, reads them through a slot."""
    model = decompose_model(model_of(TEXT))
    weight = model.graph.node["second"].inputs[1]
    uneven = np.float32([0.125, 1, 0.125, 1]).reshape(4, 1, 1, 1)
    return replace(model, constants={**model.constants, weight: model.constants[weight] * uneven})


MODEL = network()
INPUTS = samples(MODEL, 8)
RANGES = {platform: exact_ranges(MODEL, INPUTS, platform) for platform in ("720", "520")}


def planned(
    quan_config: dict | None,
    platform: str = "720",
    request: WidthRequest = WIDTHS["int8"],
    policy: RangePolicy = EVERY_CHANNEL,
) -> Planned:
    target = TARGETS[platform]
    overrides = resolve(read_quan_config(quan_config), MODEL, analyse(MODEL, target, REGISTRY), target)
    return plan_model(MODEL, RANGES[platform], request, target, policy=policy, overrides=overrides)


def changed(quan_config: dict, platform: str = "720") -> set[str]:
    """Tensors whose format an override changes."""
    before, after = (planned(c, platform).plan.formats for c in (None, quan_config))
    return {
        t
        for t, f in after.items()
        if (f.bits, f.radix.tolist(), f.scale.tolist())
        != (before[t].bits, before[t].radix.tolist(), before[t].scale.tolist())
    }


def only_note(made: Planned) -> Note:
    (note,) = made.plan.notes
    return note


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("all_nodes", {"b", "c", "d", "e", "z"}),
        ("output_nodes", {"z"}),
        ("act", {"b"}),
        ("b", {"b"}),
        ("x", {"x"}),
        ("[de]", {"d", "e"}),
        ("*at*", {"d"}),
        ("?o*", {"e"}),
    ],
)
def test_selectors(selector, expected):
    made = planned({selector: {"bitwidth": 15}})
    found = {t for t, f in made.plan.formats.items() if f.bits == 15 and not t.startswith(("c_", "e_"))}
    assert found == expected and made.plan.notes == ()


def test_a_node_of_the_original_model_means_all_that_it_became():
    text = """
    (float[1,4,3] x) => (float[1,4,3] z) { [soft] y = LogSoftmax<axis = 1>(x)  [after] z = Relu(y) }"""
    model, target = decompose_model(model_of(text)), TARGETS["720"]
    graph = replace(model.graph, nodes=tuple(replace(n, name=f"n{i}") for i, n in enumerate(model.graph.nodes)))
    stem = {t for n in graph.nodes if "soft" in n.origin for t in n.outputs}
    for nodes, expected in ((graph, stem), (model.graph, {"y"})):  # unless a node still has that very name
        made = replace(model, graph=nodes)
        overrides = resolve({"soft": {"bitwidth": 8}}, made, analyse(made, target, REGISTRY), target)
        assert set(overrides.widths) == expected and len(stem) > 3


def test_more_specific_and_later_entries_win_key_by_key():
    made = planned(
        {
            "act": {"radix": 1},
            "b": {"radix": 2},
            "all_nodes": {"radix": 3, "bitwidth": 15},
            "output_nodes": {"radix": 4},
            "[bd]": {"radix": 5},
            "d": {"bitwidth": 8},
        }
    ).plan.formats
    radices = {t: int(made[t].radix.max()) for t in "bdez"}
    assert radices == {"b": 2, "d": 5, "e": 3, "z": 4}
    assert {t: made[t].bits for t in "bdez"} == {"b": 15, "d": 8, "e": 15, "z": 15}


def test_a_value_with_a_fused_activation_stands_for_its_output():
    made = planned({"first": {"radix": 2}})
    assert (made.plan.formats["b"].radix == 2).all() and "a" not in made.plan.formats
    note = only_note(made)
    assert (note.where, note.requested, note.applied) == ("a", "radix=2", "to b")
    assert "act is fused" in note.why


def test_radix_alone_leaves_every_scale():
    before, after = planned(None).plan.formats, planned({"act": {"radix": 9}}).plan.formats
    assert changed({"act": {"radix": 9}}) == {"b"}
    np.testing.assert_array_equal(after["b"].scale, before["b"].scale)
    np.testing.assert_array_equal(after["b"].radix, 9)


def test_scale_alone_takes_the_radix_that_covers_the_range():
    made = planned({"act": {"scale": 1.75}})
    f = made.plan.formats["b"]
    np.testing.assert_array_equal(f.scale, np.float32(1.75))
    ranges = RANGES["720"]["b"].channel_absmax(8).astype(np.float64)
    ranges = np.maximum(ranges, ranges.max() / 4)
    np.testing.assert_array_equal(f.radix, np.floor(np.log2(127 / (ranges * 1.75))))
    assert made.plan.notes == () and changed({"act": {"scale": 1.75}}) == {"b"}


def test_scale_and_radix_together_are_taken_as_they_are():
    f = planned({"act": {"scale": {"all": 3.0}, "radix": {"all": 2}}}).plan.formats["b"]
    assert (f.scale == 3).all() and (f.radix == 2).all()


def test_lists_are_per_channel():
    scale, radix = np.linspace(1, 2, CHANNELS), np.arange(CHANNELS)
    f = planned({"act": {"scale": scale, "radix": radix.tolist()}}).plan.formats["b"]
    np.testing.assert_array_equal(f.scale, scale.astype(np.float32))
    np.testing.assert_array_equal(f.radix, radix)


@pytest.mark.parametrize("entry", [{"min": -20.0, "max": 3}, {"max": 20}, {"min": [-20] * CHANNELS}])
def test_min_and_max_are_the_range_without_headroom_or_guard(entry):
    made = planned({"act": entry, "all_nodes": {"bitwidth": 15}})
    np.testing.assert_allclose(made.plan.formats["b"].factor, 16383 / 20, rtol=1e-6)


def test_given_channels_are_not_guarded_and_the_other_end_stays_measured():
    low, measured = -0.01, RANGES["720"]["b"].narrow.channel_max
    made = planned({"act": {"min": [low] * CHANNELS}}, policy=RangePolicy(guard_bits=0))
    np.testing.assert_allclose(made.plan.formats["b"].factor, 127 / np.maximum(-low, measured), rtol=1e-6)
    made = planned({"act": {"min": 0, "max": [1, 1, 1, 1, 1, 0.001]}})
    np.testing.assert_allclose(made.plan.formats["b"].factor, [127] * 5 + [127000], rtol=1e-6)


def test_a_range_follows_to_what_only_renames_places_and_to_slots():
    made = planned({"second": {"max": 0, "min": [-100, -1000, -100, -1000]}})
    (copy,) = made.plan.rescales  # per layer, for the gate
    np.testing.assert_allclose(made.plan.formats["c"].factor, [1.27, 0.127, 1.27, 0.127], rtol=1e-6)
    np.testing.assert_allclose(made.plan.formats[copy].factor, 0.127, rtol=1e-6)
    net = Net({"x": (1, 2, 4, 4)})
    moved = net.add("Reshape", net.conv("x", 4), shape=(1, 4, 16))
    model = net.model(net.add("Add", moved, moved))
    target = TARGETS["720"]
    overrides = resolve(
        {"conv0": {"max": [1.0, 2.0, 4.0, 8.0], "min": [0]}}, model, analyse(model, target, REGISTRY), target
    )
    plan = plan_model(
        model, exact_ranges(model, samples(model, 2), "720"), WIDTHS["int8"], target, overrides=overrides
    ).plan
    np.testing.assert_allclose(plan.formats[moved].factor, [127, 63.5, 31.75, 15.875], rtol=1e-6)


def test_a_slot_behind_a_product_with_channels_last():
    """It consists of three nodes, the last of which is a copy of the middle one and gives the tensor its name."""
    net = Net({"x": (1, 3, 6, 6)})
    a = net.add("Transpose", net.conv("x", 8, 1), perm=(0, 2, 3, 1))
    weight = net.nodes[0].inputs[1]
    net.constants[weight][::2] /= 8
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", "x"), 8, 1))
    y = net.add("Mul", a, net.add("Transpose", gate, perm=(0, 2, 3, 1)))
    model, target = net.model(y), TARGETS["720"]
    inputs = samples(model, 4)
    overrides = resolve({y: {"max": 50, "min": -50}}, model, analyse(model, target, REGISTRY), target)
    ranges = exact_ranges(model, inputs, "720")
    made = plan_model(model, ranges, WIDTHS["int8"], target, policy=EVERY_CHANNEL, overrides=overrides)
    assert made.slots == ((y, ()),)
    np.testing.assert_allclose(made.plan.formats[y].factor, 2.54, rtol=1e-6)
    assert node_rows(made, ranges)[-1]["range"] == [ranges[y].narrow.layer_min, ranges[y].narrow.layer_max]
    assert oracle_mismatches(made, fixed_model(made), inputs) == []


def test_slots_and_readers_share_an_overridden_width():
    made = planned({"c": {"bitwidth": 15}})
    assert made.slots and {made.plan.formats[t].bits for t in ("c", *made.plan.rescales)} == {15}
    assert set(made.plan.weight_bits.values()) == {8}
    by_instruction = {i.output: i for i in made.program.instructions}
    assert by_instruction["d"].x_bits == 15


def test_boundary_widths_yield_to_names():
    made = planned({"x": {"bitwidth": "int16"}, "output_nodes": {"bitwidth": 16}, "act": {"bitwidth": "15"}})
    assert {t: made.plan.formats[t].bits for t in "xbz"} == {"x": 15, "b": 15, "z": 15}
    assert planned({"all_nodes": {"bitwidth": 8}}, request=WIDTHS["int16"]).plan.formats["x"].bits == 15


REFUSED = [
    ("720", {"both": {"scale": 1.5}}, "e", "scale=1.5", "product"),
    ("720", {"act": {"radix": 32}}, "b", "radix=32", "-16 .. 31"),
    ("720", {"act": {"radix": -17}}, "b", "radix=-17", "-16 .. 31"),
    ("720", {"act": {"scale": 0}}, "b", "scale=0", "a scale lies within"),
    ("720", {"act": {"scale": -1.5}}, "b", "scale=-1.5", "a scale lies within"),
    ("720", {"act": {"scale": 1e9}}, "b", "scale=1e+09", "a scale lies within"),
    ("720", {"act": {"scale": 65536, "max": 1e4}, "b": {"min": -1e4}}, "b", "scale=65536", "a radix would leave"),
    ("720", {"act": {"scale": [1, 2]}}, "b", "scale=[1, 2]", "6 channels"),
    ("720", {"x": {"radix": [1, 2, 3]}}, "x", "radix=[1, 2, 3]", "no channels"),
    ("720", {"z": {"radix": [1, 2, 3, 4]}}, "z", "radix=[1, 2, 3, 4]", "one format for all channels"),
    ("720", {"gate": {"max": 1.5}}, "d", "max=1.5", "never exceed 1"),
    ("720", {"act": {"min": 1, "max": -1}}, "b", "min=1", "min is larger than max"),
    ("520", {"act": {"radix": [1] * 6}}, "b", "radix=[1, 1, 1, 1, 1, ...]", "one radix per tensor"),
    ("520", {"act": {"bitwidth": 15}}, "b", "bitwidth=15", "no data of 15 bits"),
    ("720", {"nothing*": {"radix": 3}}, "nothing*", "radix=3", "no tensor"),
]


@pytest.mark.parametrize(("platform", "quan_config", "where", "requested", "why"), REFUSED)
def test_what_cannot_be_honoured_is_noted(platform, quan_config, where, requested, why):
    made = planned(quan_config, platform)
    notes = [n for n in made.plan.notes if n.requested == requested]
    assert [(n.where, n.applied) for n in notes] == [(where, "unchanged")]
    assert why in notes[0].why
    if len(quan_config) == 1:
        assert changed(quan_config, platform) == set()


def test_the_scale_of_a_class_is_chosen_through_the_tensor_that_gives_it():
    net = Net({"x": (1, 3, 6, 6)})
    a = net.conv("x", 4, 1)
    b = net.add("MaxPool", a, kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0), name="pool")
    model, target = net.model(net.conv(b, 3, 1)), TARGETS["720"]
    ranges = exact_ranges(model, samples(model, 4), "720")

    def plan_with(tensor: str):
        overrides = resolve({tensor: {"scale": [1.25]}}, model, analyse(model, target, REGISTRY), target)
        return plan_model(model, ranges, WIDTHS["int8"], target, policy=EVERY_CHANNEL, overrides=overrides).plan

    chosen, refused = plan_with(b), plan_with(a)
    assert chosen.notes == () and all((chosen.formats[t].scale == np.float32(1.25)).all() for t in (a, b))
    assert refused.notes == (Note(a, "scale=1.25", "unchanged", f"it shares the scale of {b}; choose that"),)
    shared = {"[a-z]*": {"scale": [1.25]}}
    overrides = resolve(shared, model, analyse(model, target, REGISTRY), target)
    assert plan_model(model, ranges, WIDTHS["int8"], target, overrides=overrides).plan.formats[b].scale[0] == 1.25


def test_radix_of_a_concat_follows_its_operands_where_radices_are_per_layer():
    net = Net({"x": (1, 3, 6, 6)})
    a, b = net.conv("x", 4, 1), net.conv("x", 4, 1)
    y = net.add("Concat", a, b, axis=1, name="cat")
    model, target = net.model(net.conv(y, 3, 1)), TARGETS["520"]
    ranges = exact_ranges(model, samples(model, 4), "520")

    def plan_with(entry: dict):
        overrides = resolve(read_quan_config(entry), model, analyse(model, target, REGISTRY), target)
        return plan_model(model, ranges, WIDTHS["int8"], target, overrides=overrides).plan

    assert (plan_with({a: {"radix": 1}}).formats[y].radix == 1).all()
    (note,) = plan_with({"cat": {"radix": 20}}).notes
    assert (note.where, note.requested) == (y, "radix=20") and "smallest radix of its operands" in note.why


def test_what_leaves_no_legal_shift_is_withdrawn_with_the_reason():
    extreme = {"x": {"radix": 31}, "act": {"radix": -16}, "second": {"radix": 31}}
    made = planned(extreme)
    withdrawn = [n for n in made.plan.notes if "needs a shift" in n.why]
    assert withdrawn and all(n.applied == "unchanged" for n in withdrawn)
    assert oracle_mismatches(made, fixed_model(made), INPUTS) == []


def test_equal_refusals_become_one_note():
    made = planned({"all_nodes": {"bitwidth": 15}}, "520")
    assert only_note(made).where == "b, c, d, e, z"


def test_many_refusals_are_counted():
    net = Net({"x": (1, 2, 4, 4)})
    x = "x"
    for _ in range(8):
        x = net.conv(x, 2, 1)
    model, target = net.model(x), TARGETS["520"]
    overrides = resolve({"all_nodes": {"bitwidth": 15}}, model, analyse(model, target, REGISTRY), target)
    ranges = exact_ranges(model, samples(model, 2), "520")
    (note,) = plan_model(model, ranges, WIDTHS["int8"], target, overrides=overrides).plan.notes
    assert note.where.endswith("conv4:0 and 3 more")


def test_no_overrides_change_nothing():
    assert planned({}).plan.to_json() == planned(None).plan.to_json()


def test_an_imposed_radix_makes_no_slot_profitable():
    """The operand's own radix is far above the imposed one, but a slot would win nothing."""
    assert planned({"second": {"radix": -3}}).slots == planned(None).slots


@pytest.mark.parametrize(
    ("quan_config", "words"),
    [
        ({"act": {"radx": 3}}, ["unknown key 'radx'", "did you mean 'radix'"]),
        ({"act": {"zero": 3}}, ["unknown key 'zero'", "the keys are scale"]),
        ({"act": 3}, ["dictionary", "act"]),
        ([("act", 3)], ["dictionary"]),
        ({3: {"radix": 3}}, ["text"]),
        ({"act": {"radix": 3.5}}, ["one integer"]),
        ({"act": {"radix": "3"}}, ["one integer"]),
        ({"act": {"radix": True}}, ["one integer"]),
        ({"act": {"radix": []}}, ["one integer"]),
        ({"act": {"scale": float("nan")}}, ["finite"]),
        ({"act": {"max": [1.0, float("inf")]}}, ["finite"]),
        ({"act": {"bitwidth": 12}}, ["8 or 15"]),
        ({"act": {"bitwidth": [8, 15]}}, ["8 or 15"]),
        ({"act": {"radix": {"0": 3}}}, ["told apart by number", "tensor"]),
        ("missing.json", ["cannot read", "missing.json"]),
        ("{not json", ["valid JSON"]),
    ],
)
def test_what_is_malformed_is_an_error(quan_config, words):
    with pytest.raises(ConfigError) as caught:
        make_config(quan_config=quan_config)
    for word in [*words, "fix:"]:
        assert word in str(caught.value)


def test_unknown_names_are_errors_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'second'"):
        planned({"secnd": {"radix": 3}})
    with pytest.raises(ConfigError, match="did you mean 'all_nodes'"):
        planned({"all_node": {"radix": 3}})


def test_files_and_text_say_the_same_as_dictionaries(tmp_path, monkeypatch):
    asked = {"conv": {"radix": {"all": 5}, "bitwidth": "int16", "max": [1, 2]}}
    expected = {"conv": {"radix": [5], "bitwidth": 15, "max": [1, 2]}}
    path = tmp_path / "quan.json"
    path.write_text(json.dumps(asked))
    for form in (asked, str(path), path, json.dumps(asked)):
        assert make_config(quan_config=form).quan_config == expected
    assert make_config(quan_config=asked).to_json()["quan_config"] == expected
    assert make_config().quan_config is None
    path.with_suffix(".yaml").write_text("conv: {radix: 5}")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"knerex-jax\[yaml\]"):
        read_quan_config(path.with_suffix(".yaml"))


ORACLE = [
    (
        "720",
        {
            "all_nodes": {"bitwidth": 8},
            "second": {"bitwidth": 15, "scale": [1.25, 1.5, 1.0, 1.9]},
            "act": {"radix": [6, 5, 4, 3, 7, 5], "scale": 1.5},
            "gate": {"max": 0.5, "min": 0.0},
            "x": {"bitwidth": 15, "radix": 9},
        },
    ),
    ("520", {"act": {"scale": [1, 2, 3, 1.5, 2.5, 4], "radix": 3}, "both": {"radix": 4}, "x": {"max": 2, "min": -2}}),
]


@pytest.mark.parametrize(("platform", "quan_config"), ORACLE)
def test_overridden_plans_equal_the_oracle(platform, quan_config):
    made = planned(quan_config, platform)
    assert made.plan.notes == ()
    assert oracle_mismatches(made, fixed_model(made), samples(MODEL, 4, seed=5, scale=2.0)) == []


def test_widths_of_single_nodes():
    request = WidthRequest(nodes={"first": 15, "both": 15, "last": 15}, weight_nodes={"second": 15})
    made = planned({"b": {"bitwidth": 8}}, request=request)
    bits = {t: f.bits for t, f in made.plan.formats.items()}
    assert (bits["b"], bits["e"], bits["z"], bits["c"]) == (8, 15, 8, 8)  # outputs keep theirs, overrides win
    assert planned(None, request=request).plan.formats["b"].bits == 15  # the activation fused into `first`
    assert made.plan.weight_bits["second"] == 15 and made.plan.weight_bits["first"] == 8


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (WidthRequest(nodes={"absent": 15}), ["no such node", "absent"]),
        (WidthRequest(weight_nodes={"gate": 15}), ["no such node", "gate"]),
        (WidthRequest(nodes={"act": 4}), ["no data of 4 bits"]),
        (WidthRequest(weight_nodes={"last": 4}), ["no weights of 4 bits"]),
    ],
)
def test_widths_of_single_nodes_are_checked(request_, words):
    with pytest.raises(ConfigError) as caught:
        planned(None, request=request_)
    for word in words:
        assert word in str(caught.value)
