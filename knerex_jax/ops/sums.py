"""Shifts and multipliers of reductions: shared by pooling and Reduce operators."""

import numpy as np

from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import ProgramView


def radix_drop(node: Node, view: ProgramView) -> np.ndarray:
    """r_x - r_y per output channel, int64 [C] or [1]."""
    x, y = view.formats[node.inputs[0]], view.formats[node.outputs[0]]
    return x.radix.astype(np.int64) - y.radix


def reduction_shift(node: Node, view: ProgramView) -> np.ndarray:
    """The shift that takes a sum or maximum to the output's radix."""
    return check_shift(radix_drop(node, view), node.name, "the output")


def mean_integers(node: Node, view: ProgramView, counts: np.ndarray) -> dict[str, np.ndarray]:
    """m, e and n of a mean over `counts` inputs: m ~ 2**(15 + e) / count, and the total shift is n + e."""
    if (counts == counts.flat[0]).all():
        counts = counts.reshape(-1)[:1].reshape((1,) * counts.ndim)
    e = np.frexp(counts.astype(np.float64))[1].astype(np.int64) - 1
    m = np.rint(np.ldexp(1.0, 15 + e) / counts).astype(np.int64)
    full = m == 1 << 15
    n = 15 + radix_drop(node, view)
    shift = n[..., None] + (e - full).reshape(-1)
    check_shift(shift, node.name, "the mean")
    return {
        "m": np.where(full, 1 << 14, m).astype(np.int32),
        "e": (e - full).astype(np.int32),
        "n": n.astype(np.int32),
    }
