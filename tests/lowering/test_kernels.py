"""Which kernels of convolutions the float function reads in a form of its own, and that it gives the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import Net, samples

from knerex_jax.graph.ir import Model
from knerex_jax.lowering import kernels
from knerex_jax.lowering.float import lower_float, walk_float
from knerex_jax.lowering.kernels import TURNED, kernel_forms


def _model(size: int = 14, channels: int = 64, **conv) -> Model:
    net = Net({"x": (1, channels, size, size)})
    return net.model(net.add("Relu", net.conv("x", channels, **conv)))


def _forms(model: Model) -> list[int]:
    return list(kernel_forms(model).values())


def test_heavy_convolutions_are_computed_by_tiles():
    model = _model()
    (kernel,) = kernel_forms(model)
    fn, params = lower_float(model)
    assert _forms(model) == [4] and params[kernel].shape == (6, 6, 64, 64)
    inputs = samples(model, 3)
    found = jax.jit(jax.vmap(fn, (None, 0)))(params, {"x": inputs["x"][:, None]})
    for k in range(3):
        by_node = {t: v for _, made in walk_float(model, {"x": inputs["x"][k : k + 1]}) for t, v in made.items()}
        for t, values in found.items():
            np.testing.assert_allclose(values[k], by_node[t], rtol=0, atol=5e-6 * np.abs(by_node[t]).max())


@pytest.mark.parametrize(
    "other",
    [{"size": 7}, {"channels": 8, "size": 112}, {"kernel": 5}, {"stride": 2, "size": 28}],
    ids=["little to win back", "few channels", "kernel", "stride"],
)
def test_others_are_turned(other):
    assert _forms(_model(**other)) == [TURNED]


def test_equal_convolutions_count_together():
    net = Net({"x": (1, 64, 7, 7)})
    model = net.model(net.conv(net.conv(net.conv("x", 64), 64), 64))
    assert _forms(model) == [4, 4, 4]


def test_a_kernel_that_someone_else_reads_is_turned(monkeypatch):
    net = Net({"x": (1, 64, 14, 14)})
    y = net.conv("x", 64)
    model = net.model(y, net.add("Relu", net.nodes[0].inputs[1]))
    fn, params = lower_float(model)
    assert _forms(model) == [TURNED]
    monkeypatch.setattr(kernels.jax, "default_backend", lambda: "gpu")
    assert _forms(_model()) == [TURNED]  # other devices have kernels of their own
    kernel = model.constants[model.graph.nodes[0].inputs[1]]
    np.testing.assert_array_equal(fn(params, samples(model, 1))[model.graph.outputs[1]], np.maximum(kernel, 0))


def test_other_element_types_are_turned():
    model = _model()
    (kernel,) = kernel_forms(model)
    halves = replace(model, constants={**model.constants, kernel: model.constants[kernel].astype(np.float16)})
    assert _forms(halves) == [TURNED]


def test_depthwise_weights_are_read_as_they_lie():
    """Turned, every element would be gathered for itself, which takes three times as long (MobileNetV2: 1.3)."""
    net = Net({"x": (1, 32, 14, 14)})
    model = net.model(net.add("Relu", net.conv("x", 32, group=32)))
    fn, params = lower_float(model)
    step = jax.jit(jax.vmap(fn, (None, 0)))
    text = step.lower(params, {"x": samples(model, 4)["x"][:, None]}).compile().as_text()
    assert "f32[9,32]{1,0}" in text and "f32[9,32]{0,1}" not in text
