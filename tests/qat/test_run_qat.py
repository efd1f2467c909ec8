"""Fine-tuning as a run: files, records, resuming, options; on a model of two nodes."""

import csv
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_data, tiny_onnx

import knerex_jax as kx
from knerex_jax.config_file import config_text, read_qat_options
from knerex_jax.metrics import snr_db
from knerex_jax.qat.checkpoint import CHECKPOINT
from knerex_jax.qat.config import METRICS

TRAINING = {"steps": 12, "train_batch": 6, "evaluate_every": 3, "learning_rate": 0.01, "warmup": 2, "patience": 20}
COUNT = 32


def options(folder: Path, **more) -> dict:
    return {
        "p_onnx": tiny_onnx(folder), "np_txt": tiny_data(COUNT), "platform": "730", "weight_bitwidth_mode": "int4",
        "p_output": folder / "out", "mode": 1, **TRAINING, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("qat")


@pytest.fixture(scope="module")
def result(folder) -> kx.PTQResult:
    steps: list[tuple[int, int | None]] = []
    made = kx.run_qat(
        **options(folder), progress=lambda stage, done, total: stage == "fine-tune" and steps.append((done, total))
    )
    assert steps == [(k + 1, 12) for k in range(12)]
    return made


def test_what_is_written_is_what_was_trained(result, folder):
    unseen = tiny_data(64, seed=5)
    reference = kx.FloatModel.load(result.paths["origin"]).run(unseen)
    plain = kx.run_ptq(**{k: v for k, v in options(folder, p_output=folder / "plain").items() if k not in TRAINING})
    (before, after) = (kx.FixedModel.load(r.paths["bie"]).run(unseen) for r in (plain, result))
    (name,) = reference
    assert snr_db(reference[name], after[name]) > snr_db(reference[name], before[name]) + 0.5
    fixed = kx.FixedModel.load(result.paths["bie"])
    for node, integers in result.planned.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(fixed.bie.constants[node][key], value)
    assert {"wqbi", "nef", "bie", "metrics"} <= result.paths.keys()
    from_scaled = kx.FixedModel.load(result.paths["scaled"]).run(unseen, "fixed")
    np.testing.assert_array_equal(from_scaled[name], fixed.run(unseen, "fixed")[name])


def test_record_and_metrics_say_what_happened(result, folder):
    record = result.report["learned"]["fine_tuning"]
    assert record["kept"] and record["snr_db"]["after"] > record["snr_db"]["before"]
    assert record["samples"] == {"trained": 24, "held_out": 8} and record["steps"] == 12
    with result.paths["metrics"].open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [0, 3, 6, 9, 12] == [m["step"] for m in record["metrics"]]
    best = min(rows, key=lambda r: float(r["held_out_loss"]))
    assert int(best["step"]) == record["best_step"]
    assert float(best["held_out_snr_db"]) == pytest.approx(record["snr_db"]["after"])
    assert not (folder / "out" / CHECKPOINT).exists()
    given, trained = read_qat_options(result.paths["config"])
    assert trained["steps"] == 12 and given["weight_bitwidth_mode"] == "int4" and "steps" not in given
    kx.QATConfig(**trained)


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    import knerex_jax as kx
    from knerex_jax.qat import checkpoint
    import importlib.util
    spec = importlib.util.spec_from_file_location("test_run_qat", sys.argv[2])
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    checkpoint._SHARE = 0  # every state is written, however fast they come

    def die(stage, done, total):
        if stage == "fine-tune" and done == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    kx.run_qat(**tests.options(Path(sys.argv[3])), progress=die)
"""


def test_a_killed_run_goes_on_to_the_same_weights(result, tmp_path):
    here = Path(__file__)
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED), str(here.parents[1]), str(here), str(tmp_path)]
    died = subprocess.run(arguments, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=300, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert (tmp_path / "out" / CHECKPOINT).exists()
    steps: list[int] = []
    again = kx.run_qat(
        **options(tmp_path), progress=lambda stage, done, total: stage == "fine-tune" and steps.append(done)
    )
    assert steps == list(range(7, 13)), "the judgement at step 6 was the last that was written"
    for node, integers in result.planned.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(again.planned.constants[node][key], value, err_msg=f"{node} {key}")
    wanted, found = (r.report["learned"]["fine_tuning"]["metrics"] for r in (result, again))
    assert [{**m, "seconds": 0, "train_loss": 0} for m in found] == [
        {**m, "seconds": 0, "train_loss": 0} for m in wanted
    ]
    assert [m["train_loss"] for m in found[1:]] == [m["train_loss"] for m in wanted[1:]]


DEVICES = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import jax, numpy as np
    from qat_nets import planned_case
    from knerex_jax.emulator.run import Emulator
    from knerex_jax.qat.config import QATConfig
    from knerex_jax.qat.forward import Coded
    from knerex_jax.qat.objective import Objective
    from knerex_jax.parallel.devices import replicated, split
    from knerex_jax.qat.step import Batch, make_emulate, make_slopes, training_mesh
    from knerex_jax.qat.subject import Subject
    from knerex_jax.qat.teacher import Teacher
    from knerex_jax.targets import TARGETS

    planned, inputs = planned_case("720 int8")
    subject = Subject.of(planned, target=TARGETS["720"])
    emulator = Emulator.of(planned.program, planned.constants)
    made = []
    for devices in (1, 2):
        config = QATConfig(train_devices=devices, inner_weight=0.5)
        objective, mesh = Objective(subject, config), training_mesh(config, 8)
        given = split({t: v[:8, None] for t, v in inputs.items()}, mesh)
        assert len(next(iter(given.values())).sharding.device_set) == devices
        coded = replicated(Coded.of(subject, planned), mesh)
        batch = Batch(given, Teacher.of(objective, mesh)(given), None)
        codes = make_emulate(subject, emulator.methods, mesh)(coded, given)
        loss, slopes = make_slopes(objective, {t: 1.0 for t in objective.taps}, mesh)(coded, batch, codes)
        made.append((float(loss), jax.tree.leaves(jax.tree.map(np.asarray, slopes))))
    assert abs(made[0][0] - made[1][0]) <= 1e-5 * made[0][0], made
    for a, b in zip(made[0][1], made[1][1]):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(np.abs(a).max(), 1e-6))
"""


@pytest.mark.long
def test_devices_share_a_batch():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", textwrap.dedent(DEVICES), str(Path(__file__).parents[1])]
    found = subprocess.run(arguments, env=env, timeout=300, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_a_plan_that_training_does_not_help_stays(folder):
    made = kx.run_qat(**options(folder, p_output=folder / "worse", steps=3, learning_rate=1.0, warmup=0))
    plain = kx.run_ptq(**{k: v for k, v in options(folder, p_output=folder / "same").items() if k not in TRAINING})
    assert not made.report["learned"]["fine_tuning"]["kept"]
    assert any(n.where == "fine-tuning" and n.applied == "not applied" for n in made.plan.notes)
    for node, integers in plain.planned.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(made.planned.constants[node][key], value)


def test_labels_and_a_loss_of_the_user(folder):
    seen = []

    def pull(outputs, reference, labels):
        """Every output toward its label."""
        (made,) = outputs.values()
        seen.append((made.shape, next(iter(reference.values())).shape, labels.shape))
        return jnp.mean((made.mean(axis=(1, 2, 3)) - labels) ** 2)

    labels = np.full(COUNT, 2.0, np.float32)
    asked = options(folder, p_output=folder / "labels", loss=pull, labels=labels, distillation_weight=0.0)
    made = kx.run_qat(**{**asked, "steps": 9, "learning_rate": 0.03})
    record = made.report["learned"]["fine_tuning"]
    assert record["loss"]["after"] < record["loss"]["before"]
    assert {s[0][1:] for s in seen} == {(4, 8, 8)} and all(s[0] == s[1] and s[0][:1] == s[2] for s in seen)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"labels": np.zeros(3)}, "labels"),
        ({"labels": np.zeros(3), "loss": lambda *_: 0.0}, "labels"),
        ({"train_batch": 5, "train_devices": 400}, "train_devices"),
        ({"mode": 0}, "mode"),
        ({"learning_rat": 0.1}, "learning_rate"),
        ({"np_txt": tiny_data(4)}, "samples"),
        ({"mixup": 1.5}, "mixup"),
        ({"mixup": 0.5, "labels": np.zeros(COUNT), "loss": lambda *_: 0.0}, "label"),
        (dict.fromkeys(("train_weights", "train_biases", "train_clips", "train_scales"), False), "train"),
    ],
    ids=lambda v: "" if isinstance(v, str) else next(iter(v)),
)
def test_what_cannot_be_is_told(folder, wrong, word):
    with pytest.raises(kx.ConfigError, match=word):
        kx.run_qat(**options(folder, p_output=folder / "wrong") | wrong)


def test_formats_of_the_user_stay(folder):
    asked = {"x": {"radix": 4, "scale": 1.25}}
    made = kx.run_qat(**options(folder, p_output=folder / "held", quan_config=asked, steps=3))
    assert made.report["learned"]["fine_tuning"]["kept"]
    f = made.plan.formats["x"]
    assert f.radix.tolist() == [4] and f.scale.tolist() == [1.25]


def test_the_command_line_takes_a_learning_rate_as_a_number():
    from knerex_jax.cli.qat import qat

    (option,) = (p for p in qat.params if p.name == "learning_rate")
    assert option.type.convert("3e-5", option, None) == 3e-5


def test_learning_rate_suits_the_weights_unless_it_is_asked_for():
    narrow, wide = (kx.QATConfig().for_weights(bits).learning_rate for bits in (4, 8))
    assert 0 < wide < narrow / 8
    assert kx.QATConfig(learning_rate=0.01).for_weights(8).learning_rate == 0.01


def test_groups_that_are_not_trained_stay(result):
    from knerex_jax.qat.optimizer import make_optimizer
    from knerex_jax.qat.subject import Subject

    subject = Subject.of(result.planned, target=kx.TARGETS["730"])
    config = replace(kx.QATConfig(warmup=0, learning_rate=0.001), train_weights=False, train_scales=False)
    optimizer = make_optimizer(config, subject.units)
    made, _ = optimizer.update(subject.start, subject.units, optimizer.init(subject.start))
    for group, stays in (("weights", True), ("biases", False), ("clips", False), ("scales", True)):
        pairs = zip(jax.tree.leaves(getattr(made, group)), jax.tree.leaves(getattr(subject.start, group)), strict=True)
        assert all((a == b).all() if stays else (a != b).all() for a, b in pairs), group
    assert METRICS == "qat.csv"


def test_a_loss_that_is_no_number_is_an_error(folder):
    with pytest.raises(kx.KnerexError, match="the loss of the given plan is nan"):
        kx.run_qat(**options(folder, p_output=folder / "nan"), loss=lambda ours, theirs, labels: jnp.float32(np.nan))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda ours, theirs, labels: next(iter(ours.values())), "not a number"),
        (lambda ours, theirs, labels: ours["nothing"], "KeyError: 'nothing'"),
    ],
)
def test_losses_that_fail_say_where(folder, loss, text):
    with pytest.raises(kx.KnerexError, match=text):
        kx.run_qat(**options(folder, p_output=folder / "failing"), loss=loss)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"distillation_weight": 0.0}, "nothing is taught"),
        ({"distillation_weight": 0.0, "loss": abs, "loss_weight": 0.0}, "nothing is taught"),
        ({"labels": ["a", "b"], "loss": abs}, "labels have to be numbers"),
        ({"labels": [[1, 2], [3]], "loss": abs}, "labels have to be numbers"),
        ({"train_devices": 2, "loss": abs}, "sees the whole batch"),
    ],
)
def test_parts_that_do_not_go_together(given, text):
    with pytest.raises(kx.ConfigError, match=text):
        kx.QATConfig(**given)


def test_the_run_file_names_what_it_cannot_hold(tmp_path):
    qat = kx.QATConfig(loss=abs, labels=np.zeros(3))
    text = config_text(kx.PTQConfig(), tmp_path, qat=qat.to_json())
    assert "# loss of the fine-tuning was given as a Python builtin_function_or_method" in text
    assert "# labels of the fine-tuning was given as a Python ndarray" in text
