"""The training forward against the emulator, before and after training; where gradients go."""

from dataclasses import fields, replace

import jax
import numpy as np
import pytest
from planning import fixed_model
from qat_nets import COUNT, planned_case

from knerex_jax.emulator.run import Emulator
from knerex_jax.qat.chain import slopes_of_trained
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.forward import Coded, lower_codes, lower_training
from knerex_jax.qat.loop import fine_tune
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.step import Batch, make_emulate, make_slopes, training_mesh
from knerex_jax.qat.straight import limits
from knerex_jax.qat.subject import Subject, Trainable
from knerex_jax.qat.teacher import Teacher
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.params import Weights
from knerex_jax.targets import TARGETS


def forward_values(subject: Subject, trained: Trainable, inputs: dict[str, np.ndarray]) -> tuple[Planned, dict]:
    """The plan that trained values make, and every formatted tensor of the training forward, [N, *shape]."""
    planned = subject.planned(trained)
    emulator = Emulator.of(planned.program, planned.constants)
    taps = tuple(planned.plan.formats)
    emulate, forward = jax.jit(lower_codes(subject, emulator.methods)), jax.jit(lower_training(subject, taps))
    batch, coded = {t: v[:, None] for t, v in inputs.items()}, Coded.of(subject, planned)
    return planned, forward(coded.reals, coded.inverse, batch, emulate(coded.integers, batch))


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
    made = subject.planned(subject.start)
    emulator = Emulator.of(made.program, made.constants)
    objective, mesh = Objective(subject, QATConfig()), training_mesh(QATConfig(), COUNT)
    given, coded = {t: v[:, None] for t, v in inputs.items()}, Coded.of(subject, made)
    batch = Batch(given, Teacher.of(objective, mesh)(given), None)
    codes = make_emulate(subject, emulator.methods, mesh)(coded, given)
    loss, to_reals = make_slopes(objective, dict.fromkeys(objective.taps, 1.0), mesh)(coded, batch, codes)
    assert loss > 0
    slopes = slopes_of_trained(subject, subject.start, made, coded.reals, to_reals)
    assert jax.tree.map(np.shape, slopes) == jax.tree.map(np.shape, subject.start)
    assert all(np.isfinite(s).all() for s in jax.tree.leaves(slopes))
    for group in ("weights", "biases"):
        assert all(np.asarray(s).any() for s in getattr(slopes, group).values()), group
    assert slopes.scales[subject.classes.free].any()
    assert not slopes.scales[~subject.classes.free].any()


@pytest.mark.parametrize("case", ["730 w4a8", "520 int8"])
def test_chain_of_gradients(case):
    """A linear function of a plan's numbers, by differences of these numbers with constant rounding of the weights."""
    planned, _ = planned_case(case)
    subject = Subject.of(planned, target=TARGETS[planned.plan.platform])
    start = moved(subject.start, subject.units, 0.01)
    made = subject.planned(start)
    reals = Coded.of(subject, made).reals
    rng = np.random.default_rng(3)
    given = jax.tree.map(lambda v: rng.normal(size=np.shape(v)).astype(np.float32), reals)
    forms = {n.name: Weights(rng.normal(size=n.form.weight.shape).astype(np.float32), given.nodes[n.name].bias)
             for n in subject.nodes}  # fmt: skip
    given = replace(given, nodes={**given.nodes, **forms})
    slopes = slopes_of_trained(subject, start, made, reals, given)
    for name, slope in slopes.biases.items():
        np.testing.assert_array_equal(slope, given.nodes[name].bias)
    factors = {t: np.asarray(f, np.float64) for t, f in reals.factors.items()}
    at = subject.classes.moved(start.scales).astype(np.float64)
    rounding = {}

    def total(scales: np.ndarray) -> float:
        """Of the factors, and of weights whose codes keep their rounding."""
        change = subject.classes.moved(scales).astype(np.float64) - at
        sum_ = 0.0
        now = {t: f * np.exp2(change[subject.classes.classes[t]]).reshape(f.shape) for t, f in factors.items()}
        sum_ += sum(float((given.factors[t] * f).sum()) for t, f in now.items())
        for n in subject.nodes:
            bound = limits(start.clips[n.name], n.profile)
            held, factor = np.clip(start.weights[n.name], -bound, bound), n.feeding(now[n.x])
            rest = tuple(range(1, held.ndim))
            step = np.abs(held / factor).max(axis=rest, keepdims=True) / n.limit * factor
            exact = held / step
            off = rounding.setdefault(n.name, np.rint(exact) - exact)
            sum_ += float((given.nodes[n.name].weight * (exact + off) * step).sum())
        return sum_

    total(start.scales)
    units = np.eye(len(start.scales), dtype=np.float32) * np.float32(2.0**-7)
    wanted = np.array([total(start.scales + u) - total(start.scales - u) for u in units]) * 2**6
    np.testing.assert_allclose(slopes.scales, wanted, rtol=2e-2, atol=2e-2 * np.abs(wanted).max())


def test_start_is_the_plan_but_for_clipping():
    planned, _ = planned_case("720 int8")
    subject = Subject.of(planned, target=TARGETS["720"])
    made = subject.planned(subject.start)
    for name, integers in planned.constants.items():
        for key, value in integers.items():
            np.testing.assert_array_equal(made.constants[name][key], value, err_msg=f"{name} {key}")
