"""Steps that learn are kept by what they do to the outputs of the model on held-out samples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import Net, samples
from planning import plan

from knerex_jax import improve
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
    return improve.refine_best([(_candidate("one", config), planned)], data, config)


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
    found = improve.refine_best([(_candidate("a", config), planned), (_candidate("b", config), wrong)], data, config)
    assert found.candidate.label == "a", "the worse codes of a are undone, and then both are equal"
    outcomes = {id(worse): worse, id(wrong): planned}
    found = improve.refine_best([(_candidate("a", config), worse), (_candidate("b", config), wrong)], data, config)
    assert found.candidate.label == "b" and found.planned is planned
    assert found.snr_db["b"] > found.snr_db["a"] + 10
