"""The same codes however samples and plans are batched, compiled, placed; new integers never recompile."""

import os
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import slow_primitives
from instruction_cases import Build, PoolSum

from knerex_jax.emulator.fixed import lower_fixed, prepare
from knerex_jax.emulator.methods import check, choose
from knerex_jax.emulator.stream import samples_at_once
from knerex_jax.errors import PlanError
from knerex_jax.lowering.batch import over_samples
from knerex_jax.program.bounds import bound_program, join


def network(bits=8, weight_bits=8, seed=0):
    """A small residual network: every form of sum, an add whose operand has two readers, a mean and a dense layer."""
    b = Build(seed=seed)
    kw = {"weight_bits": weight_bits}
    x = b.input(bits, 1, 3, 9, 9)
    y = b.mac(x, "conv", outputs=8, kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 1)), act="clip", **kw)
    z = b.mac(y, "conv", outputs=16, kernel=(1, 1), act="relu", **kw)
    z = b.mac(z, "conv", outputs=16, kernel=(3, 3), pads=((1, 1), (1, 1)), group=16, act="leaky", **kw)
    z = b.mac(z, "conv", outputs=8, kernel=(3, 3), pads=((1, 1), (1, 1)), group=2, **kw)
    y = b.align(y, z, free=True, bits=bits)
    b.mac(b.pool(PoolSum, y, axes=(2, 3)), "conv", outputs=5, kernel=(1, 1), **kw)
    return b


def redrawn(b, seed):
    """Other integers for the same program."""
    other = Build(seed=seed)
    constants = {}
    for name, made in b.constants.items():
        constants[name] = {k: other.rng.permutation(v.reshape(-1)).reshape(v.shape) for k, v in made.items()}
    return constants


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def assert_same(got, want):
    assert got.keys() == want.keys()
    for t in want:
        np.testing.assert_array_equal(np.asarray(got[t]), np.asarray(want[t]), err_msg=t)


@pytest.mark.parametrize("bits, weight_bits", [(8, 8), (15, 15)])
def test_batches_and_compilation_do_not_matter(bits, weight_bits):
    b = network(bits, weight_bits)
    program, data = b.program(), b.samples(8)
    fn = lower_fixed(program, choose(program, bound_program(program, b.constants)))
    params = prepare(program, b.constants)
    whole = jax.jit(jax.vmap(fn, (None, 0)))(params, data)
    for s in (0, 7):
        want = slow_primitives.run(program, b.constants, {t: v[s] for t, v in data.items()})
        assert_same({t: whole[t][s] for t in program.outputs}, {t: want[t] for t in program.outputs})
    if bits == 8:
        single = jax.jit(fn)
        assert_same(stack([single(params, {t: v[s] for t, v in data.items()}) for s in range(8)]), whole)
        assert_same(fn(params, {t: v[3] for t, v in data.items()}), {t: v[3] for t, v in whole.items()})
        assert_same(jax.vmap(jax.jit(fn), (None, 0))(params, data), whole)
    assert_same(jax.jit(over_samples(fn, 3))(params, data), whole)


@pytest.mark.parametrize("bits, weight_bits", [(8, 8), (15, 8)])
def test_plans_side_by_side_equal_plans_one_by_one(bits, weight_bits):
    b = network(bits, weight_bits)
    program, data = b.program(), b.samples(2)
    plans = [b.constants, redrawn(b, 1), redrawn(b, 2)]
    bounds = join([bound_program(program, c) for c in plans])
    methods = choose(program, bounds)
    for c in plans:
        check(program, methods, bound_program(program, c))
    fn = lower_fixed(program, methods)
    params = [prepare(program, c) for c in plans]
    step = jax.jit(jax.vmap(fn, (None, 0)))
    want = stack([step(p, data) for p in params])
    outer = jax.jit(jax.vmap(jax.vmap(fn, (None, 0)), (0, None)))
    assert_same(outer(stack(params), data), want)
    inner = jax.jit(jax.vmap(jax.vmap(fn, (0, None)), (None, 0)))
    assert_same({t: np.swapaxes(v, 0, 1) for t, v in inner(stack(params), data).items()}, want)
    text = outer.lower(stack(params), data).as_text()
    assert set(re.findall(r"_group_count = (\d+)", text)) == {"1"}


def test_new_integers_do_not_retrace():
    b = network()
    program, data = b.program(), b.samples(2)
    methods = choose(program, bound_program(program, b.constants))
    fn, traces = lower_fixed(program, methods), []

    @jax.jit
    def step(params, data):
        traces.append(1)
        return jax.vmap(fn, (None, 0))(params, data)

    for seed in range(3):
        constants = redrawn(b, seed) if seed else b.constants
        check(program, methods, bound_program(program, constants))
        step(prepare(program, constants), data)
    assert len(traces) == 1
    assert choose(program, bound_program(program, redrawn(b, 1))) == methods
    assert hash(methods) == hash(choose(program, bound_program(program, b.constants)))


def lowered_chain(blocks):
    """StableHLO of a chain of equal residual blocks, 2 samples."""
    b = Build()
    x = b.mac(b.input(8, 1, 8, 5, 5), "conv", outputs=8, kernel=(1, 1))
    for _ in range(blocks):
        y = b.mac(x, "conv", outputs=8, kernel=(3, 3), pads=((1, 1), (1, 1)), act="relu")
        x = b.align(x, y, free=True, bits=8)
    program = b.program()
    bounds = join([bound_program(program, b.constants), bound_program(program, redrawn(b, 1))])
    fn = jax.jit(jax.vmap(lower_fixed(program, choose(program, bounds)), (None, 0)))
    return fn.lower(prepare(program, b.constants), b.samples(2)).as_text()


def test_equal_instructions_are_lowered_once_and_unread_integers_are_left_out():
    few, many = lowered_chain(4), lowered_chain(12)
    assert len(re.findall(r"func\.func private", many)) == len(re.findall(r"func\.func private", few))
    assert len(re.findall(r"stablehlo\.", many)) == len(re.findall(r"stablehlo\.", few))
    arguments = [len(re.findall(r"%arg\d+: ", re.search(r"@main\((.*)\)", t)[1].split("->")[0])) for t in (few, many)]
    # weight, bias and three of the multiplier; two of the sum, three of each operand
    assert (arguments[1] - arguments[0]) / 8 == 5 + 2 + 3 + 3


def test_integers_beyond_the_method_are_refused():
    b = Build()
    x = b.input(8, 1, 4, 3, 3)
    b.mac(x, "conv", outputs=4, kernel=(1, 1))
    program = b.program()
    methods = choose(program, bound_program(program, b.constants))
    constants = {**b.constants, "mac0": {**b.constants["mac0"], "bias": np.full(4, 2**31 - 1)}}
    with pytest.raises(PlanError, match="mac0"):
        check(program, methods, bound_program(program, constants))


def test_no_parameter_needs_64_bits():
    b = network(15, 15)
    leaves = jax.tree.leaves(prepare(b.program(), b.constants))
    assert {str(a.dtype) for a in leaves} <= {"int8", "int16", "int32", "float32"}


def test_the_caller_s_64_bit_setting_does_not_matter():
    """Sums of 48 bits inside a step compiled without 64-bit types; truncated they would differ."""
    b = network(15, 15)
    program, data = b.program(), b.samples(2)
    bounds = bound_program(program, b.constants)
    fn = lower_fixed(program, choose(program, bounds))
    params = prepare(program, b.constants)
    assert any(m.wide for m in choose(program, bounds).step.values())
    assert not jax.config.jax_enable_x64
    step = jax.jit(jax.vmap(fn, (None, 0)))
    narrow = step(params, data)
    with jax.enable_x64(True):
        assert_same(jax.jit(jax.vmap(fn, (None, 0)))(params, data), narrow)
    want = slow_primitives.run(program, b.constants, {t: v[0] for t, v in data.items()})
    assert_same({t: narrow[t][0] for t in program.outputs}, {t: want[t] for t in program.outputs})


def test_several_devices_give_the_same_codes():
    code = """
        import sys, jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        sys.path.insert(0, sys.argv[1])
        from test_emulator_batching import network, assert_same
        from knerex_jax.emulator.fixed import lower_fixed, prepare
        from knerex_jax.emulator.methods import choose
        from knerex_jax.program.bounds import bound_program
        assert len(jax.devices()) == 2
        b = network()
        program, data = b.program(), b.samples(4)
        fn = lower_fixed(program, choose(program, bound_program(program, b.constants)))
        params = prepare(program, b.constants)
        step = jax.jit(jax.vmap(fn, (None, 0)))
        one = step(params, jax.device_put(data, jax.devices()[0]))
        spread = NamedSharding(Mesh(np.asarray(jax.devices()), "n"), PartitionSpec("n"))
        two = step(params, jax.device_put(data, spread))
        assert len(two[program.outputs[0]].sharding.device_set) == 2
        assert_same(two, one)
    """
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), os.path.dirname(__file__)], check=True, env=env, timeout=120
    )


def test_samples_at_once_is_a_power_of_two_within_the_budget():
    program = network().program()
    assert samples_at_once(program) == 64
    assert samples_at_once(program, 1) == 1
    assert samples_at_once(program, 5 * 4 * 16 * 25) == 4


def test_taps_choose_what_is_returned():
    b = network()
    program, data = b.program(), b.samples(1)
    taps = (program.inputs[0], program.instructions[2].output)
    fn = lower_fixed(program, choose(program, bound_program(program, b.constants)), taps)
    got = jax.jit(fn)(prepare(program, b.constants), {t: v[0] for t, v in data.items()})
    want = slow_primitives.run(program, b.constants, {t: v[0] for t, v in data.items()})
    assert_same(got, {t: want[t] for t in taps})
