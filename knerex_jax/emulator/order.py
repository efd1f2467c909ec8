"""The order of axes inside an instruction: channels last on images, as convolutions read them.

Codes have the axes of ONNX between instructions. An instruction that computes elements or windows of images turns its
operands, computes channels last with constants that lie likewise, and turns its result back; neighbours' turns cancel.
Were only the products computed so, the compiler would move each turn over one operation at a time: an instruction has a
dozen, and every such step is a sweep over the whole program (a chain of 250 nodes: 23 sweeps, half of its compile
time).
"""

import numpy as np
from jax import Array, lax

from knerex_jax.ops.layout import channels_first, channels_last
from knerex_jax.program.primitives import Primitive

_ELEMENTWISE = ("act", "align", "mul", "table")


def is_turned(i: Primitive, rank: int) -> bool:
    """Whether an instruction with a result of this rank computes channels last."""
    if getattr(i, "window", None) is not None:
        return True
    return rank > 3 and (i.rule in _ELEMENTWISE or getattr(i, "kind", None) == "diagonal")


def inside(i: Primitive, *operands: Array) -> list[Array]:
    """Operands of an elementwise instruction in the axes that it computes in: equally many, channels last on images."""
    rank = max(x.ndim for x in operands)
    spread = [x if x.ndim == rank else lax.reshape(x, (1,) * (rank - x.ndim) + x.shape) for x in operands]
    return [channels_last(x) for x in spread] if is_turned(i, rank) else spread


def outside(i: Primitive, made: Array) -> Array:
    """What an instruction computed, in the axes of ONNX."""
    return channels_first(made) if is_turned(i, made.ndim) else made


def turned_constant(values: np.ndarray) -> np.ndarray:
    """A constant that broadcasts against [N, C, *spatial], for [N, *spatial, C]."""
    return np.moveaxis(values, 1, -1)
