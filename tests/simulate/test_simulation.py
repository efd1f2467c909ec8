"""The simulated plan against the float model, the contract's formulas and the emulator."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import samples
from mixed_net import mixed_net
from planning import fixed_model, float_values, plan

from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.lower import lower_simulated
from knerex_jax.simulate.params import Gates, Quantizer
from knerex_jax.simulate.quantizer import quantize

COUNT = 8


Run = Callable[..., dict[str, np.ndarray]]


def simulation(planned: Planned, inputs: Mapping[str, np.ndarray]) -> Run:
    """(gates, held) -> every formatted tensor, [N, ...] in place of the batch axis; compiled once."""
    fn, params = lower_simulated(planned, taps=planned.plan.formats)
    compiled = jax.jit(jax.vmap(fn, (None, None, 0, 0)))
    batch = {t: v[:, None] for t, v in inputs.items()}
    nothing = {t: np.zeros((COUNT, *planned.model.graph.shape(t)), np.float32) for t in planned.plan.formats}

    def run(gates: Gates, held: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        if held is None:
            gates, held = replace(gates, rest=Gates.filled(planned, 0).rest), {t: v[:, 0] for t, v in nothing.items()}
        values = compiled(params, gates, batch, {t: v[:, None] for t, v in held.items()})
        return {t: np.asarray(v)[:, 0] for t, v in values.items()}

    return run


@pytest.fixture(scope="module", params=[("720", "int8"), ("720", "int16"), ("520", "int8")], ids=" ".join)
def case(request) -> tuple[Planned, dict[str, np.ndarray], Run]:
    model = mixed_net(10, 8, 1)
    inputs = samples(model, COUNT)
    planned = plan(model, inputs, *request.param)
    return planned, inputs, simulation(planned, inputs)


def steps_of(planned: Planned, tensor: str) -> np.ndarray:
    """One code of a tensor in real units, broadcastable against [N, ...]."""
    f = planned.plan.formats[tensor]
    shape = [-1 if len(f.radix) > 1 and i == f.axis else 1 for i in range(len(planned.model.graph.shape(tensor)))]
    return 1 / f.factor.reshape(shape)


def test_all_switches_off_is_the_float_model(case):
    planned, inputs, run = case
    values = run(Gates.filled(planned, 0))
    reference = float_values(planned.model, inputs, tuple(planned.plan.formats))
    for t, v in values.items():
        np.testing.assert_allclose(v, reference[t], rtol=0, atol=1e-5 * np.abs(reference[t]).max())


def test_all_switches_on_agree_with_the_emulator(case):
    planned, inputs, run = case
    fixed = fixed_model(planned).run(inputs)
    values = run(Gates.filled(planned, 1))
    for t in planned.model.graph.outputs:
        apart = np.abs(values[t] - fixed[t]) / steps_of(planned, t)
        limit = 4 if planned.plan.formats[t].bits == 8 else 24
        assert apart.max() <= limit, f"{t}: {apart.max()} output steps apart"


def test_no_switches_are_all_switches_on(case):
    planned, inputs, run = case
    fn, params = lower_simulated(planned)
    first = {t: v[:1] for t, v in inputs.items()}
    values, switched = jax.jit(fn)(params, None, first), run(Gates.filled(planned, 1))
    for t in planned.model.graph.outputs:
        np.testing.assert_allclose(values[t][0], switched[t][0], rtol=0, atol=1.01 * steps_of(planned, t).max())


def test_values_are_codes(case):
    planned, inputs, run = case
    for t, v in run(Gates.filled(planned, 1)).items():
        f = planned.plan.formats[t]
        codes = v / steps_of(planned, t)
        np.testing.assert_allclose(codes, np.rint(codes), rtol=0, atol=2e-3)
        assert codes.min() >= -(2 ** (f.bits - 1)) - 2e-3 and codes.max() <= 2 ** (f.bits - 1) - 1 + 2e-3


def test_dequantized_weights_are_within_half_a_step(case):
    planned, *_ = case
    _, params = lower_simulated(planned)
    errors = {}
    for name, coded in params.nodes.items():
        node = planned.model.graph.node[name]
        rule = op_of(node, REGISTRY).mac
        assert rule is not None
        largest = np.abs(rule(node, planned.model).weight).max()
        errors[name] = np.abs(np.asarray(coded.weight, np.float64) - planned.model.constants[node.inputs[1]]).max()
        factor = planned.plan.formats[node.inputs[0]].factor
        # The largest weight of a row takes all codes, without a scale at least half; small inputs have larger steps.
        half = (0.5 if planned.plan.post_multiplier else 1.0) / (2 ** (planned.plan.weight_bits[name] - 1) - 1)
        assert errors[name] <= 1.001 * half * largest * factor.max() / factor.min()
    assert max(errors.values()) > 0


def test_held_values_are_followed_exactly(case):
    planned, inputs, run = case
    taps = tuple(planned.plan.formats)
    held = fixed_model(planned).run(inputs, taps=taps)
    values = run(Gates.filled(planned, 1), held)
    for t in taps:
        np.testing.assert_allclose(values[t], held[t], rtol=0, atol=1e-6 * max(np.abs(held[t]).max(), 1))


def test_one_switch_alone_moves_only_what_follows(case):
    planned, inputs, run = case
    conv = next(n for n in planned.model.graph.nodes if n.op_type == "ConvTranspose")
    float_run = run(Gates.filled(planned, 0))
    changed = run(Gates.filled(planned, 0).switched("weight", conv.name, 1))
    moved = {t for t in changed if not np.array_equal(changed[t], float_run[t])}
    assert conv.outputs[0] in moved and planned.model.graph.outputs[0] in moved
    assert conv.inputs[0] not in moved and "x" not in moved


def test_switches_can_be_stacked():
    model = mixed_net(10, 8, 1)
    inputs = samples(model, 1)
    planned = plan(model, inputs)
    fn, params = lower_simulated(planned)
    off, on = Gates.filled(planned, 0), Gates.filled(planned, 1)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), off, on)
    (y,) = planned.model.graph.outputs
    both = jax.jit(jax.vmap(lambda g: fn(params, g, inputs)[y]))(stacked)
    apart = [jax.jit(lambda g: fn(params, g, inputs)[y])(g) for g in (off, on)]
    np.testing.assert_allclose(both, np.stack(apart), rtol=1e-4, atol=1e-4)
    assert not np.array_equal(both[0], both[1])


Q = Quantizer(np.float32(4.0), np.float32(-8), np.float32(7))


@pytest.mark.parametrize(
    ("x", "code"), [(0.0, 0), (0.3, 1), (0.125, 0), (0.375, 2), (1.9, 7), (100.0, 7), (-100.0, -8), (-0.3, -1)]
)
def test_quantize_gives_the_nearest_code(x, code):
    assert float(quantize(jnp.float32(x), Q)) == code / 4


@pytest.mark.parametrize(("x", "value"), [(np.inf, 7 / 4), (-np.inf, -2.0), (np.nan, 0.0)])
def test_values_without_a_code(x, value):
    assert float(quantize(jnp.float32(x), Q)) == value


def test_switches_of_one_quantizer():
    x = jnp.asarray([0.3, 3.0, -9.0], jnp.float32)
    np.testing.assert_allclose(quantize(x, Q, 0.0, 0.0), x)
    np.testing.assert_allclose(quantize(x, Q, 1.0, 0.0), [0.3, 1.75, -2.0])
    np.testing.assert_allclose(quantize(x, Q, 0.0, 1.0), [0.25, 3.0, -9.0])


def test_gradients_pass_straight_through_inside_the_range_only():
    slopes = jax.vmap(jax.grad(lambda x: quantize(x, Q)))(jnp.asarray([0.3, 1.8, 3.0, -1.9, -9.0], jnp.float32))
    np.testing.assert_array_equal(slopes, [1, 1, 0, 1, 0])


def test_the_gradient_of_the_factor_is_that_of_a_learned_step():
    """By hand: rounding adds a constant to x * f, so that code / f has the slope (x * f - code) / f**2."""

    def value(f, x):
        return quantize(x, Quantizer(f, Q.low, Q.high))

    inside = float(jax.grad(value)(jnp.float32(4.0), jnp.float32(0.3)))
    assert inside == pytest.approx((0.3 * 4 - 1) / 16, abs=1e-6)
    beyond = float(jax.grad(value)(jnp.float32(4.0), jnp.float32(9.0)))
    assert beyond == pytest.approx(-7 / 16, abs=1e-6)


def test_an_infinite_slope_is_no_gradient():
    slope = jax.grad(lambda x: quantize(1 / quantize(x, Q), Q))(jnp.float32(0.0))
    assert np.isfinite(float(slope))
