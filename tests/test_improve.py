"""Steps that learn are kept by what they do to the outputs of the model on held-out samples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import Net, samples
from planning import plan

from knerex_jax import flow, improve
from knerex_jax.calibrate.ranges import Ranges
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.refine.bias_nodes import with_biases
from knerex_jax.targets import TARGETS


@dataclass(frozen=True)
class _Record:
    node: str


@dataclass(frozen=True)
class _Outcome:
    planned: Planned
    records: tuple[_Record, ...] = (_Record("conv0"),)


@pytest.fixture(scope="module")
def planned_net() -> tuple[Planned, dict[str, np.ndarray]]:
    net = Net({"x": (1, 2, 4, 4)})
    model = net.model(net.conv("x", 3, kernel=3))
    data = samples(model, 32)
    return plan(model, data, "720"), data


def refined(planned: Planned, data: dict[str, np.ndarray], **options: object) -> improve.Refined:
    """What the steps that options ask for make of one plan."""
    config = PTQConfig(platform="720", **options)
    return improve.refine_best(planned.model, [(_candidate("one", config), planned)], data, config)


def _candidate(label: str, config: PTQConfig) -> improve.Candidate:
    return improve.Candidate(label, config, Ranges({}, 0, 1.0, 1.0))


def _biased(planned: Planned, by: float) -> Planned:
    """The plan whose only node has another bias."""
    (node,) = planned.model.graph.nodes
    bias = planned.refined.constants[node.inputs[2]] + np.float32(by)
    return refine_plan(planned, with_biases(planned.refined, {node.name: bias}), TARGETS["720"])


def test_a_step_that_makes_the_outputs_worse_is_not_kept(planned_net, monkeypatch):
    planned, data = planned_net
    monkeypatch.setattr(improve, "adjust_bias", lambda planned, *_, **__: _Outcome(_biased(planned, 1.0)))
    result = refined(planned, data, optimize=3)
    made, found = result.planned, result.records["bias_adjustment"]
    assert not found["kept"] and found["snr_db"]["after"] < found["snr_db"]["before"]
    assert made.refined is planned.refined and made.constants is planned.constants
    (note,) = [n for n in made.plan.notes if n.where == "bias_adjustment"]
    assert note.requested == "sequential bias adjustment" and "held-out" in note.why


def test_a_step_that_makes_the_outputs_better_is_kept(planned_net, monkeypatch):
    planned, data = planned_net
    wrong = replace(_biased(planned, 1.0), model=planned.model)
    monkeypatch.setattr(improve, "learn_rounding", lambda *_, **__: _Outcome(planned))
    result = refined(wrong, data, weight_rounding="learned")
    made, found = result.planned, result.records["weight_rounding"]
    assert found["kept"] and found["snr_db"]["after"] > found["snr_db"]["before"] + 10
    assert made is planned and found["nodes"] == [{"node": "conv0"}]


def test_too_few_samples_judge_nothing(planned_net, monkeypatch):
    planned, data = planned_net
    monkeypatch.setattr(improve, "adjust_bias", lambda planned, *_, **__: _Outcome(_biased(planned, 1.0)))
    few = {t: v[:7] for t, v in data.items()}
    result = refined(planned, few, optimize=1)
    found = result.records["bias_adjustment"]
    assert found["kept"] and found["snr_db"] is None and result.snr_db == {}
    assert result.planned.refined is not planned.refined


def test_the_rule_that_is_best_after_learning_is_taken(planned_net, monkeypatch):
    planned, data = planned_net
    config = PTQConfig(platform="720", weight_rounding="learned")
    wrong = replace(_biased(planned, 1.0), model=planned.model)
    worse = replace(_biased(planned, 0.5), model=planned.model)
    outcomes = {id(planned): worse, id(wrong): planned}
    monkeypatch.setattr(improve, "learn_rounding", lambda p, *_, **__: _Outcome(outcomes[id(p)]))
    found = improve.refine_best(
        planned.model, [(_candidate("a", config), planned), (_candidate("b", config), wrong)], data, config
    )
    assert found.candidate.label == "a", "the worse codes of a are undone, and then both are equal"
    outcomes = {id(worse): worse, id(wrong): planned}
    found = improve.refine_best(
        planned.model, [(_candidate("a", config), worse), (_candidate("b", config), wrong)], data, config
    )
    assert found.candidate.label == "b" and found.planned is planned
    assert found.snr_db["b"] > found.snr_db["a"] + 10


def test_plans_with_and_without_a_rescale_are_judged_alike():
    """A Sigmoid at an output is judged in front of it; a rescale there is a tensor that other plans lack."""
    net = Net({"x": (1, 3, 16, 16)})
    weight = net.rng.normal(size=(4, 3, 3, 3)) * np.array([1, 1, 0.02, 0.02])[:, None, None, None]
    attrs = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1,) * 4, "group": 1}
    scores = net.add("Conv", "x", net.constant(weight), net.constant(np.zeros(4)), **attrs)
    model = net.model(net.add("Sigmoid", scores), net.conv(scores, 3))
    data = samples(model, 16)
    config = PTQConfig(platform="720", optimize=1)
    ranges = flow.analyze(model, {t: list(a) for t, a in data.items()}, config)
    plans = {g: flow.make_plan(model, ranges, replace(config, guard_bits=g)) for g in (0, 3)}
    assert plans[3].slots and not plans[0].slots
    for order in ((3, 0), (0, 3)):
        found = improve.refine_best(model, [(_candidate(str(g), config), plans[g]) for g in order], data, config)
        assert set(found.snr_db) == {"0", "3"}
