"""Reductions over named axes."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import Built, PlanView, ProgramView
from knerex_jax.ops.constraint import Constraint, Layer, Same
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.sums import mean_integers, reduction_shift
from knerex_jax.program.primitives import MaxPool, PoolSum


@dataclass(frozen=True)
class ReduceAttrs:
    """axes None means all axes (or none, with noop_with_empty_axes)."""

    axes: tuple[int, ...] | None = None
    keepdims: int = 1
    noop_with_empty_axes: int = 0


def reduced_axes(a: ReduceAttrs, rank: int) -> tuple[int, ...]:
    """The reduced axes, sorted and non-negative."""
    if not a.axes:
        return () if a.noop_with_empty_axes else tuple(range(rank))
    return tuple(sorted(i % rank for i in a.axes))


def _float(reduce: Any) -> Any:
    return lambda a, x: reduce(x, axis=reduced_axes(a, x.ndim), keepdims=bool(a.keepdims))


def _constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    x, y = node.inputs[0], node.outputs[0]
    axes = reduced_axes(node.attrs, len(view.shape(x)))
    facts: list[Constraint] = []
    if view.axes[x] in axes:
        # Codes of all channels are combined, so they must mean the same.
        facts += [Layer(x), Layer(y)]
    return (*facts, Same(y, (x,), within=node.op_type != "ReduceSum"))


def _to_program(node: Node, view: ProgramView) -> Built:
    x, y = node.inputs[0], node.outputs[0]
    axes = reduced_axes(node.attrs, len(view.shape(x)))
    assert node.attrs.keepdims, f"{node.name}: keepdims=0 is split off by the passes"
    common: dict[str, Any] = dict(
        name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=view.formats[y].bits, axis=view.axis(y, (x,)),
        axes=axes, x_bits=view.formats[x].bits,
    )  # fmt: skip
    if node.op_type == "ReduceMax":
        return ((MaxPool(**common), {"n": reduction_shift(node, view)}),)
    if node.op_type == "ReduceSum":
        return ((PoolSum(**common, mean=False), {"n": reduction_shift(node, view)}),)
    count = np.prod([view.shape(x)[i] for i in axes], dtype=np.int64)
    rank_left = len(view.shape(y)) - 2
    return ((PoolSum(**common), mean_integers(node, view, np.full((1,) * rank_left, count))),)


def _op(op_type: str, reduce: Any, **rules: Any) -> OpDef:
    return OpDef(op_type=op_type, attrs=ReduceAttrs, static_inputs=((1, "axes"),), to_float=_float(reduce), **rules)


REDUCE_MEAN = _op("ReduceMean", jnp.mean, constrain=_constrain, to_program=_to_program)
REDUCE_SUM = _op("ReduceSum", jnp.sum, constrain=_constrain, to_program=_to_program)
REDUCE_MAX = _op("ReduceMax", jnp.max, constrain=_constrain, to_program=_to_program)

OPS = (REDUCE_MEAN, REDUCE_SUM, REDUCE_MAX)
