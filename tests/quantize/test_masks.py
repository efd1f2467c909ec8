"""Additive masks before a softmax: what lies far below every score must not widen the range of the scores."""

import numpy as np
import pytest
from helpers import Net, samples
from planning import EVERY_CHANNEL, WIDTHS, exact_ranges, fixed_model, float_values, plan
from real_models import oracle_mismatches

from knerex_jax.graph.ir import Model
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.bitwidth import assign_widths
from knerex_jax.quantize.solve import RangePolicy, channel_absmax
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

BELOW = 11.0
FAR = -1e9
SCORES = (1, 2, 6, 6)


def softmax(net: Net, x: str) -> str:
    """Softmax over the last axis, spelled out."""
    e = net.add("Exp", net.add("Sub", x, net.add("ReduceMax", x, axes=(3,))))
    return net.add("Mul", e, net.add("Reciprocal", net.add("ReduceSum", e, axes=(3,))))


def masked(
    *factors: float, mask_first: bool = False, read_again: bool = False, rows: int = 1
) -> tuple[Model, list[str]]:
    """A softmax for every factor of the scores, all under one mask of so many rows; and the masked sums."""
    net = Net({"x": SCORES, "m": (1, 1, rows, 6)})
    sums, outputs = [], []
    for factor in factors:
        scores = net.batch_norm("x")
        for t, value in zip(net.nodes[-1].inputs[1:3], (factor, 0.0), strict=True):
            net.constants[t][:] = value
        sums.append(net.add("Add", *(("m", scores) if mask_first else (scores, "m"))))
        outputs.append(softmax(net, sums[-1]))
    if read_again:
        outputs.append(net.add("Tanh", sums[0]))
    return net.model(*outputs), sums


def inputs_of(model: Model, low: float = FAR, high: float = 0.0, seed: int = 1) -> dict[str, np.ndarray]:
    """Scores within +-1, one of them exactly 1, and a mask of two values that shows at least one place."""
    made = samples(model, 8, seed)
    made["x"] = np.clip(made["x"], -1, 1)
    made["x"][:, 0, 0, 0] = 1
    hidden = (made["m"] > 0.5) & (np.arange(6) > 0)
    made["m"] = np.where(hidden, low, high).astype(np.float32)
    return made


def hiding_a_row(model: Model, seed: int = 1) -> dict[str, np.ndarray]:
    """As `inputs_of`, and the mask hides every key of one query."""
    made = inputs_of(model, seed=seed)
    made["m"][:, :, 2] = FAR
    return made


def ranges_of(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest range of every tensor that its format has to cover, without headroom."""
    target = TARGETS["720"]
    structure = analyse(model, target, REGISTRY)
    widths = assign_widths(model, structure, WIDTHS["int8"], target, REGISTRY)
    policy = RangePolicy(evidence=1, headroom_bits={8: 0, 15: 0})
    absmax = channel_absmax(model, structure, exact_ranges(model, inputs, "720"), widths, policy)
    return {t: float(a.max()) for t, a in absmax.items()}


@pytest.mark.parametrize("mask_first", [False, True])
def test_mask_and_sum_reach_just_below_the_scores(mask_first):
    model, (total,) = masked(3.0, mask_first=mask_first)
    found = ranges_of(model, inputs_of(model))
    assert found[total] == pytest.approx(3 + BELOW) and found["m"] == pytest.approx(2 * 3 + BELOW)


def test_mask_of_several_layers_reaches_below_the_largest_scores():
    model, sums = masked(2.0, 5.0, 0.5)
    found = ranges_of(model, inputs_of(model))
    assert [found[t] for t in sums] == pytest.approx([2 + BELOW, 5 + BELOW, 0.5 + BELOW])
    assert found["m"] == pytest.approx(2 * 5 + BELOW)


def test_narrow_mask_keeps_its_range():
    """A bias that is never positive but near the scores is not widened to where a mask would lie."""
    model, (total,) = masked(3.0)
    found = ranges_of(model, inputs_of(model, low=-2.0))
    assert found["m"] == pytest.approx(2) and found[total] <= 5


def test_of_two_operands_that_are_never_positive_the_one_that_reaches_down_is_the_mask():
    """Scores that stay below the highest entry of the mask are no mask."""
    model, (total,) = masked(3.0)
    inputs = inputs_of(model)
    inputs["x"] = -np.abs(inputs["x"]) / 2 - 0.5
    found = ranges_of(model, inputs)
    reach = 3 * np.abs(inputs["x"]).max()
    assert found[total] == pytest.approx(reach + BELOW) and found["m"] == pytest.approx(2 * reach + BELOW)


def test_maximum_of_a_row_that_is_hidden_reaches_just_below_the_scores():
    model, (total,) = masked(3.0, rows=6)
    found = ranges_of(model, hiding_a_row(model))
    (peak,) = [n.outputs[0] for n in model.graph.readers[total] if n.op_type == "ReduceMax"]
    assert found[total] == pytest.approx(3 + BELOW) and found[peak] == pytest.approx(3 + BELOW)


@pytest.mark.parametrize(("platform", "width", "least_db"), [("520", "int8", 20), ("730", "int16", 50)])
def test_row_that_is_hidden_costs_the_others_nothing(platform, width, least_db):
    """The shares of a query that sees no key mean nothing, in float or in integers; those of the others do."""
    model, _ = masked(2.0, rows=6)
    planned = plan(model, hiding_a_row(model), platform, width, EVERY_CHANNEL)
    inputs, (y,) = hiding_a_row(model, seed=4), model.graph.outputs
    fixed = fixed_model(planned)
    assert oracle_mismatches(planned, fixed, inputs) == []
    reference, made = float_values(model, inputs, (y,))[y], fixed.run(inputs)[y]
    seen = np.arange(6) != 2
    assert snr_db(reference[..., seen, :], made[..., seen, :]) > least_db


def test_positive_bias_is_no_mask():
    model, (total,) = masked(3.0)
    found = ranges_of(model, inputs_of(model, low=-100.0, high=0.5))
    assert found["m"] == pytest.approx(100) and found[total] > 90


def test_sum_that_something_else_reads_keeps_its_range():
    model, (total,) = masked(3.0, read_again=True)
    found = ranges_of(model, inputs_of(model, low=-100.0))
    assert found["m"] == pytest.approx(100) and found[total] > 90


@pytest.mark.parametrize(
    ("platform", "width", "least_db"), [("520", "int8", 22), ("720", "int8", 22), ("730", "int16", 55)]
)
def test_masked_softmax_equals_the_oracle_and_the_float_model(platform, width, least_db):
    model, _ = masked(2.0, 5.0)
    planned = plan(model, inputs_of(model), platform, width, EVERY_CHANNEL)
    fixed = fixed_model(planned)
    inputs = inputs_of(model, seed=4)
    assert oracle_mismatches(planned, fixed, inputs) == []
    reference, outputs = float_values(model, inputs, model.graph.outputs), fixed.run(inputs)
    hidden = np.broadcast_to(inputs["m"] < 0, reference[model.graph.outputs[0]].shape)
    for t in model.graph.outputs:
        assert snr_db(reference[t], outputs[t]) > least_db
        assert not outputs[t][hidden].any()
