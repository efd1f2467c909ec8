"""The same codes at every batch size, jitted or not, on one or many devices; one trace for many plans."""

import os
import subprocess
import sys
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from helpers import Net, samples
from planning import WIDTHS, exact_ranges, fixed_model, plan

from knerex_jax.artifacts.bie import Bie, save_bie
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Model, Node
from knerex_jax.lowering import batch
from knerex_jax.lowering.batch import over_samples
from knerex_jax.lowering.float import lower_float, walk_float, working_sets
from knerex_jax.program.bounds import bound_program, join
from knerex_jax.quantize.planner import plan_model
from knerex_jax.targets import TARGETS


def network():
    net = Net({"x": (1, 3, 12, 12)})
    a = net.add("Relu", net.conv("x", 16))
    b = net.add("Clip", net.conv(a, 16, group=16, stride=2), min=0.0, max=6.0)
    c = net.add("Add", net.conv(b, 16), b)
    flat = net.add("Reshape", net.add("GlobalAveragePool", c), shape=(1, 16))
    return net.model(net.add("Gemm", flat, net.random(16, 7), net.random(7)), c)


@pytest.mark.parametrize("width", ["int8", "w8a16", "int16"])
def test_codes_do_not_depend_on_the_batch_size(width):
    model = network()
    inputs = samples(model, 32)
    fixed = fixed_model(plan(model, inputs, width=width))
    taps = tuple(t for t, _ in fixed.program.tensors)
    reference = fixed.run(inputs, "fixed", taps=taps, batch_size=32)
    for size in (1, 8, 5):
        for name, codes in fixed.run(inputs, "fixed", taps=taps, batch_size=size).items():
            np.testing.assert_array_equal(codes, reference[name], err_msg=f"{name} at batch {size}")


@pytest.mark.parametrize("width", ["int8", "int16"])
def test_codes_do_not_depend_on_compilation(width):
    model = network()
    inputs = samples(model, 2)
    planned = plan(model, inputs, width=width)
    methods = choose(planned.program, bound_program(planned.program, planned.constants), "cpu")
    fn, params = lower_fixed(planned.program, methods), prepare(planned.program, planned.constants)
    compiled = fixed_model(planned).run(inputs, "fixed")
    for i in range(2):
        plain = fn(params, {"x": inputs["x"][i : i + 1]})
        for name, codes in compiled.items():
            np.testing.assert_array_equal(np.asarray(plain[name])[0], codes[i])


def test_planning_again_does_not_trace_again_and_plans_can_be_vmapped():
    model = network()
    inputs = samples(model, 8)
    base = plan(model, inputs)
    others = [
        plan_model(
            model, exact_ranges(model, {t: k * a for t, a in inputs.items()}, "720"), WIDTHS["int8"], TARGETS["720"],
            slots=base.slots,
        )
        for k in (0.7, 1.3)
    ]  # fmt: skip
    plans = [base, *others]
    assert len({p.program for p in plans}) == 1
    bounds = join([bound_program(p.program, p.constants) for p in plans])
    methods = choose(base.program, bounds, "cpu")
    traces = 0
    fn = lower_fixed(base.program, methods)

    @jax.jit
    def step(params, batch):
        nonlocal traces
        traces += 1
        return jax.vmap(fn, (None, 0))(params, batch)

    batch = {"x": inputs["x"][:, None]}
    params = [prepare(p.program, p.constants) for p in plans]
    one_by_one = [step(p, batch) for p in params]
    assert traces == 1
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
    together = jax.jit(jax.vmap(jax.vmap(fn, (None, 0)), (0, None)))(stacked, batch)
    for i, alone in enumerate(one_by_one):
        for name, codes in alone.items():
            np.testing.assert_array_equal(np.asarray(together[name][i]), np.asarray(codes))
            np.testing.assert_array_equal(np.asarray(codes)[:, 0], fixed_model(plans[i]).run(inputs, "fixed")[name])


DEVICES_SCRIPT = """
import sys, numpy as np, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.prepare import prepare
from knerex_jax.program.bounds import bound_program
from knerex_jax.artifacts.bie import load_bie
from knerex_jax.runtime import FixedModel
bie = load_bie(sys.argv[1])
assert jax.device_count() == 4, jax.devices()
x = np.load(sys.argv[2])
fn = lower_fixed(bie.program, choose(bie.program, bound_program(bie.program, bie.constants), "cpu"))
spread = NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec("batch"))
out = jax.jit(jax.vmap(fn, (None, 0)))(prepare(bie.program, bie.constants), {"x": jax.device_put(x[:, None], spread)})
divided = FixedModel.load(sys.argv[1]).run({"x": x}, "fixed", batch_size=5, devices=4)
for name, codes in divided.items():
    np.testing.assert_array_equal(codes, np.asarray(out[name])[:, 0])
np.savez(sys.argv[3], **{k.replace(":", "_"): np.asarray(v)[:, 0] for k, v in out.items()})
"""


def test_many_devices_give_the_same_codes(tmp_path):
    model = network()
    inputs = samples(model, 8)
    planned = plan(model, inputs)
    save_bie(Bie(planned.program, planned.constants, planned.plan, {"arith_version": 1}), tmp_path / "m.bie")
    np.save(tmp_path / "x.npy", inputs["x"])
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", DEVICES_SCRIPT, "m.bie", "x.npy", "out.npz"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    found = np.load(tmp_path / "out.npz")
    for name, codes in fixed_model(planned).run(inputs, "fixed").items():
        np.testing.assert_array_equal(found[name.replace(":", "_")], codes)
    with pytest.raises(ConfigError, match="JAX_NUM_CPU_DEVICES=64"):
        fixed_model(planned).run(inputs, devices=64)


def test_kernels_are_handed_over_as_convolutions_read_them():
    model = network()
    fn, params = lower_float(model)
    kernels = {n.inputs[1] for n in model.graph.nodes if n.op_type == "Conv"}
    assert {t for t in params if params[t] is not model.constants[t]} == kernels
    for t in kernels:
        np.testing.assert_array_equal(params[t].transpose(3, 2, 0, 1), model.constants[t])
    x = samples(model, 1)["x"]
    by_node = {t: v for _, made in walk_float(model, {"x": x}) for t, v in made.items()}  # in ONNX's own order
    for t, value in jax.jit(fn)(params, {"x": x}).items():
        np.testing.assert_allclose(np.asarray(value), by_node[t], rtol=1e-5, atol=1e-5)


def test_products_of_matrices_keep_their_weights():
    net = Net({"x": (1, 3, 4, 4)})
    model = net.model(net.conv(net.conv("x", 4, kernel=1), 4))
    (point, kernel), (_, params) = (n.inputs[1] for n in model.graph.nodes), lower_float(model)
    assert params[point] is model.constants[point] and params[kernel].shape == (3, 3, 4, 4)


def _small_behind_large() -> Model:
    """A convolution on a large map, then eight on a map of one pixel, with a skip connection across the border."""
    net = Net({"x": (1, 3, 64, 64)})
    x = net.add("GlobalAveragePool", net.add("Relu", net.conv("x", 8)))
    y = x
    for _ in range(8):
        y = net.add("Relu", net.conv(y, 8, kernel=1))
    return net.model(net.add("Add", x, y))


def test_light_nodes_behind_large_tensors_take_more_samples_at_a_time(monkeypatch):
    """The same values, for batches that divide and that do not."""
    model = _small_behind_large()
    monkeypatch.setitem(batch._BUDGETS, "cpu", 2 * max(working_sets(model)))
    taken = []

    def noted(fn, at_once):
        taken.append(at_once)
        return over_samples(fn, at_once)

    monkeypatch.setattr(batch, "over_samples", noted)
    fn, params = batch.lower_batch(model)
    assert taken == [2, 8]
    whole, _ = lower_float(model)
    for count in (1, 2, 7, 24):
        inputs = {"x": samples(model, count)["x"].reshape(count, 1, 3, 64, 64)}
        (found,) = jax.jit(fn)(params, inputs).values()
        (expected,) = jax.jit(jax.vmap(whole, (None, 0)))(params, inputs).values()
        assert found.shape == expected.shape == (count, 1, 8, 1, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_is_read_of_each_part(monkeypatch):
    """Of what its nodes make and need, whichever part it is in; nothing twice."""
    model = _small_behind_large()
    monkeypatch.setitem(batch._BUDGETS, "cpu", 2 * max(working_sets(model)))
    parts = []

    def read(nodes: Sequence[Node]) -> batch.Reading:
        parts.append([n.name for n in nodes])
        own = tuple(dict.fromkeys(t for n in nodes for t in (n.inputs[0], n.outputs[0])))
        return batch.Reading(own, lambda given, values: {t: v.sum() * given for t, v in values.items()})

    run = batch.lower_readings(model, read)
    assert len(parts) == 2 and sum(parts, []) == [n.name for n in model.graph.nodes]
    inputs = {"x": samples(model, 5)["x"].reshape(5, 1, 3, 64, 64)}
    outputs, found = jax.jit(run)(batch.float_params(model), 2.0, inputs)
    assert not outputs and len(found) == 2
    made = {t for n in model.graph.nodes for t in (n.inputs[0], n.outputs[0])}
    whole, params = lower_float(model, taps=made)
    expected = jax.vmap(whole, (None, 0))(params, inputs)
    assert set(found[0]) | set(found[1]) == made
    for part in found:
        for t, v in part.items():
            np.testing.assert_allclose(v, 2 * expected[t].reshape(5, -1).sum(axis=1), rtol=1e-4, atol=1e-4, err_msg=t)


def test_heavy_nodes_and_small_networks_take_as_many_as_the_largest_tensor_allows(monkeypatch):
    model = _small_behind_large()
    sizes = list(working_sets(model))
    for few, light in ((64, 5_000_000), (2, 0)):
        monkeypatch.setitem(batch._BUDGETS, "cpu", few * max(sizes))
        monkeypatch.setattr(batch, "_LIGHT", light)
        assert batch.at_once(sizes) == few and batch._second_half(model, sizes) is None


def test_float_lowering_is_differentiable():
    model = network()
    fn, params = lower_float(model)
    x = samples(model, 1)["x"]

    def energy(params):
        return (fn(params, {"x": x})["add5:0"] ** 2).sum()

    gradient = jax.grad(energy)(params)
    name = model.graph.node["conv0"].inputs[1]
    step = 1e-2 * gradient[name] / np.linalg.norm(gradient[name])
    change = energy({**params, name: params[name] + step}) - energy({**params, name: params[name] - step})
    np.testing.assert_allclose(change, 2 * (gradient[name] * step).sum(), rtol=2e-2)
