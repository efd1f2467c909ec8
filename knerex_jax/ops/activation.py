"""Activations that an accumulator can apply: Relu, Clip, LeakyRelu, PRelu."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.build import ActSpec, Built, PlanView, ProgramView
from knerex_jax.ops.constraint import Bound, Constraint, Same
from knerex_jax.ops.mac import act_integers
from knerex_jax.ops.opdef import NoAttrs, OpDef
from knerex_jax.ops.sums import radix_drop
from knerex_jax.program.primitives import Activate


@dataclass(frozen=True)
class ClipAttrs:
    """Bounds; None where open."""

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class LeakyReluAttrs:
    """Slope of the negative side."""

    alpha: float = 0.01


def _clip(a: ClipAttrs, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    low = low if a.min is None else jnp.asarray(a.min, x.dtype)
    high = high if a.max is None else jnp.asarray(a.max, x.dtype)
    x = x if low is None else jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def _prelu(a: NoAttrs, x: Array, slope: Array) -> Array:
    return jnp.where(x < 0, x * slope, x)


def _prelu_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    if opset < 7 and math.prod(shapes[node.inputs[1]]) > 1:
        fix = "convert the model to opset 8 or above, with a slope that broadcasts"
        raise UnsupportedOpError("PRelu with a slope per channel of before opset 7", where=f"node {node.name}", fix=fix)
    return node


def _within(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (Same(node.outputs[0], node.inputs[:1], within=True),)


def _clip_constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    limit = _clip_spec(node, view.model).magnitude
    return _within(node, view) + (() if limit is None else (Bound(node.outputs[0], limit),))


def _same(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    return (Same(node.outputs[0], node.inputs[:1]),)


def _clip_spec(node: Node, model: Model) -> ActSpec:
    low, high = node.attrs.min, node.attrs.max
    return ActSpec("clip", low=None if low is None else float(low), high=None if high is None else float(high))


def _leaky_spec(node: Node, model: Model) -> ActSpec:
    return ActSpec("leaky", slope=np.array([np.float32(node.attrs.alpha)]))


def _prelu_spec(node: Node, model: Model) -> ActSpec:
    slope = model.constant(node.inputs[1])
    assert slope is not None, f"{node.name}: the slope of PRelu must be a constant"
    (*_, axis) = (None, *_slope_axes(slope, node, model))
    return ActSpec("leaky", slope=np.asarray(slope, np.float64).reshape(-1), axis=axis)


def _slope_axes(slope: np.ndarray, node: Node, model: Model) -> list[int]:
    """Axes of the operand along which a slope has several values."""
    before = len(model.graph.shape(node.inputs[0])) - slope.ndim
    return [before + k for k, size in enumerate(slope.shape) if size > 1]


def _prelu_no_rule(node: Node, model: Model) -> str | None:
    slope = model.constant(node.inputs[1])
    if slope is None:
        return "its slope is no constant"
    axes = _slope_axes(slope, node, model)
    if len(axes) > 1:
        return f"its slope varies along axes {', '.join(map(str, axes))}: only channels can have one each"
    return None


def _to_program(node: Node, view: ProgramView) -> Built:
    x, y = node.inputs[0], node.outputs[0]
    rule = op_of(node, view.registry).activation
    assert rule is not None
    act = rule(node, view.model)
    fx, fy = view.formats[x], view.formats[y]
    psum_bits = 48 if fx.bits == 15 else 32
    # The activation works on codes of x, so its integers are in the format of x.
    constants = act_integers(act, fx.scale.astype(np.float64), fx.radix.astype(np.int64), psum_bits, fx.bits)
    constants["n"] = check_shift(radix_drop(node, view), node.name, "the output")
    instruction = Activate(
        name=node.name, inputs=(x,), output=y, nodes=(node.name,), bits=fy.bits, axis=view.axis(y, (x,)),
        x_bits=fx.bits, act=act.kind,
    )  # fmt: skip
    return ((instruction, constants),)


RELU = OpDef(
    op_type="Relu", to_float=lambda a, x: jnp.maximum(x, jnp.zeros((), x.dtype)), constrain=_within,
    to_program=_to_program, activation=lambda node, model: ActSpec("relu"),
)  # fmt: skip
CLIP = OpDef(
    op_type="Clip", attrs=ClipAttrs, static_inputs=((1, "min"), (2, "max")), to_float=_clip,
    constrain=_clip_constrain, to_program=_to_program, activation=_clip_spec,
)  # fmt: skip
LEAKY_RELU = OpDef(
    op_type="LeakyRelu", attrs=LeakyReluAttrs,
    to_float=lambda a, x: jnp.where(x < 0, x * jnp.asarray(a.alpha, x.dtype), x), constrain=_same,
    to_program=_to_program, activation=_leaky_spec,
)  # fmt: skip
PRELU = OpDef(
    op_type="PRelu", canonical=_prelu_canonical, to_float=_prelu, constrain=_same,
    to_program=_to_program, activation=_prelu_spec, no_rule=_prelu_no_rule,
)  # fmt: skip

OPS = (RELU, CLIP, LEAKY_RELU, PRELU)
