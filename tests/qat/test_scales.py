"""Learned scales: what the constraints of a plan allow, and radices that follow."""

import numpy as np
import pytest
from planning import fixed_model
from qat_nets import planned_case

from knerex_jax.metrics import snr_db
from knerex_jax.qat.scales import REACH, ScaleClasses
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.targets import TARGETS


def classes_of(planned: Planned, *held: str) -> ScaleClasses:
    target = TARGETS[planned.plan.platform]
    return ScaleClasses.of(planned, held, per_channel_radix=target.per_channel_radix)


def random_moves(classes: ScaleClasses, span: float = 1.5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-span, span, len(classes.free)).astype(np.float32)


@pytest.mark.parametrize("case", ["720 int8", "720 int16", "520 int8"])
def test_moved_scales_meet_the_constraints(case):
    planned, _ = planned_case(case)
    classes = classes_of(planned)
    made = classes.planned(random_moves(classes))
    scale_of: dict[int, float] = {}
    for t, f in made.items():
        for c, s in zip(classes.classes[t].tolist(), f.scale.tolist(), strict=True):
            assert scale_of.setdefault(c, s) == s, f"{t}: members of one class share their scale"
        before = planned.plan.formats[t]
        assert (f.bits, f.axis, f.radix.dtype, f.scale.dtype) == (before.bits, before.axis, np.int32, np.float32)
    assert planned.structure.products
    for y, a, b in planned.structure.products:
        expected = np.float32(made[a].scale.astype(np.float64) * made[b].scale.astype(np.float64))
        np.testing.assert_array_equal(np.broadcast_to(expected, made[y].scale.shape), made[y].scale)
    if case == "520 int8":
        assert all((f.radix == planned.plan.formats[t].radix).all() for t, f in made.items())
        assert all(len(set(f.radix.tolist())) == 1 for f in made.values())
    else:
        own = [f for t, f in made.items() if t in planned.structure.own]
        assert all(((f.scale >= 1) & (f.scale < 2)).all() for f in own)
        assert any((f.radix != planned.plan.formats[t].radix).any() for t, f in made.items())


@pytest.mark.parametrize("case", ["720 int8", "520 int8"])
def test_factors_move_as_asked(case):
    planned, _ = planned_case(case)
    classes = classes_of(planned)
    moves = random_moves(classes)
    moved, made = classes.moved(moves), classes.planned(moves)
    for t, f in made.items():
        expected = planned.plan.formats[t].factor * np.exp2(moved[classes.classes[t]].astype(np.float64))
        np.testing.assert_allclose(f.factor, expected, rtol=1e-6)


@pytest.mark.parametrize("case", ["720 int8", "520 int8"])
def test_slopes_are_those_of_the_moves(case):
    """`moved` is linear within its reach: the slope of a weighted sum is exact by differences."""
    planned, _ = planned_case(case)
    classes = classes_of(planned)
    moves = random_moves(classes)
    moves[np.flatnonzero(classes.free)[0]] = REACH + 1
    rng = np.random.default_rng(1)
    given = {t: rng.normal(size=len(c)).astype(np.float32) for t, c in classes.classes.items()}

    def total(log2: np.ndarray) -> float:
        moved = classes.moved(log2).astype(np.float64)
        return sum(float(slope @ moved[classes.classes[t]]) for t, slope in given.items())

    wanted = [total(moves + 0.25 * unit) - total(moves - 0.25 * unit) for unit in np.eye(len(moves), dtype=np.float32)]
    np.testing.assert_allclose(classes.slopes(moves, given), 2 * np.array(wanted), rtol=1e-4, atol=1e-4)


def test_a_plan_of_moved_scales_computes_the_same_function():
    planned, inputs = planned_case("720 int16")
    classes = classes_of(planned)
    made = classes.planned(random_moves(classes, 0.5) - 0.5)  # wider ranges: nothing saturates that did not
    plan = type(planned.plan)(**{**vars(planned.plan), "formats": made})
    again = refine_plan(type(planned)(**{**vars(planned), "plan": plan}), planned.refined, TARGETS["720"])
    (before,), (after,) = (fixed_model(p).run(inputs).values() for p in (planned, again))
    assert snr_db(before, after) > 35


def test_held_tensors_stay_and_so_does_what_shares_their_scale():
    planned, _ = planned_case("720 int8")
    y, a, b = planned.structure.products[0]
    classes = classes_of(planned, y)
    made = classes.planned(random_moves(classes))
    for t in (y, a, b):
        np.testing.assert_array_equal(made[t].factor, planned.plan.formats[t].factor)
    assert classes.free.any()


def test_moves_are_limited():
    planned, _ = planned_case("720 int8")
    classes = classes_of(planned)
    made = classes.planned(np.full(len(classes.free), 50, np.float32))
    products = {t for t, _, _ in planned.structure.products}
    for t, f in made.items():
        if t not in products and not set(classes.classes[t]) & {c for y, _, _ in classes.products for c in y.tolist()}:
            np.testing.assert_allclose(f.factor, planned.plan.formats[t].factor * 2**REACH, rtol=1e-6)
