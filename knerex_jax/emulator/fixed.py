"""The emulator: a fixed program as a pure JAX function on codes, one small function per primitive.

Each function takes (instruction, method, its parameters, operands) and gives the output codes; what it must compute is
the instruction's docstring, how is `method`. Arrays have the program's shapes and layout. Nothing here is compiled or
batched: the caller does `jax.jit(jax.vmap(fn, (None, 0)))`, and `jax.vmap(fn, (0, None))` over stacked plans.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.emulator.host import island_outputs
from knerex_jax.emulator.methods import Method, Methods, Shift
from knerex_jax.emulator.order import inside
from knerex_jax.emulator.outline import computed
from knerex_jax.emulator.prepare import Params, prepare
from knerex_jax.emulator.products import (
    Sums,
    batched_dot,
    combine,
    conv_sums,
    dense_sums,
)
from knerex_jax.fixedpoint.arith import (
    add_shr,
    code_dtype,
    exact64,
    join48,
    multiply_shr,
    multiply_shr64,
    prescale,
    saturate,
    saturate_psum,
    shr,
    to_int64,
)
from knerex_jax.fixedpoint.lanes import Operand, add, cast, clamp, larger, multiply, shift_left, smaller, spread
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.ops.layout import channels_last
from knerex_jax.ops.places import taken
from knerex_jax.ops.window import under_taps
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Const,
    Instruction,
    Interp,
    Island,
    Lookup,
    Mac,
    MatMul,
    MaxPool,
    Move,
    Mul,
    PoolSum,
    Primitive,
    Table,
    Window,
)
from knerex_jax.program.program import Program

__all__ = [
    "Params",
    "accumulator",
    "finish_mac",
    "lower_fixed",
    "mac_sums",
    "prepare",
    "quantize_input",
    "run_instruction",
]

_P = Mapping[str, Any]


def lower_fixed(
    program: Program, methods: Methods, taps: tuple[str, ...] | None = None
) -> Callable[[Params, Mapping[str, Array]], dict[str, Array]]:
    """The program as a pure function; not compiled, not batched.

    Args:
      program: what runs.
      methods: `choose(program, bounds, backend)` for bounds of all constants it will run with.
      taps: tensors to return; None for the outputs.

    Returns:
      fn(params, inputs) -> {tensor: codes}. params: from `prepare`. inputs: name -> float32 array of one sample, shaped
      like the program's tensor. Codes are int8 (8 bits) or int16 (15 bits), shaped like the program's tensors.
    """
    wanted = program.outputs if taps is None else taps
    readers = Counter(t for i in program.instructions for t in i.inputs)

    def fn(params: Params, inputs: Mapping[str, Array]) -> dict[str, Array]:
        codes = {
            t: quantize_input(inputs[t], params[f"tensor:{t}"]["factor"], program.tensor[t].bits)
            for t in program.inputs
            if t in program.tensor
        }
        codes |= {t: jnp.asarray(inputs[t]) for t in program.inputs if t in program.exact}
        for i in program.instructions:
            codes |= run_instruction(i, program, methods.step[i.name], params[i.name], codes, readers[i.output] > 1)
        return {t: codes[t] for t in wanted}

    return fn


def run_instruction(
    i: Instruction, program: Program, method: Method, c: _P, codes: Mapping[str, Array], shared: bool = False
) -> dict[str, Array]:
    """The tensors that one instruction makes; `shared`: several instructions read its output, compute it once."""
    if isinstance(i, Island):
        return dict(zip(i.outputs, island_outputs(i, program, c, codes), strict=True))
    operands = [codes[t] for t in i.inputs]
    return {i.output: computed(_RULES[i.rule], i, method, c, operands, shared=shared)}


def quantize_input(x: Array, factor: Array, bits: int) -> Array:
    """Codes of float32 values: saturate(rint(x * factor)), one float32 product, ties to even.

    NaN has no code; whoever accepts the data rejects it there. Source: section 3, boundary.
    """
    low, high = data_limits(bits)
    rounded = lax.round(multiply(jnp.asarray(x, jnp.float32), factor), lax.RoundingMethod.TO_NEAREST_EVEN)
    return saturate(cast(lax.clamp(np.float32(low), rounded, np.float32(high)), jnp.int32), bits)


def _integers(wide: bool) -> Any:
    return exact64() if wide else nullcontext()


def _shr(value: Array, n: _P, form: Shift) -> Array:
    if form == "none":
        return value
    return add_shr(value, n["right"], n["round"]) if form == "add" else shr(value, n["n"])


# mac and act


def _mac(i: Mac, method: Method, c: _P, x: Array) -> Array:
    return finish_mac(i, method, c, mac_sums(i, method, c, x))


def mac_sums(i: Mac, method: Method, c: _P, x: Array) -> Sums:
    """The sums of products of a mac, int32, in the axes it computes in; only the weights and the codes enter."""
    return _SUMS[i.kind](x, c["weight"], i, method)


def accumulator(i: Mac, method: Method, c: _P, sums: Sums) -> Array:
    """The value p of a mac, bias included, before its activation, in the axes it computes in (`order.outside`).

    int32, or int64 where the method is wide, inside `exact64()` then.
    """
    p = _shr(combine(sums, wide=method.wide), c["n1"], method.entry)
    p = _in_register(p, i.psum_bits, c) if method.saturates else p
    p = add(p, _bias(i, c["bias"], method.wide))
    return _in_register(p, i.psum_bits, c) if method.saturates else p


def finish_mac(i: Mac, method: Method, c: _P, sums: Sums) -> Array:
    """Output codes of a mac from its sums of products, in the same axes."""
    with _integers(method.wide):
        p = accumulator(i, method, c, sums)
        p = _leak(p, c, i.psum_bits) if i.act == "leaky" else p
        p = _hard_swish(p, c) if i.act == "hard_swish" else p
        return _limited(i, c, _scaled(p, i, method, c["out"]))


def _bias(i: Mac, bias: Array, wide: bool) -> Array:
    if i.psum_bits > 32:
        return join48(bias, wide)
    return to_int64(bias) if wide else bias


def _scaled(p: Array, i: Mac | PoolSum, method: Method, c: _P) -> Array:
    """shr(p * m, n), or shr(p, n) where there is no multiplier."""
    if "m" not in c:
        return shr(p, c["n"])
    if method.wide:
        return multiply_shr64(p, c["m"], c["n"])
    p = prescale(p, c["pre"]) if method.scale == "presplit" else p
    return multiply_shr(p, c["m"], c["round"], c["right"])


def _hard_swish(p: Array, c: _P) -> Array:
    """The product of p and min(max(p + 3, 0), 6), with 3 and 6 in units of p."""
    return multiply(p, clamp(add(p, cast(c["three"], p.dtype)), 0, cast(c["six"], p.dtype)))


def _leak(p: Array, c: _P, bits: int) -> Array:
    """The negative side times the slope, saturated to `bits`; p and p * slope fit its type."""
    scaled = _in_register(shr(multiply(p, cast(c["slope"], p.dtype)), c["slope_shift"]), bits, c)
    return lax.select(lax.lt(p, cast(np.zeros((), np.int32), p.dtype)), spread(scaled, p.shape), p)


def _in_register(value: Array, bits: int, c: _P) -> Array:
    """Limits partial sums to the instruction's register, or to the one that its parameters state (`emulator.wide`)."""
    if "register" not in c:
        return saturate_psum(value, bits)
    held = cast(smaller(c["register"], 8 * value.dtype.itemsize), value.dtype)
    low = shift_left(np.asarray(-1, value.dtype), add(held, -1))
    return clamp(value, low, lax.bitwise_not(low))


def _codes(value: Array, i: Primitive, c: _P) -> Array:
    """Output codes: limited to the instruction's width, or to the limits that its parameters state."""
    if "limits" not in c:
        return saturate(value, i.bits)
    low, high = (cast(lax.index_in_dim(c["limits"], k, 0, keepdims=False), value.dtype) for k in (0, 1))
    return cast(clamp(value, low, high), code_dtype(i.bits))


def _limited(i: Mac | Activate, c: _P, y: Array) -> Array:
    """Output codes: saturated, and within the codes that a fused activation lets through."""
    low, high = data_limits(i.bits)
    ends: tuple[Operand, Operand] = (0 if i.act == "relu" else low, high)
    if i.act == "clip":
        ends = cast(c["lo"], y.dtype), cast(c["hi"], y.dtype)
    y = clamp(y, *ends)
    return _codes(y, i, c) if "limits" in c else cast(y, code_dtype(i.bits))


_SUMS: dict[str, Callable[..., Sums]] = {
    "conv": conv_sums,
    "conv_transpose": conv_sums,
    "dense": dense_sums,
    "diagonal": lambda x, weight, i, method: [(0, multiply(cast(inside(i, x)[0], jnp.int32), weight))],
}


def _activate(i: Activate, method: Method, c: _P, x: Array) -> Array:
    x = cast(inside(i, x)[0], jnp.int32)
    x = _leak(x, c, i.x_bits) if i.act == "leaky" else x
    x = {"neg": lax.neg, "abs": lax.abs}.get(i.act, lambda x: x)(x)
    return _limited(i, c, _shr(x, c["n"], method.shift))


# Combinations of operands


def _align(i: Align, method: Method, c: _P, *xs: Array) -> Array:
    with _integers(method.wide):
        total = None
        for x, k, sign in zip(inside(i, *xs), c["operands"], i.signs, strict=True):
            v = cast(x, jnp.int32)
            v = multiply(v, k["m"]) if i.free else v
            v = _shr(to_int64(v) if method.wide else v, k, method.entry)
            v = _in_register(v, i.psum_bits, c) if method.saturates else v
            v = -v if sign < 0 else v
            total = v if total is None else _COMBINE[i.op](total, v)
        assert total is not None
        total = _in_register(total, i.psum_bits, c) if method.saturates else total
        return _codes(_shr(total, c["n"], method.shift), i, c)


_COMBINE: dict[str, Callable[[Array, Array], Array]] = {"add": add, "max": larger, "min": smaller}


def _mul(i: Mul, method: Method, c: _P, a: Array, b: Array) -> Array:
    a, b = (cast(x, jnp.int32) for x in inside(i, a, b))
    return _codes(_shr(multiply(a, b), c["n"], method.shift), i, c)


def _matmul(i: MatMul, method: Method, c: _P, a: Array, b: Array) -> Array:
    sums = batched_dot(a, b, i.x_bits, method)
    with _integers(method.wide):
        return _codes(_shr(combine(sums, wide=method.wide), c["n"], method.shift), i, c)


# Reductions over windows or axes


def _windows(x: Array, w: Window, fill: int) -> Iterator[Array]:
    """Elements under each tap of the window, channels last; padding holds `fill`."""
    x = channels_last(x)
    config = [(0, 0, 0), *((b, e, 0) for b, e in w.pads), (0, 0, 0)]
    return under_taps(lax.optimization_barrier(lax.pad(x, np.asarray(fill, x.dtype), config)), w)


def _poolsum(i: PoolSum, method: Method, c: _P, x: Array) -> Array:
    if i.window is None:
        total = jnp.sum(x, axis=i.axes, keepdims=True, dtype=jnp.int32)
    else:
        total = None
        for tap in _windows(x, i.window, 0):
            total = cast(tap, jnp.int32) if total is None else lax.add(total, cast(tap, jnp.int32))
        assert total is not None
    assert not method.wide, f"{i.name}: more than 2**17 codes in one sum"
    return _codes(_scaled(total, i, method, c["out"]) if i.mean else _shr(total, c["n"], method.shift), i, c)


def _maxpool(i: MaxPool, method: Method, c: _P, x: Array) -> Array:
    if i.window is None:
        most = (jnp.min if i.least else jnp.max)(x, axis=i.axes, keepdims=True)
    else:
        most = None
        for tap in _windows(x, i.window, data_limits(i.x_bits)[0]):
            most = tap if most is None else lax.max(most, tap)
        assert most is not None
    return _recode(most, i, method, c, i.x_bits)


# Movement and tables


def _recode(x: Array, i: Primitive, method: Method, c: _P, bits: int) -> Array:
    """Codes of `bits` shifted and saturated to the output's width; unchanged codes stay as they are stored."""
    if method.shift == "none" and bits == i.bits and "limits" not in c:
        return x
    return _codes(_shr(cast(x, jnp.int32), c["n"], method.shift), i, c)


def _move(i: Move, method: Method, c: _P, *xs: Array) -> Array:
    if "n_in" in c:
        if method.entry != "none" or any(b != i.bits for b in i.x_bits) or "limits" in c:
            xs = tuple(
                _codes(_shr(cast(x, jnp.int32), n, method.entry), i, c) for x, n in zip(xs, c["n_in"], strict=True)
            )
        return _MOVES[i.kind](i.args, *xs)
    kind = jnp.int8 if max(i.x_bits) == 8 else jnp.int16
    return _recode(_MOVES[i.kind](i.args, *(cast(x, kind) for x in xs)), i, method, c, max(i.x_bits))


def _slice(args: tuple[tuple[int, ...], ...], x: Array) -> Array:
    return x[tuple(slice(b, None if s < 0 and e < 0 else e, s) for b, e, s in zip(*args, strict=True))]


_MOVES: dict[str, Callable[..., Array]] = {
    "reshape": lambda args, x: lax.reshape(x, args[0]),
    "transpose": lambda args, x: lax.transpose(x, args[0]),
    "expand": lambda args, x: jnp.broadcast_to(x, args[0]),
    "concat": lambda args, *xs: lax.concatenate(xs, args[0][0]),
    "pad": lambda args, x: lax.pad(x, np.zeros((), x.dtype), [(b, e, 0) for b, e in zip(*args, strict=True)]),
    "slice": _slice,
    "gather": lambda args, x: taken(x, args[1:], args[0]),
}


def _interp(i: Interp, method: Method, c: _P, x: Array) -> Array:
    with _integers(method.wide):
        total = to_int64(x) if method.wide else x.astype(jnp.int32)
        for k, axis in enumerate(i.axes):
            index, weight = c[f"index{k}"], c[f"weight{k}"].astype(total.dtype)
            spread = [-1 if a == axis else 1 for a in range(total.ndim)]
            taps = [
                jnp.take(total, index[:, tap], axis=axis, mode="clip") * weight[:, tap].reshape(spread)
                for tap in range(index.shape[1])
            ]
            total = functools.reduce(jnp.add, taps)
        return _codes(_shr(total, c["n"], method.shift), i, c)


def _const(i: Const, method: Method, c: _P) -> Array:
    return c["codes"]


def _lookup(i: Lookup, method: Method, c: _P, x: Array) -> Array:
    rows = c["codes"].shape[i.at]
    return jnp.take(c["codes"], jnp.where(x < 0, x + rows, x).astype(jnp.int32), axis=i.at, mode="clip")


def _table(i: Table, method: Method, c: _P, x: Array) -> Array:
    index = add(cast(inside(i, x)[0], jnp.int32), -data_limits(i.x_bits)[0])
    return c["table"].at[index].get(mode="promise_in_bounds")


_RULES: dict[str, Callable[..., Array]] = {
    "mac": _mac,
    "act": _activate,
    "align": _align,
    "mul": _mul,
    "matmul": _matmul,
    "poolsum": _poolsum,
    "maxpool": _maxpool,
    "move": _move,
    "interp": _interp,
    "const": _const,
    "lookup": _lookup,
    "table": _table,
}
