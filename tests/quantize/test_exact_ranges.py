"""The exact ranges that other tests plan with."""

import numpy as np
from helpers import Net, samples
from planning import exact_ranges, float_values, plan

from knerex_jax.quantize.solve import RangePolicy


def test_ranges_of_a_tensor_without_a_batch_axis_see_every_entry():
    """The rows of a matrix [4, 6] that a Reshape makes, with the largest values in the last one."""
    net = Net({"x": (1, 4, 6)})
    rows = net.add("Reshape", "x", shape=(4, 6))
    model = net.model(net.add("Relu", rows))
    inputs = samples(model, 3)
    inputs["x"][:, 3] *= 100
    found = exact_ranges(model, inputs, "720").tensors
    expected = np.maximum(inputs["x"], 0)
    (y,) = model.graph.outputs
    assert np.array_equal(float_values(model, inputs, (y,))[y], expected)
    assert found[y].narrow.layer_max == expected.max()
    own = found[y].narrow.channel_max
    assert np.array_equal(own, expected.max(axis=(0, 2)) if found[y].axis == 0 else [expected.max()])


def test_headroom_widens_the_outputs_alone_and_never_beyond_their_bound():
    net = Net({"x": (1, 2, 4, 4)})
    hidden = net.conv("x", 3, kernel=3)
    model = net.model(net.conv(hidden, 2, kernel=1), net.add("Sigmoid", hidden))
    inputs = samples(model, 8)
    usual, wider = (plan(model, inputs, "720", policy=RangePolicy(output_headroom=h)).plan.formats for h in (0, 0.25))
    y, bounded = model.graph.outputs
    np.testing.assert_allclose(usual[y].factor / wider[y].factor, 1.25, rtol=1e-5)
    np.testing.assert_array_equal(wider[hidden].factor, usual[hidden].factor)
    assert 127 / wider[bounded].factor <= 1 + 1e-6 and (wider[bounded].factor < usual[bounded].factor).all()
