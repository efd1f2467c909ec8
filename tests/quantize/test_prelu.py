"""Slopes of PRelu: by channel inside the accumulator; any other form in float, with the reason."""

import pytest
from helpers import Net, samples
from oracle import compare, run_oracle
from planning import fixed_model, float_values, plan

from knerex_jax.check import check_model
from knerex_jax.graph.write import to_proto
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind


def net_with(shape, *, by=None, layout=(1, 6, 8, 6)):
    """A PRelu with slopes of a shape behind `by`, a function of the net."""
    net = Net({"x": layout})
    slope = net.constant(net.rng.uniform(-2, 2, shape))
    return net.model(net.add("PRelu", by(net) if by else "x", slope))


def conv(net):
    return net.conv("x", 6)


def residual(net):
    return net.add("Add", conv(net), net.add("Relu", net.conv("x", 6)))


def dense(net):
    return net.add("MatMul", "x", net.random(6, 6))


def turned(net):
    return net.add("Transpose", conv(net), perm=(0, 3, 2, 1))


@pytest.mark.parametrize(
    ("shape", "by", "why"),
    [
        ((6, 1, 1), conv, None),
        ((1,), conv, None),
        ((6, 1, 1), residual, None),
        ((6,), dense, None),
        ((1, 1), None, None),
        ((6,), conv, "axis 3"),
        ((8, 1), conv, "axis 2"),
        ((8, 6), conv, "axes 2, 3"),
        ((6, 1, 1), None, "has none"),
        ((6, 1, 1), dense, "axis 3"),
        ((6, 1, 1), turned, "axis 3"),
    ],
)
def test_only_slopes_by_channel_run_in_integers(shape, by, why):
    model = net_with(shape, by=by)
    data = samples(model, 8)
    planned = plan(model, data, "720")
    assert [why in text for text in planned.structure.islands.values()] == [True] * (why is not None)
    fixed = fixed_model(planned)
    (name,) = model.graph.outputs
    assert snr_db(float_values(model, data, (name,))[name], fixed.run(data)[name]) > 25
    codes = run_oracle(to_proto(unbind(planned.refined, REGISTRY)), planned.plan.to_json(), dict(data)).codes
    assert not compare(fixed.run(data, "fixed", taps=tuple(fixed.program.shapes)), codes)


def test_the_check_knows_what_the_plan_will_say():
    found = {n.op_type: n for n in check_model(net_with((6,), by=conv), "720").nodes}
    assert found["PRelu"].where == "CPU" and "axis 3" in found["PRelu"].reason
    found = {n.op_type: n for n in check_model(net_with((6, 1, 1), by=conv), "720").nodes}
    assert found["PRelu"].where == "fused"
