"""What-if: another plan on the same compiled program, its codes against the oracle; results read back from a folder."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import Net, samples
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges
from real_models import oracle_mismatches

import knerex_jax as kx
from knerex_jax import embedded
from knerex_jax.cli import knerex
from knerex_jax.diagnose.whatif import Trial, WhatIf
from knerex_jax.errors import ArtifactError, ConfigError
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.overrides import resolve
from knerex_jax.quantize.planner import plan_model
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

TARGET = TARGETS["720"]


def network() -> Model:
    net = Net({"x": (1, 3, 8, 8)})
    a = net.add("Relu", net.conv("x", 8))
    pooled = net.add("MaxPool", a, kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0))
    b = net.conv(pooled, 8)
    gate = net.add("Sigmoid", b, name="gate")
    return net.model(net.conv(net.add("Add", net.add("Mul", b, gate), pooled), 4))


MODEL = network()
INPUTS = samples(MODEL, 8)


def what_if(quan_config: dict | None = None) -> WhatIf:
    ranges, held = exact_ranges(MODEL, INPUTS, "720"), quan_config or {}
    overrides = resolve(held, MODEL, analyse(MODEL, TARGET, REGISTRY), TARGET)
    planned = plan_model(MODEL, ranges, WIDTHS["int8"], TARGET, policy=EVERY_CHANNEL, overrides=overrides)
    return WhatIf(MODEL, ranges, planned, EVERY_CHANNEL, held)


def assert_equals_oracle(trial: Trial) -> None:
    """Outputs through the shared function, and every tensor of a model of its own."""
    own = kx.FixedModel(trial.fixed.bie)
    assert oracle_mismatches(trial.planned, own, INPUTS) == []
    expected = own.run(INPUTS, "fixed")
    for name, codes in trial.fixed.run(INPUTS, "fixed").items():
        np.testing.assert_array_equal(codes, expected[name])


def test_formats_change_without_compiling_again():
    subject = what_if()
    before = subject.snr_db(subject.base, INPUTS)
    emulator = subject.base.fixed.shared
    assert emulator is not None
    step = emulator.step(emulator.program.outputs)
    trials = [
        subject.change(change)
        for change in (
            {"relu1": {"radix": 1}},
            {"gate": {"scale": 1.9}, "conv3": {"min": -40, "max": 40}},
            {"x": {"radix": 3}, "add6": {"max": 100}},
        )
    ]
    for trial in trials:
        after = subject.snr_db(trial, INPUTS)
        assert trial.planned.program == subject.planned.program
        assert all(after[t] < before[t] for t in before), "the base has the best of these formats"
        assert trial.planned.plan.notes == ()
    assert subject.compiled == 1 and step._cache_size() == 1
    assert_equals_oracle(trials[1])


def test_a_change_of_nothing_is_the_plan_itself():
    subject = what_if({"relu1": {"radix": 2, "bitwidth": 15}})
    again = subject.change({})
    assert again.planned.plan.to_json() == subject.planned.plan.to_json()
    assert again.fixed.shared is subject.base.fixed.shared


def test_widths_compile_once_each_and_pin_the_rest():
    subject = what_if()
    before = subject.snr_db(subject.base, INPUTS)
    wide = subject.change({"all_nodes": {"bitwidth": 15}, "x": {"bitwidth": 15}})
    assert subject.compiled == 2
    changed = {t for t, f in wide.planned.plan.formats.items() if f.bits == 15}
    assert changed == set(wide.planned.plan.formats), "slots follow what they carry"
    after = subject.snr_db(wide, INPUTS)
    assert all(after[t] > before[t] + 3 for t in before)
    subject.change({"all_nodes": {"bitwidth": 15, "max": 50}, "x": {"bitwidth": 15}})
    assert subject.compiled == 2
    assert_equals_oracle(wide)


def test_changes_come_on_top_of_the_overrides_of_the_plan():
    subject = what_if({"relu1": {"radix": 2, "bitwidth": 15}, "gate": {"radix": 5}})
    made = subject.change({"relu1": {"radix": 4}}).planned.plan.formats
    assert (made["relu1:0"].radix == 4).all() and made["relu1:0"].bits == 15
    assert (made["gate:0"].radix == 5).all()


def test_a_clash_gets_a_slot_of_its_own():
    """Equal scales of all channels let a product be per layer; unequal ones need a rescale behind it."""
    net = Net({"x": (1, 4, 6, 6), "w": (1, 4, 6, 6)})
    a, b = net.conv("x", 4, 1), net.conv("w", 4, 1)
    model = net.model(net.add("Mul", a, b))
    inputs = samples(model, 4)
    ranges = exact_ranges(model, inputs, "720")
    planned = plan_model(model, ranges, WIDTHS["int8"], TARGET)
    subject = WhatIf(model, ranges, planned)
    assert planned.slots == ()
    trial = subject.change({a: {"scale": [1.0, 1.25, 1.5, 1.75]}})
    assert trial.planned.slots and trial.planned.plan.notes == ()
    assert oracle_mismatches(trial.planned, trial.fixed, inputs) == []


def test_an_unknown_node_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'gate'"):
        what_if().change({"gat": {"radix": 3}})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> kx.PTQResult:
    data = {k: list(v[:20]) for k, v in embedded.calibration().items()}
    return kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, platform="720", mode=1, model_in_bitwidth_mode="int16",
        quan_config={"add": {"bitwidth": 15}, "head": {"radix": 1}}, p_output=tmp_path_factory.mktemp("out"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(written) -> WhatIf:
    return WhatIf.load(written.paths["bie"].parent)


def test_a_written_result_is_planned_again_as_it_was(written, loaded):
    assert loaded.planned.program == written.planned.program
    assert loaded.planned.plan.to_json()["tensors"] == written.plan.to_json()["tensors"]
    assert loaded.change({}).planned.plan.to_json()["tensors"] == written.plan.to_json()["tensors"]


def test_a_folder_that_does_not_belong_together_is_refused(written, tmp_path):
    with pytest.raises(ArtifactError, match="cannot read the report"):
        WhatIf.load(tmp_path)
    for path in written.paths["bie"].parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    report = json.loads((tmp_path / "model_fx_report.json").read_text())
    report["requested"]["quan_config"] = None
    (tmp_path / "model_fx_report.json").write_text(json.dumps(report))
    with pytest.raises(ArtifactError, match="is another one"):
        WhatIf.load(tmp_path)


def test_command_prints_the_snr_before_and_after(written, loaded, tmp_path):
    inputs, _ = embedded.evaluation()
    path = tmp_path / "eval.npz"
    np.savez(path, **{k: v[:32] for k, v in inputs.items()})
    folder = str(written.paths["bie"].parent)
    arguments = ["whatif", folder, "--data", str(path)]
    shown = CliRunner().invoke(knerex, [*arguments, "--set", "logits.radix=1", "--set", "stem_relu.scale=[1.5]"])
    assert shown.exit_code == 0, shown.output
    (row,) = [line for line in shown.output.splitlines() if line.startswith("logits")]
    before, after = map(float, row.split()[1:3])
    data = {k: v[:32] for k, v in inputs.items()}
    assert before == pytest.approx(loaded.snr_db(loaded.base, data)["logits"], abs=0.05) and after < before
    for wrong in ("logits", "logits.radix", "logits.radix=a b", "radix=3"):
        refused = CliRunner().invoke(knerex, [*arguments, "--set", wrong])
        assert isinstance(refused.exception, ConfigError) and "NODE.KEY=VALUE" in str(refused.exception)


def test_learned_constants_stay_where_nothing_changes(tmp_path):
    data = {k: list(v[:32]) for k, v in embedded.calibration().items()}
    result = kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, mode=1, p_output=tmp_path, weight_rounding="learned", optimize=1
    )
    assert any(r["kept"] for r in result.report["learned"].values())
    subject = WhatIf.load(tmp_path)
    assert_same_integers(subject.planned, result.planned, apart=())
    assert_same_integers(subject.change({}).planned, result.planned, apart=())
    trial = subject.change({"head": {"radix": 2}})
    before, after = result.planned.constants["head"], trial.planned.constants["head"]
    assert not np.array_equal(before["n2"], after["n2"])
    around = {i.name for i in trial.planned.program.instructions if {"head_relu.out"} & {*i.inputs, *i.outputs}}
    assert_same_integers(trial.planned, result.planned, apart=around)
    plain = kx.make_plan(kx.decompose_onnx(embedded.model_path()), result.ranges, kx.PTQConfig())
    codes = [p.constants["head"]["weight"] for p in (plain, result.planned, trial.planned)]
    assert (codes[0] != codes[1]).any() and (codes[1] == codes[2]).all()
    inputs = {k: v[:2] for k, v in embedded.evaluation()[0].items()}
    assert oracle_mismatches(trial.planned, kx.FixedModel(trial.fixed.bie), inputs) == []


def assert_same_integers(made, expected, apart) -> None:
    for name, group in expected.constants.items():
        if name not in apart and not name.startswith("tensor:"):
            for key, value in group.items():
                np.testing.assert_array_equal(made.constants[name][key], value, f"{name}: {key}")


def test_every_option_of_a_run_is_restored(tmp_path):
    data = {k: list(v[:16]) for k, v in embedded.calibration().items()}
    result = kx.run_ptq(
        p_onnx=embedded.model_path(), np_txt=data, mode=1, p_output=tmp_path, platform="730",
        datapath_bitwidth_mode="mix balance", weight_bitwidth_mode="int16", model_in_bitwidth_mode="int16",
        datapath_range_method="mmse", percentile=0.002, outlier_factor=1.5, guard_bits=1, const_in_bitwidth_mode="int8",
        quan_config={"head*": {"max": 5.0}},
    )  # fmt: skip
    made = WhatIf.load(tmp_path).change({}).planned
    assert made.plan.platform == "730" and made.program == result.planned.program
    assert made.plan.to_json()["tensors"] == result.plan.to_json()["tensors"]
    assert_same_integers(made, result.planned, apart=())
