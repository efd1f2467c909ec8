"""Data movement: Reshape and its relatives, Transpose, Concat, Pad, Slice, Split, Expand, Gather by constants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.build import PlanView, ProgramView, moved
from knerex_jax.ops.constant import gather_facts, gather_no_rule, gather_program, identity_facts, identity_program
from knerex_jax.ops.constraint import Constraint
from knerex_jax.ops.move import Args, Kind, move_program
from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class ReshapeAttrs:
    """shape may hold 0 (copy) and one -1 (infer)."""

    shape: tuple[int, ...] = ()
    allowzero: int = 0


@dataclass(frozen=True)
class AxisAttrs:
    """One axis."""

    axis: int = 1


@dataclass(frozen=True)
class AxesAttrs:
    """Several axes; None means all of size 1."""

    axes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TransposeAttrs:
    """perm empty reverses the axes."""

    perm: tuple[int, ...] = ()


@dataclass(frozen=True)
class PadAttrs:
    """pads lists all begins, then all ends, for `axes` or for all axes."""

    pads: tuple[int, ...] = ()
    value: float = 0.0
    axes: tuple[int, ...] | None = None
    mode: str = "constant"


@dataclass(frozen=True)
class SliceAttrs:
    """As in ONNX; axes and steps may be absent."""

    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    axes: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SplitAttrs:
    """Sizes along the axis, or equal parts (num_outputs)."""

    axis: int = 0
    split: tuple[int, ...] | None = None
    num_outputs: int | None = None


@dataclass(frozen=True)
class ExpandAttrs:
    """Broadcast target."""

    shape: tuple[int, ...] = ()


def _reshape(a: ReshapeAttrs, x: Array) -> Array:
    shape = [x.shape[i] if n == 0 and not a.allowzero else n for i, n in enumerate(a.shape)]
    return jnp.reshape(x, shape)


def _flatten(a: AxisAttrs, x: Array) -> Array:
    axis = a.axis % x.ndim if a.axis < 0 else a.axis
    return jnp.reshape(x, (int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))))


def _squeeze(a: AxesAttrs, x: Array) -> Array:
    return jnp.squeeze(x, None if a.axes is None else tuple(i % x.ndim for i in a.axes))


def _unsqueeze(a: AxesAttrs, x: Array) -> Array:
    axes = a.axes or ()
    return jnp.expand_dims(x, tuple(i % (x.ndim + len(axes)) for i in axes))


def _transpose(a: TransposeAttrs, x: Array) -> Array:
    return jnp.transpose(x, a.perm or None)


def _concat(a: AxisAttrs, *xs: Array) -> Array:
    return jnp.concatenate(xs, axis=a.axis)


def full_pads(a: PadAttrs, rank: int) -> list[tuple[int, int]]:
    """(begin, end) for every axis."""
    axes = range(rank) if a.axes is None else [i % rank for i in a.axes]
    half, result = len(a.pads) // 2, [(0, 0)] * rank
    for i, axis in enumerate(axes):
        result[axis] = (a.pads[i], a.pads[half + i])
    return result


def _pad(a: PadAttrs, x: Array) -> Array:
    pads = full_pads(a, x.ndim)
    if a.mode == "constant":
        return lax.pad(x, jnp.asarray(a.value, x.dtype), [(b, e, 0) for b, e in pads])
    # Negative pads crop; only constant padding of lax takes them directly.
    crop = tuple(slice(max(-b, 0), x.shape[i] - max(-e, 0)) for i, (b, e) in enumerate(pads))
    return jnp.pad(x[crop], [(max(b, 0), max(e, 0)) for b, e in pads], mode=a.mode)


def slices(a: SliceAttrs, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Python slices for every axis, with ONNX's clamping."""
    result = [slice(None)] * len(shape)
    axes = range(len(a.starts)) if a.axes is None else a.axes
    for start, end, axis, step in zip(a.starts, a.ends, axes, a.steps or (1,) * len(a.starts), strict=True):
        size = shape[axis]
        low, high = (0, size) if step > 0 else (-1, size - 1)
        start = min(max(start + size if start < 0 else start, 0), high)
        end = min(max(end + size if end < 0 else end, low), size if step > 0 else size - 1)
        result[axis % len(shape)] = slice(start, None if end < 0 else end, step)
    return tuple(result)


def _slice(a: SliceAttrs, x: Array) -> Array:
    return x[slices(a, x.shape)]


def _split(a: SplitAttrs, x: Array) -> tuple[Array, ...]:
    size = x.shape[a.axis]
    sizes = a.split
    if not sizes:
        part = -(-size // (a.num_outputs or 1))
        sizes = tuple(min(part, size - i * part) for i in range(a.num_outputs or 1))
    return tuple(jnp.split(x, np.cumsum(sizes)[:-1], axis=a.axis))


def _split_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    attrs = dict(node.attrs)
    if "split" not in attrs and len(node.inputs) < 2:
        attrs.setdefault("num_outputs", len(node.outputs))
    return replace(node, attrs=attrs)


def _expand(a: ExpandAttrs, x: Array) -> Array:
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, a.shape))


def _gather(a: AxisAttrs, x: Array, indices: Array) -> Array:
    return jnp.take(x, indices, axis=a.axis)


def _move_rule(to_float: Any, one_to_one: bool) -> Any:
    def constrain(node: Node, view: PlanView) -> tuple[Constraint, ...]:
        return moved(node, view, lambda *xs: to_float(node.attrs, *xs), one_to_one=one_to_one)

    return constrain


Geometry = Callable[[Node, ProgramView], tuple[Kind, Args]]
"""What a node is as a `Move`: its kind and arguments."""


def _as_reshape(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    return "reshape", (view.shape(node.outputs[0]),)


def _as_transpose(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    return "transpose", (node.attrs.perm or tuple(reversed(range(len(view.shape(node.inputs[0]))))),)


def _as_concat(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    return "concat", ((node.attrs.axis % len(view.shape(node.outputs[0])),),)


def _as_expand(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    return "expand", (view.shape(node.outputs[0]),)


def _as_slice(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    shape = view.shape(node.inputs[0])
    bounds = [s.indices(n) for s, n in zip(slices(node.attrs, shape), shape, strict=True)]
    starts, stops, steps = zip(*bounds, strict=True)
    return "slice", (starts, stops, steps)


def _as_pad(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    a: PadAttrs = node.attrs
    pads = full_pads(a, len(view.shape(node.inputs[0])))
    return "pad", (tuple(b for b, _ in pads), tuple(e for _, e in pads))


def _pad_no_rule(node: Node, model: Model) -> str | None:
    a: PadAttrs = node.attrs
    plain = a.mode == "constant" and not a.value
    return None if plain else f"Pad with mode {a.mode!r} and value {a.value}; only the constant 0 has an integer rule"


def _no_move(node: Node, view: ProgramView) -> tuple[Kind, Args]:
    raise UnsupportedOpError(
        f"{node.op_type} is rewritten before quantization and has no rule of its own",
        where=f"node {node.name}",
        fix="run the model through decompose_onnx first",
    )


def _op(
    op_type: str,
    to_float: Any,
    attrs: type,
    geometry: Geometry = _as_reshape,
    *,
    one_to_one: bool = False,
    **rules: Any,
) -> OpDef:
    return OpDef(
        op_type=op_type, attrs=attrs, to_float=to_float, constrain=_move_rule(to_float, one_to_one),
        to_program=lambda node, view: move_program(node, view, *geometry(node, view)), **rules,
    )  # fmt: skip


@dataclass(frozen=True)
class DropoutAttrs:
    """Nothing that matters at inference."""

    ratio: float | None = None
    training_mode: bool | None = None
    seed: int | None = None
    is_test: int = 1


def _dropout(a: DropoutAttrs, x: Array, *absent: None) -> tuple[Array, Array]:
    """The input and the mask of what is kept."""
    if a.training_mode and a.ratio != 0:
        fix = "export the model for inference"
        raise UnsupportedOpError("Dropout in training mode has no float rule", where="a Dropout", fix=fix)
    return x, jnp.ones(x.shape, bool)


OPS = (
    _op("Reshape", _reshape, ReshapeAttrs, one_to_one=True, static_inputs=((1, "shape"),)),
    _op("Flatten", _flatten, AxisAttrs, one_to_one=True),
    _op("Squeeze", _squeeze, AxesAttrs, one_to_one=True, static_inputs=((1, "axes"),)),
    _op("Unsqueeze", _unsqueeze, AxesAttrs, one_to_one=True, static_inputs=((1, "axes"),)),
    _op("Transpose", _transpose, TransposeAttrs, _as_transpose, one_to_one=True),
    OpDef(
        op_type="Identity", to_float=lambda a, x: x, constrain=identity_facts, to_program=identity_program
    ),  # fmt: skip
    _op("Concat", _concat, AxisAttrs, _as_concat),
    _op(
        "Pad", _pad, PadAttrs, _as_pad, static_inputs=((1, "pads"), (2, "value"), (3, "axes")), no_rule=_pad_no_rule
    ),  # fmt: skip
    _op("Slice", _slice, SliceAttrs, _as_slice, static_inputs=((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))),
    _op("Split", _split, SplitAttrs, _no_move, static_inputs=((1, "split"),), canonical=_split_canonical),
    _op("Expand", _expand, ExpandAttrs, _as_expand, static_inputs=((1, "shape"),)),
    OpDef(
        op_type="Gather",
        attrs=AxisAttrs,
        to_float=_gather,
        constrain=gather_facts,
        to_program=gather_program,
        no_rule=gather_no_rule,
        reads_plain=True,
    ),  # fmt: skip
    OpDef(op_type="Dropout", attrs=DropoutAttrs, static_inputs=((1, "ratio"), (2, "training_mode")), to_float=_dropout),
)
