"""What a platform's NPU asks of a node: one predicate per published condition. The docstring is the rule.

Each predicate is a `Condition`: None when the node fits, else "reason: suggested rewrite". Source: the public operator
table of the toolchain manual, release 0.33.1. Axes are batch, channel, row, column, in this order; where there is only
one axis behind the channels, it counts as columns.
"""

import numpy as np

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.ops.shape import full_pads, slices

_LARGEST_PAD = 31


def anything(node: Node, model: Model) -> str | None:
    """No condition."""
    return None


def at_most_4d(node: Node, model: Model) -> str | None:
    """Tensors have at most 4 dimensions."""
    rank = max(len(model.graph.shape(t)) for t in (*node.inputs, *node.outputs) if t)
    return None if rank <= 4 else f"{rank} dimensions, at most 4: merge axes by a Reshape in front"


def relu_n(node: Node, model: Model) -> str | None:
    """The lower bound is exactly 0 and the upper bound is 0 or more; without an upper bound it is a Relu."""
    low, high = node.attrs.min, node.attrs.max
    if low != 0:
        return f"lower bound {low}, must be 0: clip at 0, or shift the values so that the lower bound becomes 0"
    if high is not None and high < 0:
        return f"upper bound {high} is below 0: clip to 0 or more"
    return None


def one_index(node: Node, model: Model) -> str | None:
    """A single index is taken."""
    count = model.graph.types[node.inputs[1]].size
    return None if count == 1 else f"{count} indices, only one: use a Slice, or one Gather per index and a Concat"


def axis_1(node: Node, model: Model) -> str | None:
    """The axis is 1."""
    axis = node.attrs.axis % (len(model.graph.shape(node.inputs[0])) + 1)
    return None if axis == 1 else f"axis {axis}, must be 1: use a Reshape"


def _expanded_axes(node: Node, model: Model) -> tuple[int, ...]:
    x, y = model.graph.shape(node.inputs[0]), model.graph.shape(node.outputs[0])
    x = (1,) * (len(y) - len(x)) + x
    return tuple(i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b)


def expand_rows_or_columns(node: Node, model: Model) -> str | None:
    """Only rows or columns are expanded."""
    axes = [i for i in _expanded_axes(node, model) if i < 2]
    return None if not axes else f"axis {axes[0]} is expanded, only rows and columns can be: concatenate copies instead"


def expand_within_a_sample(node: Node, model: Model) -> str | None:
    """Channels, rows or columns are expanded, never the batch."""
    batch = 0 in _expanded_axes(node, model)
    return "the batch axis is expanded: expand channels, rows or columns only" if batch else None


def _matmul_by_constant(node: Node, model: Model) -> tuple[bool, str | None]:
    """Whether the right operand is a constant, and what is wrong with its shape."""
    right = model.constant(node.inputs[1])
    if right is None:
        return False, None
    shape = right.shape
    if len(shape) == 2 or (len(shape) == 4 and shape[:2] == (1, 1)):
        return True, None
    return True, f"the constant right operand has shape {shape}: reshape it to two dimensions, or to 1x1xWxV"


def matmul_4d(node: Node, model: Model) -> str | None:
    """A constant right operand has shape WxV or 1x1xWxV; without one, both operands have exactly 4 dimensions."""
    constant, wrong = _matmul_by_constant(node, model)
    ranks = [len(model.graph.shape(t)) for t in node.inputs]
    if constant or ranks == [4, 4]:
        return wrong
    return f"operands of {ranks[0]} and {ranks[1]} dimensions, must be 4: reshape both to 4 dimensions"


def matmul_3d_to_5d(node: Node, model: Model) -> str | None:
    """A constant right operand has shape WxV or 1x1xWxV; without one, both operands have 3 to 5 dimensions."""
    constant, wrong = _matmul_by_constant(node, model)
    ranks = [len(model.graph.shape(t)) for t in node.inputs]
    if constant or all(3 <= r <= 5 for r in ranks):
        return wrong
    return f"operands of {ranks[0]} and {ranks[1]} dimensions, must be 3 to 5: reshape both to that"


def _zero_padding(node: Node, model: Model, first_axis: int) -> str | None:
    a = node.attrs
    if a.mode != "constant" or a.value:
        return f"mode {a.mode!r} with value {a.value:g}, must be the constant 0: pad with zeros"
    for axis, pads in enumerate(full_pads(a, len(model.graph.shape(node.inputs[0])))):
        if any(pads) and axis < first_axis:
            return f"axis {axis} is padded: pad the axes from {first_axis} on only, or concatenate zeros"
        if max(pads) > _LARGEST_PAD:
            return f"pads {pads} of axis {axis} > {_LARGEST_PAD}: use several Pads in a row, or concatenate zeros"
        if min(pads) < 0:
            return f"pads {pads} of axis {axis} crop: use a Slice instead"
    return None


def pad_spatial_zeros(node: Node, model: Model) -> str | None:
    """Constant mode with value 0, rows and columns only, every pad below 32."""
    return _zero_padding(node, model, first_axis=2)


def pad_zeros(node: Node, model: Model) -> str | None:
    """Constant mode with value 0, any axis but the batch, every pad below 32."""
    return _zero_padding(node, model, first_axis=1)


def square(node: Node, model: Model) -> str | None:
    """The exponent is 2."""
    exponent = model.constant(node.inputs[1])
    if exponent is None:
        return "the exponent is computed, must be the constant 2: multiply x by itself"
    if not (exponent == 2).all():
        return f"exponent {np.ravel(exponent)[0]:g}, must be 2: use products, Sqrt or Reciprocal"
    return None


def _reduction(node: Node, model: Model) -> tuple[tuple[int, ...], str | None]:
    """The reduced axes, and what is wrong with keepdims."""
    axes = reduced_axes(node.attrs, len(model.graph.shape(node.inputs[0])))
    return axes, None if node.attrs.keepdims else "keepdims 0, must be 1: keep the axes and Reshape behind it"


def keeps_axes(node: Node, model: Model) -> str | None:
    """The reduced axes are kept (keepdims 1)."""
    return _reduction(node, model)[1]


def reduces_within_a_sample(node: Node, model: Model) -> str | None:
    """The reduced axes are kept (keepdims 1), and the batch axis is not reduced."""
    axes, lost = _reduction(node, model)
    return lost or ("the batch axis is reduced: reduce channels, rows or columns only" if 0 in axes else None)


def reduces_channels(node: Node, model: Model) -> str | None:
    """The reduced axes are kept (keepdims 1), and the reduction is over channels."""
    axes, lost = _reduction(node, model)
    return lost or (None if axes == (1,) else f"axes {axes} are reduced, only channels can be: use a 1x1 convolution")


def slice_step_1(node: Node, model: Model) -> str | None:
    """Every step is 1."""
    shape = model.graph.shape(node.inputs[0])
    steps = [s.step or 1 for s in slices(node.attrs, shape)]
    wrong = [s for s in steps if s != 1]
    return f"step {wrong[0]}, must be 1: subsample by a pooling of window 1" if wrong else None


def slice_4d_step_1(node: Node, model: Model) -> str | None:
    """Tensors have at most 4 dimensions, and every step is 1."""
    return at_most_4d(node, model) or slice_step_1(node, model)


def depth_to_space_2_of_one_channel(node: Node, model: Model) -> str | None:
    """Done by decomposition: input 1x4xHxW, CRD mode, block size 2."""
    a, shape = node.attrs, model.graph.shape(node.inputs[0])
    if a.blocksize != 2:
        return f"block size {a.blocksize}, must be 2: use several steps of 2, or a transposed convolution"
    if shape[:2] != (1, 4):
        return f"input {shape}, must be 1x4xHxW: rearrange one channel at a time, or use a transposed convolution"
    return None if a.mode == "CRD" else f"mode {a.mode}, must be CRD: reorder the channels of the layer in front"


def block_2_or_4(node: Node, model: Model) -> str | None:
    """The block size is 2 or 4."""
    size = node.attrs.blocksize
    return None if size in (2, 4) else f"block size {size}, must be 2 or 4: use several steps of 2 and 4"


def _permutation(node: Node, model: Model) -> tuple[int, ...]:
    rank = len(model.graph.shape(node.inputs[0]))
    return tuple(node.attrs.perm) or tuple(reversed(range(rank)))


def transpose_neighbours(node: Node, model: Model) -> str | None:
    """Rows and columns are exchanged, or channels and rows; read as: each of these two is allowed."""
    perm = _permutation(node, model)
    allowed = ((0, 1, 3, 2), (0, 2, 1, 3))
    if perm in allowed:
        return None
    return f"permutation {perm}, must be one of {allowed[0]} and {allowed[1]}: use several of these, on 4 dimensions"


def transpose_within_a_sample(node: Node, model: Model) -> str | None:
    """The batch axis does not move."""
    perm = _permutation(node, model)
    return None if perm[0] == 0 else f"permutation {perm} moves the batch axis: keep axis 0 in place"


def exp_by_power_of_two(node: Node, model: Model) -> str | None:
    """Not native: a multiplication by log2(e), then a power of two."""
    return None


def softmax_in_parts(node: Node, model: Model) -> str | None:
    """Decomposed into ReduceSum, Div, Neg, Add and Exp."""
    return None
