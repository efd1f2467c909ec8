"""Resize in fixed point: nearest as a move, linear and cubic as one exact weighted sum. Section 3, rules 7 and 8."""

from dataclasses import replace

import numpy as np

from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import Built, PlanView, ProgramView, moved
from knerex_jax.ops.constraint import Constraint, Layer, Same
from knerex_jax.ops.move import move_program, taken
from knerex_jax.ops.resize import RESIZE, ResizeAttrs, axis_nearest, axis_outside, axis_plans, axis_taps, is_resized
from knerex_jax.ops.sums import radix_drop
from knerex_jax.program.primitives import Interp

_WEIGHT_BITS = {8: 7, 15: 14}
"""Data width -> fraction bits of the weights of one axis."""


def resize_no_rule(node: Node, model: Model) -> str | None:
    """Why a Resize has no integer rule."""
    a: ResizeAttrs = node.attrs
    if a.antialias:
        return "Resize with antialias"
    plans = axis_plans(a, model.graph.shape(node.inputs[0]))
    if any(axis_outside(a, p).any() for p in plans) and (a.extrapolation_value or a.mode == "nearest"):
        return "Resize that extrapolates"
    return None


def _resized(a: ResizeAttrs, shape: tuple[int, ...]) -> list[int]:
    return [axis for axis, plan in enumerate(axis_plans(a, shape)) if is_resized(a, plan)]


def _places(a: ResizeAttrs, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Arguments of a gather: the axes that change, and where each of their places comes from."""
    axes, plans = _resized(a, shape), axis_plans(a, shape)
    return tuple(axes), *(tuple(axis_nearest(a, plans[axis]).tolist()) for axis in axes)


def resize_facts(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    """Scales stay with their channels; a channel axis that is interpolated has one scale."""
    a, x, y = node.attrs, node.inputs[0], node.outputs[0]
    shape = view.shape(x)
    if a.mode == "nearest":
        return moved(node, view, lambda v: np.asarray(v)[np.ix_(*taken(_places(a, shape), shape))])
    mixed = (Layer(x), Layer(y)) if view.axes[x] in _resized(a, shape) else ()
    # Cubic weights reach beyond the range of the input, linear ones do not.
    return (*mixed, Same(y, (x,), within=a.mode == "linear"))


def integer_taps(weights: np.ndarray, bits: int) -> np.ndarray:
    """int32 weights [out, taps] that sum to 2**bits in every row: the largest takes up what rounding left."""
    one = 1 << bits
    codes = np.rint(weights * one).astype(np.int64)
    rows = np.arange(len(codes))
    inside = weights.any(axis=1)  # a row of zeros stands for a place outside, which holds 0
    codes[rows, codes.argmax(axis=1)] += np.where(inside, one - codes.sum(axis=1), 0)
    return codes.astype(np.int32)


def resize_program(node: Node, view: ProgramView) -> Built:
    """`move` for nearest, else `interp`."""
    a, x, y = node.attrs, node.inputs[0], node.outputs[0]
    shape = view.shape(x)
    if a.mode == "nearest":
        return move_program(node, view, "gather", _places(a, shape))
    axes, plans, fx = _resized(a, shape), axis_plans(a, shape), view.formats[x]
    bits = _WEIGHT_BITS[fx.bits]
    constants: dict[str, np.ndarray] = {}
    for k, axis in enumerate(axes):
        index, weights = axis_taps(a, plans[axis])
        weights = np.where(axis_outside(a, plans[axis])[:, None], 0.0, weights)
        constants |= {f"index{k}": index.astype(np.int32), f"weight{k}": integer_taps(weights, bits)}
    constants["n"] = check_shift(len(axes) * bits + radix_drop(node, view), node.name, "the output")
    instruction = Interp(
        name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=view.formats[y].bits,
        axis=view.axis(y, (x,)), axes=tuple(axes), x_bits=fx.bits,
    )  # fmt: skip
    return ((instruction, constants),)


OPS = (replace(RESIZE, constrain=resize_facts, to_program=resize_program, no_rule=resize_no_rule),)
