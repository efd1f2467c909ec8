"""Groups of samples within a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qat_nets import planned_case

from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.step import in_groups
from knerex_jax.qat.subject import Subject
from knerex_jax.targets import TARGETS


@pytest.mark.parametrize(("at_once", "sizes"), [(None, {12}), (64, {4}), (8, {4}), (2, {2}), (1, {1})])
def test_mean_over_groups_is_that_of_the_batch(at_once, sizes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)).astype(np.float32), rng.normal(size=12).astype(np.float32)
    w = rng.normal(size=5).astype(np.float32)
    seen = set()

    def loss(w: jax.Array, batch: dict, y: jax.Array) -> jax.Array:
        seen.add(len(y))
        return jnp.mean((batch["x"] @ w - y) ** 2)

    @jax.jit
    def ours(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return in_groups(lambda b, y: jax.value_and_grad(loss)(w, b, y), ({"x": x, "labels": None}, y), at_once)

    value, slope = ours(x, y)
    off = x.astype(np.float64) @ w - y
    np.testing.assert_allclose(value, np.mean(off**2), rtol=1e-5)
    np.testing.assert_allclose(slope, 2 * off @ x / 12, rtol=1e-4)
    assert seen == sizes


def test_loss_of_a_user_sees_the_whole_batch():
    planned, _ = planned_case("720 int8")
    subject = Subject.of(planned, target=TARGETS["720"])
    assert Objective(subject, QATConfig()).by_sample
    assert not Objective(subject, QATConfig(loss=lambda ours, theirs, labels: jnp.zeros(()))).by_sample
