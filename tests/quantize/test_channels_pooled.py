"""Operators that combine values along the axis of the channels, and leave more or fewer of them: one scale for all."""

import numpy as np
import pytest
from helpers import Net, samples
from oracle import compare, run_oracle
from planning import fixed_model, float_values, plan

from knerex_jax.graph.write import to_proto
from knerex_jax.metrics import snr_db
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("MaxPool", {"kernel_shape": (2, 3), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}),
        ("AveragePool", {"kernel_shape": (2, 3), "strides": (1, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}),
        ("Resize", {"mode": "linear", "scales": (1.0, 1.0, 1.0, 2.0)}),
        ("Resize", {"mode": "cubic", "scales": (1.0, 1.0, 1.0, 2.0)}),
    ],
)
def test_channels_along_the_columns(op, attrs):
    """A matrix product makes channels of the columns, which the pooling behind it combines."""
    net = Net({"x": (1, 3, 8, 6)})
    # Columns of very different size, which would have very different scales.
    columns = net.add("MatMul", "x", net.constant(net.rng.normal(size=(6, 6)) * np.float32(2.0) ** -np.arange(6)))
    model = net.model(net.add(op, columns, **attrs))
    data = samples(model, 8)
    planned = plan(model, data, "720")
    (name,) = model.graph.outputs
    assert planned.plan.formats[columns].axis is None
    fixed, reference = fixed_model(planned), float_values(model, data, (name,))
    assert snr_db(reference[name], fixed.run(data)[name]) > 28
    codes = run_oracle(to_proto(unbind(planned.refined, REGISTRY)), planned.plan.to_json(), dict(data)).codes
    assert not compare(fixed.run(data, "fixed", taps=tuple(fixed.program.shapes)), codes)


@pytest.mark.parametrize("op", ["Max", "Min", "Add"])
@pytest.mark.parametrize("platform", ["520", "720"])
def test_operands_whose_channels_run_along_different_axes(op, platform):
    net = Net({"x": (1, 6, 6, 7)})
    rows = net.add("MatMul", "x", net.random(7, 7))
    maps = net.conv("x", 6, 1)
    model = net.model(net.add(op, rows, maps))
    data = samples(model, 8)
    planned = plan(model, data, platform)
    (name,) = model.graph.outputs
    fixed, reference = fixed_model(planned), float_values(model, data, (name,))
    assert snr_db(reference[name], fixed.run(data)[name]) > 24
    codes = run_oracle(to_proto(unbind(planned.refined, REGISTRY)), planned.plan.to_json(), dict(data)).codes
    assert not compare(fixed.run(data, "fixed", taps=tuple(fixed.program.shapes)), codes)
