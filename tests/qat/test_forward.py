"""The training forward against the emulator, before and after training; where gradients go."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planning import fixed_model
from qat_nets import planned_case

from knerex_jax.emulator.run import Emulator
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.forward import Coded, lower_codes, lower_training
from knerex_jax.qat.loop import fine_tune
from knerex_jax.qat.subject import Subject, Trainable
from knerex_jax.quantize.planner import Planned
from knerex_jax.targets import TARGETS


def forward_values(subject: Subject, trained: Trainable, inputs: dict[str, np.ndarray]) -> tuple[Planned, dict]:
    """The plan that trained values make, and every formatted tensor of the training forward, [N, *shape]."""
    planned = subject.planned(trained)
    emulator = Emulator.of(planned.program, planned.constants)
    taps = tuple(planned.plan.formats)
    emulate, forward = jax.jit(lower_codes(subject, emulator.methods)), jax.jit(lower_training(subject, taps))
    batch, coded = {t: v[:, None] for t, v in inputs.items()}, Coded.of(subject, planned)
    return planned, forward(trained, coded, batch, emulate(coded.integers, batch))


def moved(start: Trainable, units: Trainable, share: float = 0.2) -> Trainable:
    """Far from the start, as training never goes in one step."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v, u: np.float32(v + share * u * rng.normal(size=v.shape)), start, units)


@pytest.mark.parametrize("case", ["730 w4a8", "720 int16", "520 int8"])
def test_forward_is_the_emulator(case):
    planned, inputs = planned_case(case)
    subject = Subject.of(planned, target=TARGETS[planned.plan.platform])
    for trained in (subject.start, moved(subject.start, subject.units)):
        made, values = forward_values(subject, trained, inputs)
        fixed = fixed_model(made).run(inputs, taps=tuple(made.plan.formats))
        for t, v in values.items():
            np.testing.assert_allclose(np.asarray(v).reshape(fixed[t].shape), fixed[t], rtol=1e-6, atol=0, err_msg=t)
    assert any((made.constants[n.name]["weight"] != planned.constants[n.name]["weight"]).any() for n in subject.nodes)


def test_forward_is_the_emulator_on_held_out_data_after_training():
    planned, inputs = planned_case("730 w4a8")
    subject = Subject.of(planned, target=TARGETS["730"])
    unseen = {t: np.random.default_rng(7).normal(size=v.shape).astype(np.float32) for t, v in inputs.items()}
    tuned = fine_tune(
        planned, inputs, QATConfig(steps=12, evaluate_every=2, train_batch=18, learning_rate=0.003), subject
    )
    assert tuned.kept and tuned.after.noise < tuned.before.noise
    again = Subject.of(tuned.planned, target=TARGETS["730"])
    start = Trainable(**{f.name: getattr(again.start, f.name) for f in fields(Trainable)} | {"clips": _open(again)})
    made, values = forward_values(again, start, unseen)
    for name, integers in tuned.planned.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(made.constants[name][key], value, err_msg=f"{name} {key}")
    fixed = fixed_model(tuned.planned).run(unseen)
    for t, expected in fixed.items():
        np.testing.assert_allclose(np.asarray(values[t]).reshape(expected.shape), expected, rtol=1e-6, atol=0)


def _open(subject: Subject) -> dict[str, np.ndarray]:
    """Nothing clipped."""
    return {name: np.zeros_like(clip) for name, clip in subject.start.clips.items()}


def test_every_group_gets_gradients():
    planned, inputs = planned_case("730 w4a8")
    subject = Subject.of(planned, target=TARGETS[planned.plan.platform])
    emulator = Emulator.of(planned.program, planned.constants, subject.planned(subject.start).constants)
    (out,) = planned.model.graph.outputs
    emulate, forward = jax.jit(lower_codes(subject, emulator.methods)), lower_training(subject, (out,))
    batch = {t: v[:, None] for t, v in inputs.items()}
    coded = jax.device_put(Coded.of(subject, subject.planned(subject.start)))
    codes = emulate(coded.integers, batch)
    slopes = jax.jit(jax.grad(lambda t: jnp.sum(forward(t, coded, batch, codes)[out] ** 2)))(subject.start)
    assert all(np.isfinite(s).all() for s in jax.tree.leaves(slopes))
    for group in ("weights", "biases"):
        assert all(np.asarray(s).any() for s in getattr(slopes, group).values()), group
    assert np.asarray(slopes.scales)[subject.classes.free].any()
    assert not np.asarray(slopes.scales)[~subject.classes.free].any()
    assert set(slopes.weights) == set(slopes.clips) == {n.name for n in subject.nodes}


def test_start_is_the_plan_but_for_clipping():
    planned, _ = planned_case("720 int8")
    subject = Subject.of(planned, target=TARGETS["720"])
    made = subject.planned(subject.start)
    for name, integers in planned.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(made.constants[name][key], value, err_msg=f"{name} {key}")
