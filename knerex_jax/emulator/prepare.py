"""The integers of a program as the emulator reads them: arrays of at most 32 bits, in the layouts of its functions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from knerex_jax.emulator.geometry import arrange_weight
from knerex_jax.emulator.host import device_dtype
from knerex_jax.emulator.order import is_turned, turned_constant
from knerex_jax.fixedpoint.arith import exact_shr, multiplier_constants, shift_constants, split48
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Const,
    Interp,
    Island,
    Lookup,
    Mac,
    Move,
    PoolSum,
    Primitive,
    Table,
)
from knerex_jax.program.program import CodeTensor, Constants, Program

Params = dict[str, dict[str, Any]]
"""instruction or "tensor:" + input -> constant -> array (or a dictionary of arrays for one shift or multiplication)."""

_Types = Mapping[str, CodeTensor]
_Integers = Mapping[str, np.ndarray]


def prepare(program: Program, constants: Constants) -> Params:
    """Everything in the emulator that depends on radix or scale, as a pytree of NumPy arrays.

    Two plans of one program give trees of equal structure, shapes and types: one compiled function serves both, and
    stacked leaf by leaf they can be vmapped over. No array has more than 32 bits, so no setting of the caller matters.

    Args:
      program: what runs.
      constants: instruction name -> its integers; "tensor:<input>" -> factor.
    """
    types = program.tensor
    params: Params = {}
    for i in program.instructions:
        if isinstance(i, Island):
            params[i.name] = _island(i, constants, types)
        else:
            params[i.name] = _RULES[i.rule](i, constants[i.name], types)
    for t in program.inputs:
        if t in types:
            params[f"tensor:{t}"] = {"factor": _boundary(t, "factor", constants, types)}
    return params


def _boundary(tensor: str, key: str, constants: Constants, types: _Types) -> np.ndarray:
    """Factor or inverse of a tensor, float32, broadcastable against it."""
    values = np.asarray(constants[f"tensor:{tensor}"][key], np.float32)
    return _along(values, types[tensor].axis, types[tensor].shape)


def _island(i: Island, constants: Constants, types: _Types) -> dict[str, Any]:
    return {
        "inverse": {t: _boundary(t, "inverse", constants, types) for t in i.inputs if t in types},
        "factor": {t: _boundary(t, "factor", constants, types) for t in i.outputs if t in types},
        "constant": {t: np.asarray(v).astype(device_dtype(v.dtype.name)) for t, v in constants[i.name].items()},
    }


def _along(values: np.ndarray, axis: int | None, shape: tuple[int, ...]) -> np.ndarray:
    """Per-channel values shaped to broadcast along `axis` of `shape`; one per channel even where all are equal."""
    if axis is None:
        assert values.size == 1, "several values without a channel axis"
        return values.reshape((1,) * len(shape))
    return np.broadcast_to(values, (shape[axis],)).reshape([-1 if k == axis else 1 for k in range(len(shape))])


def _along_output(i: Primitive, types: _Types, values: np.ndarray) -> np.ndarray:
    """Per-channel values in the axes that the instruction computes in."""
    shape = types[i.output].shape
    return _inside(i, _along(np.asarray(values), i.axis, shape))


def _inside(i: Primitive, values: np.ndarray) -> np.ndarray:
    """A constant of the rank of its result in the axes that the instruction computes in, leading ones left out."""
    values = turned_constant(values) if is_turned(i, values.ndim) else values
    leading = next((k for k, n in enumerate(values.shape) if n != 1), values.ndim)
    return values.reshape(values.shape[leading:])


def _shift(i: Primitive, c: _Integers, types: _Types) -> dict[str, Any]:
    """Primitives whose only constant is the final shift."""
    return {"n": shift_constants(_along_output(i, types, c["n"]))}


def _mac(i: Mac, c: _Integers, types: _Types) -> dict[str, Any]:
    n1, n2 = (_along_output(i, types, c[k]) for k in ("n1", "n2"))
    weight = arrange_weight(np.asarray(c["weight"]), i, types[i.inputs[0]].shape)
    made: dict[str, Any] = {
        "weight": _along_output(i, types, weight) if i.kind == "diagonal" else weight,
        "bias": _bias(i, c["bias"], types),
        "n1": shift_constants(n1),
    }
    m = _along_output(i, types, c["m"]) if "m" in c else np.ones_like(n2)
    made["out"] = multiplier_constants(m, n2) if "m" in c else shift_constants(n2)
    return made | _act(i, c, types, m, n2)


def prepare_bias(i: Mac, bias: np.ndarray, program: Program) -> np.ndarray:
    """What `prepare` makes of the bias of a mac."""
    return _bias(i, bias, program.tensor)


def _bias(i: Mac, bias: np.ndarray, types: _Types) -> np.ndarray:
    along = _along_output(i, types, bias)
    return split48(along) if i.psum_bits > 32 else along.astype(np.int32)


def _act(i: Mac | Activate, c: _Integers, types: _Types, m: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
    """A clip as limits on the output codes (what follows it is monotonic, so it commutes); a slope as it is."""
    if i.act == "clip":
        low, high = data_limits(i.bits)
        ends = {k: np.asarray(_along_output(i, types, c[k]), np.int64) * m for k in ("lo", "hi")}
        return {k: np.clip(exact_shr(p, n), low, high).astype(np.int32) for k, p in ends.items()}
    if i.act == "leaky":
        slope, shift = (_along_output(i, types, c[k]) for k in ("slope", "slope_shift"))
        return {"slope": slope.astype(np.int32), "slope_shift": shift.astype(np.int32)}
    if i.act == "hard_swish":
        return {k: _along_output(i, types, c[k]).astype(np.int32) for k in ("three", "six")}
    return {}


def _activate(i: Activate, c: _Integers, types: _Types) -> dict[str, Any]:
    n = _along_output(i, types, c["n"])
    return _shift(i, c, types) | _act(i, c, types, np.ones_like(n), n)


def _align(i: Align, c: _Integers, types: _Types) -> dict[str, Any]:
    operands = []
    for k in range(len(i.inputs)):
        made = shift_constants(_along_output(i, types, c["n"][k]))
        if i.free:
            made["m"] = _along_output(i, types, c["m"][k]).astype(np.int32)
        operands.append(made)
    return {"operands": operands, "n": shift_constants(_along_output(i, types, c["n_out"]))}


def _poolsum(i: PoolSum, c: _Integers, types: _Types) -> dict[str, Any]:
    if not i.mean:
        return _shift(i, c, types)
    rank = len(types[i.output].shape)
    e, m = (np.asarray(c[k], np.int64) for k in ("e", "m"))
    lead = (1,) * (rank - e.ndim)
    e, m = (_inside(i, v.reshape(*lead, *v.shape)) for v in (e, m))
    return {"out": multiplier_constants(m, _along_output(i, types, np.asarray(c["n"], np.int64)) + e)}


def _move(i: Move, c: _Integers, types: _Types) -> dict[str, Any]:
    if "n_in" not in c:
        return _shift(i, c, types)
    assert i.in_axes is not None, f"{i.name}: n_in without in_axes"
    rows = []
    for t, axis, row in zip(i.inputs, i.in_axes, np.asarray(c["n_in"]), strict=True):
        shape = types[t].shape
        # Rows are as long as the operand with most channels.
        rows.append(
            shift_constants(_along(row[:1] if axis is None or len(row) == 1 else row[: shape[axis]], axis, shape))
        )
    return {"n_in": rows}


def _interp(i: Interp, c: _Integers, types: _Types) -> dict[str, Any]:
    names = [f"{key}{k}" for k in range(len(i.axes)) for key in ("index", "weight")]
    taps = {name: np.asarray(c[name], np.int32) for name in names}
    return _shift(i, c, types) | taps


def _held(i: Const | Lookup, c: _Integers, types: _Types) -> dict[str, Any]:
    return {"codes": np.asarray(c["codes"]).astype(np.int8 if i.bits == 8 else np.int16)}


def _table(i: Table, c: _Integers, types: _Types) -> dict[str, Any]:
    return {"table": np.asarray(c["table"]).astype(np.int8 if i.bits == 8 else np.int16)}


_RULES: dict[str, Callable[..., dict[str, Any]]] = {
    "mac": _mac,
    "act": _activate,
    "align": _align,
    "mul": _shift,
    "matmul": _shift,
    "poolsum": _poolsum,
    "maxpool": _shift,
    "move": _move,
    "interp": _interp,
    "const": _held,
    "lookup": _held,
    "table": _table,
}
