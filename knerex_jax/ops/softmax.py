"""Softmax: float only; the passes decompose it before quantization."""

from collections.abc import Mapping
from dataclasses import replace

import jax
from jax import Array

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Node
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.shape import AxisAttrs


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    shape, attrs = shapes[node.inputs[0]], dict(node.attrs)
    if opset >= 13:
        return replace(node, attrs={"axis": attrs.get("axis", -1)})
    axis = attrs.get("axis", 1) % len(shape)
    trailing = [i for i in range(axis, len(shape)) if shape[i] > 1]
    if len(trailing) > 1:
        raise UnsupportedOpError(
            f"Softmax of opset {opset} over the flattened axes {trailing}", where=f"node {node.name}",
            fix="export with opset 13 or newer, or flatten before the Softmax",
        )  # fmt: skip
    return replace(node, attrs={"axis": trailing[0] if trailing else axis})


def _softmax(a: AxisAttrs, x: Array) -> Array:
    return jax.nn.softmax(x, axis=a.axis)


SOFTMAX = OpDef(op_type="Softmax", attrs=AxisAttrs, canonical=_canonical, to_float=_softmax)

OPS = (SOFTMAX,)
