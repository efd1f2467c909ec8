"""Rewrites that move, merge and remove changes of layout."""

from dataclasses import replace

from knerex_jax.graph.ir import Node
from knerex_jax.ops.reduce import reduced_axes
from knerex_jax.passes.base import GraphBuilder, input_of, rewrite


@rewrite("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def to_plain_reshape(b: GraphBuilder, node: Node) -> None:
    """Gives all operators that only rename axes one form.

    Before: y = Flatten(x), Squeeze(x), Unsqueeze(x), or Reshape(x) to a shape with 0 or -1
    After:  y = Reshape(x) to the shape of y, as plain numbers
    """
    shape = b.shape(node.outputs[0])
    if 0 in shape or (node.op_type == "Reshape" and node.attrs.shape == shape and not node.attrs.allowzero):
        return
    b.replace(node)("Reshape", node.inputs[0], output=node.outputs[0], shape=shape)


@rewrite("Reshape")
def merge_reshapes(b: GraphBuilder, node: Node) -> None:
    """Merges chains of Reshape, and removes what does nothing.

    Before: y = Reshape(Reshape(x)), or Reshape(x) to the shape of x
    After:  y = Reshape(x), or x
    """
    inner = b.producer(node.inputs[0], "Reshape")
    if inner is not None:
        node = b.reconnect(node, inner.inputs[:1])
    if b.shape(node.inputs[0]) == b.shape(node.outputs[0]):
        b.bypass(node, node.inputs[0])


@rewrite("Relu", "Clip", "LeakyRelu", "HardSwish")
def activation_before_reshape(b: GraphBuilder, node: Node) -> None:
    """Brings an activation next to the weights it can be fused with.

    Before: y = Activation(Reshape(x)); x is made by a weighted node, and nothing else reads either
    After:  y = Reshape(Activation(x))
    """
    reshape = b.private_producer(node.inputs[0], "Reshape")
    if reshape is None or input_of(node, 1):
        return
    if b.private_producer(reshape.inputs[0], "Gemm", "Conv", "ConvTranspose", "BatchNormalization") is None:
        return
    emit = b.replace(reshape, node)
    y = emit(node.op_type, reshape.inputs[0], attrs=node.attrs)
    emit("Reshape", y, output=node.outputs[0], name=reshape.name, attrs=reshape.attrs)


@rewrite("Transpose")
def merge_transposes(b: GraphBuilder, node: Node) -> None:
    """Merges chains of Transpose, and removes what does nothing.

    Before: y = Transpose(Transpose(x)), or a Transpose that keeps the order
    After:  y = Transpose(x), or x
    """
    perm = order_of(b, node)
    inner = b.producer(node.inputs[0], "Transpose")
    if inner is not None:
        first = order_of(b, inner)
        perm = tuple(first[i] for i in perm)
        b.replace(node)("Transpose", inner.inputs[0], output=node.outputs[0], perm=perm)
        return
    if perm == tuple(range(len(perm))):
        b.bypass(node, node.inputs[0])


@rewrite("Transpose")
def transpose_of_ones_to_reshape(b: GraphBuilder, node: Node) -> None:
    """Writes a Transpose that moves only axes of size 1 as a Reshape. The first axis, the batch, counts as larger.

    Before: y = Transpose(x), the axes larger than 1 in their old order
    After:  y = Reshape(x)
    """
    shape = b.shape(node.inputs[0])
    moved = [i for i in order_of(b, node) if i == 0 or shape[i] > 1]
    if moved == sorted(moved) and order_of(b, node) != tuple(range(len(shape))):
        b.replace(node)("Reshape", node.inputs[0], output=node.outputs[0], shape=b.shape(node.outputs[0]))


@rewrite("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def reduce_before_transpose(b: GraphBuilder, node: Node) -> None:
    """Reduces first, so that a mean over the feature map is seen in either layout and less is moved.

    Before: y = ReduceX(Transpose(x)); nothing else reads the Transpose
    After:  y = Transpose(ReduceX(x)); without the Transpose if the axes are dropped and the others keep their order
    """
    turn = b.private_producer(node.inputs[0], "Transpose")
    if turn is None:
        return
    perm = order_of(b, turn)
    reduced = {perm[i] for i in reduced_axes(node.attrs, len(perm))}
    kept = [i for i in perm if i not in reduced]
    if not reduced or (not node.attrs.keepdims and kept != sorted(kept)):
        return
    emit = b.replace(turn, node)
    attrs = replace(node.attrs, axes=tuple(sorted(reduced)))
    inputs = (turn.inputs[0], *node.inputs[1:])
    if node.attrs.keepdims:
        emit("Transpose", emit(node.op_type, *inputs, attrs=attrs), output=node.outputs[0], perm=perm)
    else:
        emit(node.op_type, *inputs, output=node.outputs[0], attrs=attrs)


def order_of(b: GraphBuilder, node: Node) -> tuple[int, ...]:
    """The permutation of a Transpose, also where it is left to the default."""
    return node.attrs.perm or tuple(reversed(range(len(b.shape(node.inputs[0])))))
