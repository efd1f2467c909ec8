"""Reductions over named axes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.graph.ir import Node
from knerex_jax.ops.build import Built, PlanView, ProgramView
from knerex_jax.ops.constraint import Constraint, Layer, Same
from knerex_jax.ops.dtypes import held
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
    return lambda a, x: reduce(x, axis=reduced_axes(a, x.ndim), keepdims=bool(a.keepdims)).astype(x.dtype)


def _max(x: Array, **over: Any) -> Array:
    return jnp.max(x, initial=_extreme(x.dtype, -1), **over)


def _min(x: Array, **over: Any) -> Array:
    return jnp.min(x, initial=_extreme(x.dtype, 1), **over)


def _extreme(dtype: np.dtype, sign: int) -> Any:
    """The largest (sign 1) or smallest value of a type: what remains where nothing is reduced."""
    if jnp.issubdtype(dtype, jnp.floating):
        return sign * np.inf
    if jnp.issubdtype(dtype, jnp.bool_):
        return sign > 0
    return jnp.iinfo(dtype).max if sign > 0 else jnp.iinfo(dtype).min


def _log_sum_exp(x: Array, **over: Any) -> Array:
    wide = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(held(np.float64))
    return jax.nn.logsumexp(wide, **over)


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
    if node.op_type in ("ReduceMax", "ReduceMin"):
        return ((MaxPool(**common, least=node.op_type == "ReduceMin"), {"n": reduction_shift(node, view)}),)
    if node.op_type == "ReduceSum":
        return ((PoolSum(**common, mean=False), {"n": reduction_shift(node, view)}),)
    count = np.prod([view.shape(x)[i] for i in axes], dtype=np.int64)
    rank_left = len(view.shape(y)) - 2
    return ((PoolSum(**common), mean_integers(node, view, np.full((1,) * rank_left, count))),)


def _op(op_type: str, reduce: Any, **rules: Any) -> OpDef:
    return OpDef(op_type=op_type, attrs=ReduceAttrs, static_inputs=((1, "axes"),), to_float=_float(reduce), **rules)


REDUCE_MEAN = _op("ReduceMean", jnp.mean, constrain=_constrain, to_program=_to_program)
REDUCE_SUM = _op("ReduceSum", jnp.sum, constrain=_constrain, to_program=_to_program)
REDUCE_MAX = _op("ReduceMax", _max, constrain=_constrain, to_program=_to_program)

OPS = (
    REDUCE_MEAN,
    REDUCE_SUM,
    REDUCE_MAX,
    _op("ReduceMin", _min, constrain=_constrain, to_program=_to_program),
    _op("ReduceProd", jnp.prod),
    _op("ReduceL1", lambda x, **over: jnp.sum(jnp.abs(x), **over)),
    _op("ReduceL2", lambda x, **over: jnp.sqrt(jnp.sum(x * x, **over))),
    _op("ReduceSumSquare", lambda x, **over: jnp.sum(x * x, **over)),
    _op("ReduceLogSum", lambda x, **over: jnp.log(jnp.sum(x, **over))),
    _op("ReduceLogSumExp", _log_sum_exp),
)
