"""Constant weights: what a node takes to multiply them, and how the float function reads kernels of convolutions."""

import math
from collections import defaultdict

import jax
import numpy as np

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.conv import ConvAttrs
from knerex_jax.ops.tiles import KERNEL, tile_size, tiled_kernel

_WORTH_COMPILING = 5_000_000
"""Products of one sample, in all convolutions of one shape, from which tiles are used: they take half a second to
compile, which so many win back over some five thousand samples."""

TURNED = 0

_CHANNELS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""Weighted operators -> axis of the result along which their weights differ."""


def products(node: Node, model: Model) -> int:
    """Products that a node with constant weights takes for one sample, 0 for others."""
    weight = model.constants.get(node.inputs[1]) if node.op_type in _CHANNELS else None
    if weight is None:
        return 0
    shape = model.graph.shape(node.outputs[0])
    return math.prod(shape) * weight.size // shape[_CHANNELS[node.op_type]]


def kernel_forms(model: Model) -> dict[str, int]:
    """Constant weights of convolutions, but for those of kernel 1, which are products of matrices -> their form.

    A form is the edge of the tiles that compute (`ops.tiles`; on a CPU), or TURNED: [*kernel, I, O]. In ONNX's own
    order a CPU would turn kernels at every call and in every turn of a loop over samples, which takes as long as the
    convolutions of a small model (A2, batch 8: 44 % of the time).
    """
    nodes = [n for n in model.graph.nodes if n.op_type == "Conv" and n.inputs[1] in model.constants]
    forms = {n.inputs[1]: TURNED for n in nodes if math.prod(model.constants[n.inputs[1]].shape[2:]) > 1}
    if jax.default_backend() != "cpu":
        return forms
    alike = defaultdict(list)
    for n in nodes:
        if _may_be_tiled(n, model):
            alike[model.constants[n.inputs[1]].shape, model.graph.shape(n.outputs[0])].append(n)
    for ((outputs, inputs, *_), (*_, high, wide)), group in alike.items():
        size = tile_size((high, wide), inputs, outputs)
        if size and sum(products(n, model) for n in group) >= _WORTH_COMPILING:
            forms |= {n.inputs[1]: size for n in group}
    return forms


def arranged(kernel: np.ndarray, form: int) -> np.ndarray:
    """A kernel [O, I, *spatial] in a form of `kernel_forms`: [*spatial, I, O], or [t, t, I, O] with tiles."""
    return np.moveaxis(kernel, (0, 1), (-1, -2)) if form == TURNED else tiled_kernel(kernel, form)


def _may_be_tiled(node: Node, model: Model) -> bool:
    """Whether it is a convolution that `ops.tiles` can compute, and the only reader of its weight."""
    a: ConvAttrs = node.attrs
    weight = node.inputs[1]
    alone = len(model.graph.readers[weight]) == 1 and weight not in model.graph.outputs
    plain = (a.kernel_shape, a.strides, a.dilations, a.group) == ((KERNEL,) * 2, (1, 1), (1, 1), 1)
    return alone and plain and model.constants[weight].dtype == np.float32
