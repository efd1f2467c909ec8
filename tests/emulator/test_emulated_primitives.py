"""Every primitive, in every method, against loops over Python integers: all codes equal."""

import jax
import numpy as np
import pytest
import slow_primitives
from instruction_cases import Build, MaxPool, PoolSum

from knerex_jax.emulator.fixed import lower_fixed, prepare
from knerex_jax.emulator.methods import choose
from knerex_jax.program.bounds import bound_program

BACKENDS = {"cpu": ("cpu", "int8"), "gpu": ("gpu", "int8"), "float": ("cpu", "float32")}


def compare(build, variants=("cpu",), samples=2):
    """Emulated codes of every instruction against the slow ones; also that the bounds hold."""
    program, data = build.program(), build.samples(samples)
    bounds = bound_program(program, build.constants)
    want = [slow_primitives.run(program, build.constants, {t: v[s] for t, v in data.items()}) for s in range(samples)]
    for t, (low, high) in bounds.codes:
        for sample in want:
            assert low <= sample[t].min() and sample[t].max() <= high, t
    params = prepare(program, build.constants)
    for variant in variants:
        backend, engine = BACKENDS[variant]
        methods = choose(program, bounds, backend, engine=engine)
        fn = jax.jit(jax.vmap(lower_fixed(program, methods), (None, 0)))
        got = fn(params, data)
        for i in program.instructions:
            codes = np.asarray(got[i.output])
            assert codes.dtype == (np.int8 if i.bits == 8 else np.int16)
            assert codes.shape == (samples, *program.tensor[i.output].shape), i
            for s in range(samples):
                np.testing.assert_array_equal(
                    codes[s], want[s][i.output], err_msg=f"{variant} {i} {methods.step[i.name]}"
                )


@pytest.mark.parametrize(
    "bits, weight_bits, variant",
    [(8, 8, "cpu"), (8, 4, "gpu"), (15, 8, "cpu"), (8, 15, "float"), (15, 15, "cpu")],
)
def test_convolutions(bits, weight_bits, variant):
    b = Build(seed=bits * 31 + weight_bits)
    x, wide, line, volume = (
        b.input(bits, 1, 6, 7, 9),
        b.input(bits, 1, 20, 5, 6),
        b.input(bits, 1, 5, 11),
        b.input(bits, 1, 2, 4, 4, 3),
    )
    kw = {"weight_bits": weight_bits}
    b.mac(x, "conv", outputs=5, kernel=(3, 3), pads=((1, 1), (1, 1)), **kw)
    b.mac(x, "conv", outputs=4, kernel=(3, 2), strides=(2, 3), pads=((0, 2), (3, 1)), act="clip", **kw)
    b.mac(x, "conv", outputs=4, kernel=(2, 3), dilations=(2, 3), pads=((1, 0), (2, 4)), act="relu", **kw)
    b.mac(wide, "conv", outputs=3, kernel=(1, 1), strides=(2, 2), act="leaky", **kw)
    b.mac(wide, "conv", outputs=3, kernel=(1, 1), pads=((1, 0), (0, 2)), extreme=True, **kw)
    b.mac(wide, "conv", outputs=6, kernel=(3, 3), extreme=True, act="clip", **kw)
    b.mac(x, "conv", outputs=6, kernel=(3, 3), group=6, pads=((1, 1), (2, 0)), strides=(2, 1), act="relu", **kw)
    b.mac(x, "conv", outputs=12, kernel=(2, 3), group=6, dilations=(1, 2), extreme=True, **kw)
    b.mac(x, "conv", outputs=4, kernel=(3, 3), group=2, pads=((1, 1), (1, 1)), **kw)
    b.mac(wide, "conv", outputs=10, kernel=(1, 1), group=5, act="leaky", **kw)
    b.mac(b.input(bits, 1, 72, 3, 3), "conv", outputs=4, kernel=(2, 1), group=2, **kw)
    b.mac(line, "conv", outputs=3, kernel=(4,), strides=(2,), pads=((1, 3),), **kw)
    b.mac(line, "conv", outputs=5, kernel=(3,), group=5, dilations=(2,), pads=((2, 2),), **kw)
    b.mac(volume, "conv", outputs=2, kernel=(2, 3, 2), pads=((1, 0), (0, 0), (0, 1)), **kw)
    compare(b, (variant,), samples=1)


@pytest.mark.parametrize("bits, weight_bits, variant", [(8, 8, "cpu"), (15, 15, "gpu")])
def test_transposed_convolutions(bits, weight_bits, variant):
    b = Build(seed=bits + weight_bits)
    x, line = b.input(bits, 1, 4, 4, 3), b.input(bits, 1, 3, 5)
    kw = {"weight_bits": weight_bits}
    b.mac(x, "conv_transpose", outputs=3, kernel=(2, 2), strides=(2, 2), **kw)
    b.mac(x, "conv_transpose", outputs=5, kernel=(3, 1), strides=(3, 1), extreme=True, **kw)
    b.mac(line, "conv_transpose", outputs=2, kernel=(3,), strides=(3,), **kw)
    b.mac(x, "conv_transpose", outputs=2, kernel=(4, 3), strides=(2, 3), pads=((1, 1), (0, 2)), extra=(1, 2), **kw)
    b.mac(x, "conv_transpose", outputs=4, kernel=(3, 3), strides=(2, 1), dilations=(1, 2), group=2, act="clip", **kw)
    b.mac(x, "conv_transpose", outputs=4, kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 1)), group=4, **kw)
    b.mac(x, "conv_transpose", outputs=8, kernel=(1, 1), strides=(2, 2), group=1, extreme=True, **kw)
    b.mac(x, "conv_transpose", outputs=3, kernel=(1, 2), pads=((0, 0), (1, 1)), **kw)
    b.mac(line, "conv_transpose", outputs=2, kernel=(3,), strides=(2,), pads=((1, 0),), extra=(1,), **kw)
    compare(b, (variant,), samples=1)


@pytest.mark.parametrize("bits, weight_bits", [(8, 8), (15, 8), (15, 15)])
def test_dense_and_diagonal(bits, weight_bits):
    b = Build(seed=bits * weight_bits)
    flat, rows, x = b.input(bits, 1, 40), b.input(bits, 1, 3, 70), b.input(bits, 1, 5, 4, 3)
    kw = {"weight_bits": weight_bits}
    b.mac(flat, "dense", outputs=7, **kw)
    b.mac(rows, "dense", outputs=4, act="leaky", **kw)
    b.mac(rows, "dense", outputs=4, extreme=True, **kw)
    for act in ("none", "relu", "clip", "leaky"):
        b.mac(x, "diagonal", act=act, extreme=act == "clip", **kw)
    b.mac(x, "diagonal", axis=3, extreme=True, **kw)
    b.mac(x, "diagonal", bits=23 - bits, **kw)
    compare(b, ("cpu", "float"))


def test_sixteen_bit_partial_sums_without_multiplier():
    b = Build(seed=520)
    x = b.input(8, 1, 12, 5, 6)
    for k, act in enumerate(("none", "relu", "clip", "leaky", "none", "clip")):
        b.mac(x, "conv", outputs=5, kernel=(3, 3), pads=((1, 1), (0, 0)), post=False, psum=16, act=act, extreme=k > 3)
        b.mac(x, "conv", outputs=12, kernel=(3, 3), group=12, post=False, psum=16, act=act, extreme=k > 3)
        b.mac(x, "diagonal", post=False, psum=16, act=act, extreme=k > 3)
    compare(b)


def test_registers_that_saturate():
    """Sums and biases beyond 32 bits stop at the register's limits, as the contract says."""
    b = Build(seed=32)
    x, wide = b.input(8, 1, 8, 4, 4), b.input(15, 1, 8, 4, 4)
    for t in (x, wide):
        for act in ("none", "clip", "leaky"):
            b.mac(t, "conv", outputs=6, kernel=(3, 3), psum=32, extreme=True, act=act)
            b.mac(t, "conv", outputs=6, kernel=(1, 1), psum=48, n1=True, extreme=True, act=act, weight_bits=15)
            b.mac(t, "diagonal", psum=32, n1=True, extreme=True, act=act, weight_bits=15, post=act == "clip")
    bounds = bound_program(b.program(), b.constants)
    assert bounds.unproven and any(s.value >= 2**31 for _, s in bounds.steps)
    compare(b)


def test_long_sums_are_split():
    """More products than float32 or int32 adds exactly at once."""
    b = Build(seed=7)
    flat = b.input(8, 1, 4096)
    b.mac(flat, "dense", outputs=2)
    b.mac(flat, "dense", outputs=2, weight_bits=15)
    x = b.input(8, 1, 300, 3, 3)
    b.mac(x, "conv", outputs=2, kernel=(3, 3))
    program = b.program()
    steps = choose(program, bound_program(program, b.constants), engine="float32").step
    assert any(m.terms < 4096 for m in steps.values())
    compare(b, ("cpu", "float"))


@pytest.mark.parametrize("bits", [8, 15])
def test_activations(bits):
    b = Build(seed=bits)
    x = b.input(bits, 1, 5, 3, 4)
    for act in ("none", "relu", "clip", "leaky"):
        b.activate(x, act)
        b.activate(x, act, bits=23 - bits)
        b.activate(x, act, extreme=True)
    compare(b)


@pytest.mark.parametrize("bits", [8, 15])
def test_alignments(bits):
    b = Build(seed=bits)
    x, y, other = b.input(bits, 1, 5, 3, 4), b.input(bits, 1, 5, 3, 4), b.input(23 - bits, 1, 5, 3, 4)
    row, column, flat = b.input(bits, 4), b.input(bits, 5, 1, 1), b.input(bits, 1, 1, 3, 1)
    for free in (False, True):
        for op in ("add", "max", "min"):
            b.align(x, y, op=op, free=free, bits=bits)
        b.align(x, y, x, free=free, bits=bits, signs=(1, -1, -1))
        b.align(x, other, free=free, bits=8)
        b.align(other, x, free=free, bits=15, signs=(-1, 1))
        b.align(x, row, free=free, bits=bits)
        b.align(column, x, free=free, bits=bits, signs=(1, -1))
        b.align(column, flat, free=free, bits=bits)
        b.align(x, row, free=free, bits=bits, axis=3)
        for op in ("add", "max"):
            b.align(x, y, op=op, free=free, bits=bits, extreme=True)
    compare(b)


@pytest.mark.parametrize("bits", [8, 15])
def test_products_of_activations(bits):
    b = Build(seed=bits)
    x, y, gate = b.input(bits, 1, 5, 3, 4), b.input(23 - bits, 1, 5, 3, 4), b.input(bits, 1, 5, 1, 1)
    b.mul(x, x, bits)
    b.mul(x, y, 8)
    b.mul(gate, x, 15)
    b.mul(x, x, bits, extreme=True)
    left, right, shared, vector = (
        b.input(bits, 1, 2, 3, 50),
        b.input(bits, 1, 2, 50, 4),
        b.input(bits, 50, 4),
        b.input(bits, 50),
    )
    b.matmul(left, right)
    b.matmul(left, shared, bits=15)
    b.matmul(left, vector)
    b.matmul(vector, right)
    b.matmul(left, right, extreme=True)
    compare(b, ("cpu", "float"))


@pytest.mark.parametrize("bits", [8, 15])
def test_pools(bits):
    b = Build(seed=bits)
    x, line = b.input(bits, 1, 4, 7, 8), b.input(bits, 1, 3, 9)
    for cls in (PoolSum, MaxPool):
        b.pool(cls, x, kernel=(2, 2))
        b.pool(cls, x, kernel=(3, 3), strides=(2, 1), pads=((1, 1), (0, 2)), bits=23 - bits)
        b.pool(cls, x, kernel=(3, 2), strides=(1, 2), dilations=(2, 1), pads=((1, 0), (1, 0)))
        b.pool(cls, line, kernel=(3,), strides=(2,), pads=((1, 1),))
        b.pool(cls, x, axes=(2, 3))
        b.pool(cls, x, axes=(3,), extreme=True)
        b.pool(cls, x, axes=(1,))
        b.pool(cls, x, kernel=(2, 2), extreme=True)
    b.pool(PoolSum, x, axes=(2, 3), mean=False)
    b.pool(PoolSum, x, kernel=(2, 3), mean=False, extreme=True)
    compare(b)


@pytest.mark.parametrize("bits", [8, 15])
def test_movement(bits):
    b = Build(seed=bits)
    x, y, z = b.input(bits, 1, 4, 3, 5), b.input(bits, 1, 2, 3, 5), b.input(23 - bits, 1, 3, 3, 5)
    b.move("reshape", [x], (1, 12, 5), ((1, 12, 5),), bits)
    b.move("reshape", [x], (1, 60), ((1, 60),), bits, in_axes=(1,))
    b.move("transpose", [x], (1, 5, 4, 3), ((0, 3, 1, 2),), bits, axis=2)
    b.move("expand", [b.input(bits, 1, 4, 1, 1)], (1, 4, 3, 2), ((1, 4, 3, 2),), bits)
    b.move("concat", [x, y], (1, 6, 3, 5), ((1,),), bits)
    b.move("concat", [x, y, z], (1, 9, 3, 5), ((1,),), 8, in_axes=(1, 1, None))
    b.move("concat", [x, z], (1, 7, 3, 5), ((1,),), 15, extreme=True)
    b.move("pad", [x], (1, 5, 4, 4), ((0, 1, 2, -1), (0, 0, -1, 0)), bits)
    b.move("slice", [x], (1, 2, 3, 2), ((0, 3, 2, 1), (1, -1, -1, 5), (1, -2, -1, 3)), bits)
    b.move("gather", [x], (1, 4, 4, 5), ((2,), (2, 0, 0, 1)), bits, extreme=True)
    b.table(x, bits)
    b.table(x, 23 - bits)
    compare(b)


def test_shifts_that_change_nothing_keep_the_codes():
    b = Build(seed=1)
    x = b.input(8, 1, 4, 4, 4)
    for y in (b.move("transpose", [x], (1, 4, 4, 4), ((0, 2, 3, 1),)), b.pool(MaxPool, x, kernel=(2, 2))):
        b.constants[y[:-2]]["n"] = np.zeros(1, np.int32)
    program = b.program()
    methods = choose(program, bound_program(program, b.constants))
    assert {m.shift for m in methods.step.values()} == {"none"}
    compare(b)


def test_near_ties():
    """p * m just below, on and above a tie: float32 would round some of them wrongly."""
    b = Build(seed=3)
    x = b.input(15, 1, 64, 1, 1)
    y = b.mac(x, "diagonal", bits=8)
    c = b.constants[y[:-2]]
    m, n = c["m"].astype(np.int64), 26
    code = b.rng.integers(-100, 100, 64) * 2 + 1
    # Bias that brings p * m as close to code * 2**25 as an integer p can, for x = 0; x = +-1 lies beside it.
    c |= {
        "weight": np.ones(64, np.int8),
        "n2": np.full(64, n, np.int32),
        "bias": np.rint(code * 2.0**25 / m).astype(np.int64),
    }
    b.samples = lambda count: {
        x: (np.arange(-2, 3)[:, None, None, None, None] / 512 * np.ones((1, 1, 64, 1, 1))).astype(np.float32)
    }
    compare(b, samples=5)
