"""What training lowers: outputs behind a sigmoid outside the model count where it is not flat."""

import jax.numpy as jnp
import pytest
from qat_nets import planned_case

from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.subject import Subject
from knerex_jax.targets import TARGETS


@pytest.fixture(scope="module")
def subject() -> Subject:
    planned, _ = planned_case("720 int8")
    return Subject.of(planned, target=TARGETS["720"])


def test_values_where_an_outside_sigmoid_is_flat_count_as_its_end(subject):
    outputs = frozenset(subject.base.model.graph.outputs)
    plain, flat = Objective(subject, QATConfig()), Objective(subject, QATConfig(), outputs)
    assert plain.judged

    def noise(objective, made, wanted):
        one = dict.fromkeys(objective.judged, 1.0)
        values = ({t: jnp.full((2, 4), v) for t in objective.judged} for v in (made, wanted))
        return float(objective(*values, one, None))

    assert noise(plain, 9.0, 20.0) == 4 * 11.0**2
    assert noise(flat, 9.0, 20.0) == 0
    assert noise(flat, 9.0, 7.0) == 4
    assert noise(flat, -9.0, 7.0) == 4 * 15.0**2
