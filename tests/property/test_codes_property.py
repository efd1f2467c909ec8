"""Rules on single codes: activations alone, tables, and the boundary."""

from typing import Any

import numpy as np
from helpers import Net
from hypothesis import given
from hypothesis import strategies as st
from oracle.executor import quantize_input as oracle_codes
from oracle.formats import read_format
from property.corners import Corner, assert_exact, corners, few
from property.test_mac_property import ACTIVATIONS, behind

from knerex_jax.emulator.fixed import quantize_input
from knerex_jax.fixedpoint.qformat import MAX_RADIX, MIN_RADIX


@few(6)
@given(corners(), st.sampled_from((*ACTIVATIONS[1:], "Neg", "Abs")))
def test_activation_alone(corner: Corner, activation: str):
    """A second reader of its input keeps the activation from being fused."""
    net = Net({"x": (1, 4, 3, 5)}, seed=corner.seed)
    z = net.batch_norm("x")
    y = behind(net, z, activation)
    assert_exact(net.model(net.batch_norm(y), net.add("Transpose", z, perm=(0, 2, 3, 1))), corner, "act")


ALPHA = float(np.float32(0.3))
TABLES: dict[str, dict[str, Any]] = {
    **{op: {} for op in ("Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Softsign", "Softplus", "Mish")},
    **{op: {} for op in ("Sign", "Floor", "Ceil", "Round", "HardSwish")},
    **{op: {} for op in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh")},
    **{op: {"alpha": ALPHA} for op in ("Elu", "Celu", "ThresholdedRelu", "Swish")},
    "Selu": {"alpha": ALPHA, "gamma": 1.5},
    "HardSigmoid": {"alpha": ALPHA, "beta": 0.25},
    "Gelu": {"approximate": "none"},
    "Gelu tanh": {"approximate": "tanh"},
    "Shrink": {"bias": 0.25, "lambd": 0.75},
}


@few(8)
@given(corners(), st.lists(st.sampled_from(tuple(TABLES)), min_size=6, max_size=6, unique=True))
def test_table(corner: Corner, kinds: list[str]):
    """Codes everywhere, limits included; far inside and outside the domain and the output's range."""
    net = Net({"x": (1, 1, 300)}, seed=corner.seed)
    assert_exact(net.model(*(net.add(kind.split()[0], "x", **TABLES[kind]) for kind in kinds)), corner, "table")


@few(3)
@given(corners(), st.lists(st.sampled_from((2, 3, 0.5, -1, -2, -0.5, 1.7, 0)), min_size=3, max_size=3, unique=True))
def test_power(corner: Corner, exponents: list[float]):
    net = Net({"x": (1, 1, 300)}, seed=corner.seed)
    assert_exact(net.model(*(net.add("Pow", "x", net.constant(e)) for e in exponents)), corner, "table")


@few(40)
@given(st.integers(MIN_RADIX, MAX_RADIX), st.integers(-8, 8), st.sampled_from((8, 15)), st.integers(0, 2**16))
def test_boundary(radix: int, octave: int, bits: int, seed: int):
    """Any finite float32: subnormal, beyond float32 after the product, on the ties between codes."""
    rng = np.random.default_rng(seed)
    scale = np.float32(np.ldexp(rng.choice([1.0, rng.uniform(1, 2)]), octave))
    any_bits = rng.integers(0, 2**32, 512, dtype=np.uint32).view(np.float32)
    ties = (rng.integers(-(2**bits), 2**bits, 512) / 2 / np.ldexp(np.float64(scale), radix)).astype(np.float32)
    values = np.concatenate([any_bits[np.isfinite(any_bits)], ties])
    entry = {"bits": bits, "axis": None, "radix": [radix], "scale": [float(scale)]}
    held = read_format("x", entry, values.shape)
    factor = np.float32(np.ldexp(np.float64(scale), radix))
    found = np.asarray(quantize_input(values, factor, bits))
    np.testing.assert_array_equal(found, oracle_codes(values, held))
