"""Methods for the device at hand, each tried against integers before it is trusted.

A bound proves that a sum is exact as long as the library adds it as it says it does. On a CPU the self-test of
`knerex doctor` covers that. The matrix units of other devices differ by shape (another kernel, another order, operands
or sums of fewer bits), so there every signature of a layer (instruction, shapes, method) runs once on extreme and
random codes and is compared with sums in float64, which hold them exactly; a method that differs gives way to the next.
"""

from collections.abc import Mapping
from functools import lru_cache

import jax
import msgspec
import numpy as np

from knerex_jax.emulator.fixed import mac_sums
from knerex_jax.emulator.geometry import arrange_weight, geometry
from knerex_jax.emulator.methods import Engine, Method, Methods, choose
from knerex_jax.emulator.products import batched_dot
from knerex_jax.emulator.stream import samples_at_once
from knerex_jax.errors import PlanError
from knerex_jax.program.bounds import Bounds
from knerex_jax.program.primitives import Mac, MatMul
from knerex_jax.program.program import Program

ENGINES: tuple[Engine, ...] = ("int8", "bfloat16", "float32", "int32")
"""Element types that are multiplied, in order of preference; the last needs no matrix unit."""

_Shapes = tuple[tuple[int, ...], ...]


def methods_here(
    program: Program, bounds: Bounds, backend: str | None = None, *, samples: int | None = None
) -> Methods:
    """The fastest methods that the bounds prove and, off the CPU, a trial confirms.

    Args:
      program: what runs.
      bounds: of the constants it will run with; of several plans, joined.
      backend: whose table of methods is used; default that of the device at hand (`jax.default_backend()`).
      samples: how many run together; default what `samples_at_once` gives.

    Raises:
      PlanError: no method gives the contract's integers on this device.
    """
    backend = backend or jax.default_backend()
    if backend == "cpu":
        return choose(program, bounds, backend)
    tables = [choose(program, bounds, backend, engine=engine).step for engine in ENGINES]
    count = samples or samples_at_once(program)
    steps = []
    for i in program.instructions:
        candidates = tuple(dict.fromkeys(table[i.name] for table in tables))
        if isinstance(i, Mac | MatMul) and candidates[0].form not in ("taps", "none"):
            shapes = tuple(program.shapes[t] for t in (*i.inputs, i.output))
            held = next((m for m in candidates if is_exact(_nameless(i), m, shapes, count, backend)), None)
            if held is None:
                raise PlanError(
                    "no method gives exact sums on this device", where=f"instruction {i.name}",
                    fix="run on the CPU (JAX_PLATFORMS=cpu), and report `knerex doctor`",
                )  # fmt: skip
            steps.append((i.name, held))
        else:
            steps.append((i.name, candidates[0]))
    return Methods(tuple(steps))


def _nameless(i: Mac | MatMul) -> Mac | MatMul:
    """What the sums depend on: layers that differ in names alone are tried once."""
    return msgspec.structs.replace(i, name="trial", nodes=(), inputs=("a", "b")[: len(i.inputs)], output="y")


@lru_cache(maxsize=4096)
def is_exact(i: Mac | MatMul, method: Method, shapes: _Shapes, count: int, backend: str) -> bool:
    """Whether the sums of products of an instruction are exact on the device at hand.

    Args:
      i: the instruction; its weights are drawn, within what the method's number of terms stands for.
      method: how it is computed.
      shapes: of its operands and its output, one sample each.
      count: samples in one step.
      backend: only tells results of different devices apart.
    """
    rng = np.random.default_rng(0)
    draws = ((rng, False), (rng, True))
    if isinstance(i, MatMul):
        product = jax.jit(jax.vmap(lambda a, b: dict(batched_dot(a, b, i.x_bits, method))))
        for rng, low in draws:
            a, b = (_codes(rng, (count, *s), bits, low) for s, bits in zip(shapes[:-1], i.x_bits, strict=True))
            found = _total(product(a, b))
            if not np.array_equal(found, np.matmul(a.astype(np.float64), b.astype(np.float64)).reshape(found.shape)):
                return False
        return True
    held = arrange_weight(_weight(rng, i, method, shapes[0], shapes[-1]), i, shapes[0])
    step = jax.jit(jax.vmap(lambda w, x: dict(mac_sums(i, method, {"weight": w}, x)), (None, 0)))
    batches = (_codes(rng, (count, *shapes[0]), i.x_bits, low) for rng, low in draws)
    return all(np.array_equal(_total(step(held, x)), _expected(i, held, x)) for x in batches)


def _codes(rng: np.random.Generator, shape: tuple[int, ...], bits: int, low: bool) -> np.ndarray:
    """Random codes, or the lower limit everywhere: some sums are then as large as they can be."""
    top = 1 << (bits - 1)
    codes = np.full(shape, -top) if low else rng.integers(-top, top, shape)
    return codes.astype(np.int8 if bits == 8 else np.int16)


def _weight(rng: np.random.Generator, i: Mac, method: Method, x: tuple[int, ...], y: tuple[int, ...]) -> np.ndarray:
    """Weights as large as the method's bound permits; the first outputs add up to the largest sums."""
    if i.kind == "dense":
        shape = (y[-1], x[-1])
    else:
        assert i.window is not None, "only windows and dense layers have sums"
        given, made = (x[1], y[1] // i.group) if i.kind == "conv_transpose" else (y[1], x[1] // i.group)
        shape = (given, made, *i.window.kernel)
    terms = int(np.prod(shape)) // y[-1 if i.kind == "dense" else 1]
    most = (1 << (i.weight_bits - 1)) - 1
    if method.engine in ("bfloat16", "float32") and terms > 2**24 // 2**14 - 1 and method.terms >= terms:
        most = max(2**24 // (terms << (i.x_bits - 1)), 1)  # the licence was a bound on the sum, not the number of terms
    weight = rng.integers(-most, most + 1, shape)
    weight[0], weight[-1] = most, -most
    return weight.astype(np.int8 if i.weight_bits <= 8 else np.int16)


def _total(sums: Mapping[int, jax.Array]) -> np.ndarray:
    return np.sum([np.ldexp(np.asarray(a).astype(np.float64), shift) for shift, a in sums.items()], axis=0)


def _expected(i: Mac, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same sums in float64 from the arranged weight; x [count, *sample shape]."""
    if i.kind == "dense":
        return x.astype(np.float64) @ weight.astype(np.float64)
    rank = x.ndim - 1
    samples = x.reshape(-1, *x.shape[2:]) if rank > 3 else x.reshape(-1, x.shape[2], 1, x.shape[3])
    g = geometry(i, x.shape[1:], weight.shape[0] * weight.shape[-1])
    padded = np.moveaxis(samples, 1, -1).astype(np.float64)
    for axis, (begin, end, between) in enumerate(g.pads, start=1):
        lines = np.moveaxis(padded, axis, 0)
        apart = np.zeros((len(lines) + (len(lines) - 1) * between, *lines.shape[1:]))
        apart[:: between + 1] = lines
        apart = np.pad(apart, [(max(begin, 0), max(end, 0)), *[(0, 0)] * (apart.ndim - 1)])
        padded = np.moveaxis(apart[max(-begin, 0) : len(apart) - max(-end, 0)], 0, axis)
    padded = np.pad(padded, [*[(0, 0)] * (padded.ndim - 1), (0, g.missing)])
    blocks = np.split(padded, g.blocks, axis=-1)
    parts = []
    for b, block in enumerate(blocks):
        total = np.zeros((*block.shape[:1], *g.out, weight.shape[-1]))
        for tap in np.ndindex(*g.kernel):
            places = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, g.dilations, g.out, g.strides, strict=True)
            )
            total += block[(slice(None), *places)] @ weight[(b, *tap)].astype(np.float64)
        parts.append(total)
    y = np.concatenate(parts, axis=-1)
    y = y if rank > 3 else y[:, 0]
    return y.reshape(len(x), -1, *y.shape[1:])
