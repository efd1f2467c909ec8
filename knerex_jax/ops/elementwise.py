"""Operators on two or more broadcast operands: Add, Sub, Sum, Max, Min by `align`, Mul by `mul`."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.fixedpoint.qformat import multiplier
from knerex_jax.fixedpoint.weights import check_shift
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import Built, PlanView, ProgramView, aligned_axis, softmax_mask
from knerex_jax.ops.constraint import Constraint, Own, Product, Same
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.table import Real, table_facts, table_program
from knerex_jax.program.primitives import Align, Mul


@dataclass(frozen=True)
class ModAttrs:
    """fmod: the result has the sign of the dividend, not of the divisor."""

    fmod: int = 0


def _add_constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    y = node.outputs[0]
    mask = softmax_mask(node, view) if node.op_type == "Add" else ()
    if not view.target.free_add:
        return (*_shared(node, view), *mask)
    axis, layers = aligned_axis(view, view.computed(node), len(view.shape(y)))
    return (*layers, Own(y, axis), *mask)


def _shared(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    inputs, y = view.computed(node), node.outputs[0]
    _, layers = aligned_axis(view, inputs, len(view.shape(y)))
    return (*layers, Same(y, inputs))


def _mul_constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
    a, b = node.inputs
    _, layers = aligned_axis(view, (a, b), len(view.shape(node.outputs[0])))
    return (*layers, Product(node.outputs[0], (a, b)))


def _align(node: Node, view: ProgramView) -> Built:
    y = node.outputs[0]
    fy, formats = view.formats[y], [view.formats[t] for t in node.inputs]
    bits = tuple(f.bits for f in formats)
    op = {"Max": "max", "Min": "min"}.get(node.op_type, "add")
    free = view.target.free_add and op == "add"
    count = max(len(f.radix) for f in (fy, *formats))
    radix = np.stack([view.radix(t, count) for t in node.inputs])
    y_radix = view.radix(y, count)
    if free:
        ratio = view.scale(y, count) / np.stack([view.scale(t, count) for t in node.inputs])
        m, e = multiplier(ratio)
        constants = {"m": m, "n": 15 - e + radix - (y_radix + 8), "n_out": np.full(1, 8)}
    else:
        # At most 16 bits to the left: a far smaller operand is brought down instead.
        top = np.minimum(radix.max(axis=0), radix.min(axis=0) + 16)
        constants = {"n": radix - top, "n_out": top - y_radix}
    constants |= {
        k: check_shift(constants[k], node.name, "an operand" if k == "n" else "the output") for k in ("n", "n_out")
    }
    signs = (1, -1) if node.op_type == "Sub" else (1,) * len(node.inputs)
    instruction = Align(
        name=node.name, inputs=node.inputs, output=y, nodes=(node.name,), bits=fy.bits, axis=view.axis(y, node.inputs),
        op=op, signs=signs, free=free, x_bits=bits, psum_bits=48 if 15 in bits else 32,
    )  # fmt: skip
    return ((instruction, constants),)


def _mul(node: Node, view: ProgramView) -> Built:
    a, b, y = *node.inputs, node.outputs[0]
    fa, fb, fy = view.formats[a], view.formats[b], view.formats[y]
    n = check_shift(fa.radix.astype(np.int64) + fb.radix - fy.radix, node.name, "the product")
    instruction = Mul(
        name=node.name, inputs=(a, b), output=y, nodes=(node.name,), bits=fy.bits, axis=view.axis(y, (a, b)),
        x_bits=(fa.bits, fb.bits),
    )  # fmt: skip
    return ((instruction, {"n": n}),)


def _div(attrs: object, x: Array, y: Array) -> Array:
    """Integers are divided towards zero."""
    # Broadcast first: XLA turns the division by a scalar into a product with its rounded reciprocal.
    return lax.div(*jnp.broadcast_arrays(x, y))


def _pow(attrs: object, x: Array, y: Array) -> Array:
    """Of the type of the base; an exponent of another type is not rounded to it first."""
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return jnp.power(x.astype(dtype), y.astype(dtype)).astype(x.dtype)


def _no_power(node: Node, model: Model) -> str | None:
    exponent = model.constant(node.inputs[1])
    return None if exponent is not None and exponent.size == 1 else "the exponent of Pow is not one constant number"


def _constant_power(node: Node, model: Model) -> Real:
    """Gives x ** c; a fractional power of a negative number counts as that of 0, the nearest point of its domain."""
    exponent = float(model.constants[node.inputs[1]].item())
    whole = exponent == round(exponent)
    return lambda x: np.power(x if whole else np.maximum(x, 0), exponent)


def _fold(binary: Any) -> Any:
    """An operator with any number of operands, from its two-operand form."""

    def to_float(attrs: object, first: Any, *rest: Any) -> Any:
        for other in rest:
            first = binary(first, other)
        return first

    return to_float


ADD = OpDef(op_type="Add", to_float=lambda a, x, y: x + y, constrain=_add_constrain, to_program=_align)
SUB = OpDef(op_type="Sub", to_float=lambda a, x, y: x - y, constrain=_add_constrain, to_program=_align)
SUM = OpDef(op_type="Sum", to_float=_fold(jnp.add), constrain=_add_constrain, to_program=_align)
MAX = OpDef(op_type="Max", to_float=_fold(jnp.maximum), constrain=_shared, to_program=_align)
MIN = OpDef(op_type="Min", to_float=_fold(jnp.minimum), constrain=_shared, to_program=_align)
MUL = OpDef(op_type="Mul", to_float=lambda a, x, y: x * y, constrain=_mul_constrain, to_program=_mul)
DIV = OpDef(op_type="Div", to_float=_div)
MOD = OpDef(op_type="Mod", attrs=ModAttrs, to_float=lambda a, x, y: (jnp.fmod if a.fmod else jnp.remainder)(x, y))
POW = OpDef(
    op_type="Pow", to_float=_pow, constrain=table_facts, to_program=table_program(_constant_power), no_rule=_no_power
)
MEAN = OpDef(op_type="Mean", to_float=lambda a, *xs: _fold(jnp.add)(a, *xs) / len(xs))

OPS = (ADD, SUB, SUM, MAX, MIN, MUL, DIV, MOD, POW, MEAN)
