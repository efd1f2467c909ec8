"""Rules by element: activations, tables, operands brought together, products."""

from collections.abc import Mapping, Sequence

import numpy as np

from knerex_jax.csim.arithmetic import along, multiply, saturate, shift_right
from knerex_jax.program.primitives import Activate, Align, Mul, Table

Arrays = Mapping[str, np.ndarray]


def activate(i: Activate, x: np.ndarray, constants: Arrays) -> np.ndarray:
    """Rule 2, alone on codes."""

    def channels(name: str) -> np.ndarray:
        return along(constants[name], i.axis, x.ndim)

    match i.act:
        case "relu":
            y = np.maximum(x, 0)
        case "clip":
            y = np.minimum(np.maximum(x, channels("lo")), channels("hi"))
        case "leaky":
            bits = 48 if i.x_bits == 15 else 32
            steep = saturate(shift_right(multiply(x, channels("slope")), channels("slope_shift"), bits), bits)
            y = np.where(x < 0, steep, x)
        case "neg":
            y = -x
        case "abs":
            y = np.abs(x)
    return saturate(shift_right(y, channels("n"), i.bits), i.bits)


def table(i: Table, x: np.ndarray, constants: Arrays) -> np.ndarray:
    """Rule 9: an entry for every code."""
    return constants["table"].astype(np.int64)[x + (1 << (i.x_bits - 1))]


def align(i: Align, operands: Sequence[np.ndarray], constants: Arrays) -> np.ndarray:
    """Rule 3."""
    rank = max(x.ndim for x in operands)
    entered = []
    for k, x in enumerate(operands):
        if i.free:
            x = multiply(x, along(constants["m"][k], i.axis, rank))
        x = shift_right(x, along(constants["n"][k], i.axis, rank), i.psum_bits)
        entered.append(saturate(x, i.psum_bits))
    total = entered[0] * i.signs[0]
    for sign, x in zip(i.signs[1:], entered[1:], strict=True):
        total = {"add": total + sign * x, "max": np.maximum(total, x), "min": np.minimum(total, x)}[i.op]
        total = saturate(total, i.psum_bits)
    return saturate(shift_right(total, along(constants["n_out"], i.axis, rank), i.bits), i.bits)


def mul(i: Mul, a: np.ndarray, b: np.ndarray, constants: Arrays) -> np.ndarray:
    """Rule 4."""
    made = multiply(a, b)
    return saturate(shift_right(made, along(constants["n"], i.axis, made.ndim), i.bits), i.bits)
