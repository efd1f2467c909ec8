"""The table of methods for other devices: exact with every element type, and none is trusted untried."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_primitives
from instruction_cases import Build
from test_emulator_batching import network

from knerex_jax.emulator import products, trust
from knerex_jax.emulator.fixed import lower_fixed, prepare
from knerex_jax.emulator.methods import choose
from knerex_jax.emulator.trust import ENGINES, methods_here
from knerex_jax.errors import PlanError
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.primitives import Mac


@pytest.fixture(autouse=True)
def nothing_tried_yet():
    trust.is_exact.cache_clear()
    yield
    trust.is_exact.cache_clear()


def small(bits):
    """A convolution, two transposed ones, groups: what the trial has to compute itself."""
    b = Build(seed=3)
    x = b.input(bits, 1, 4, 6, 5)
    y = b.mac(x, "conv", outputs=6, kernel=(3, 2), strides=(2, 1), pads=((1, 0), (0, 1)), weight_bits=8)
    y = b.mac(y, "conv_transpose", outputs=6, kernel=(2, 1), strides=(2, 1), weight_bits=8)
    y = b.mac(y, "conv_transpose", outputs=4, kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 0)), weight_bits=8)
    b.mac(y, "conv", outputs=4, kernel=(3, 3), pads=((1, 1), (1, 1)), group=2, weight_bits=8)
    return b


def assert_contract(b, methods):
    program, data = b.program(), b.samples(2)
    found = jax.jit(jax.vmap(lower_fixed(program, methods), (None, 0)))(prepare(program, b.constants), data)
    want = slow_primitives.run(program, b.constants, {t: v[1] for t, v in data.items()})
    for t in program.outputs:
        np.testing.assert_array_equal(np.asarray(found[t])[1], want[t], err_msg=t)


@pytest.mark.parametrize("engine, bits, weight_bits", [*((e, 8, 8) for e in ENGINES), ("bfloat16", 15, 15)])
def test_every_element_type_gives_the_same_codes(engine, bits, weight_bits):
    b = network(bits, weight_bits)
    assert_contract(b, choose(b.program(), bound_program(b.program(), b.constants), "gpu", engine=engine))


def test_exact_methods_are_taken_in_order_of_preference():
    b = small(15)
    methods = methods_here(b.program(), bound_program(b.program(), b.constants), "gpu")
    assert {m.engine for m in methods.step.values()} == {"int8"}
    assert {m.form for m in methods.step.values()} == {"im2col", "spread"}
    assert_contract(b, methods)


def test_a_product_that_is_not_exact_gives_way(monkeypatch):
    """As on a device that keeps too few bits: int8 sums lose their last bit, bfloat16 ones what is beyond 2**16."""
    right = products._dot_general
    spoilt = {"int8": lambda y: y & ~1, "bfloat16": lambda y: jnp.clip(y, -(1 << 16), 1 << 16)}

    def wrong(engine, *args):
        return spoilt.get(engine, lambda y: y)(right(engine, *args))

    monkeypatch.setattr(products, "_dot_general", wrong)
    jax.clear_caches()  # what was traced with the right one
    b = small(8)
    methods = methods_here(b.program(), bound_program(b.program(), b.constants), "gpu")
    assert {m.engine for m in methods.step.values()} == {"float32"}
    assert_contract(b, methods)
    trust.is_exact.cache_clear()
    jax.clear_caches()
    monkeypatch.setattr(products, "_dot_general", lambda *args: right(*args) + 1)
    with pytest.raises(PlanError, match="no method"):
        methods_here(b.program(), bound_program(b.program(), b.constants), "gpu")
    jax.clear_caches()


def test_layers_that_differ_in_names_alone_are_tried_once(monkeypatch):
    b = Build(seed=1)
    x = b.input(8, 1, 8, 4, 4)
    for _ in range(3):
        x = b.mac(x, "conv", outputs=8, kernel=(3, 3), pads=((1, 1), (1, 1)), weight_bits=8)
    methods_here(b.program(), bound_program(b.program(), b.constants), "gpu")
    assert trust.is_exact.cache_info().misses == 1
    assert sum(isinstance(i, Mac) for i in b.program().instructions) == 3


def test_the_gpu_script_compares_codes_and_says_that_there_is_no_gpu(tmp_path):
    script = Path(__file__).parents[2] / "experiments" / "bench" / "gpu.py"
    command = [sys.executable, script, "--models", "embedded", "--widths", "int8", "--batch", "2", "--forced"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "KNEREX_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "no GPU" in done.stderr and "codes equal everywhere" in done.stdout
    row = json.loads(done.stdout.splitlines()[0])
    assert row["forced"] and row["codes"] > 10_000 and row["differing"] == 0 and set(row["engines"]) == {"int8"}
