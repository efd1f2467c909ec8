"""Rewrites that put numbers into constants. Sums and products are in float64 and rounded to float32 once."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from knerex_jax.graph.ir import Node
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.conv import feeding_channels
from knerex_jax.ops.host import is_host
from knerex_jax.passes.attention import only_hides
from knerex_jax.passes.base import Emit, GraphBuilder, input_of, rewrite

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "PRelu")


@rewrite()
def evaluate_constants(b: GraphBuilder, node: Node) -> None:
    """Computes what depends on constants alone.

    Before: a node that reads only constants.
    After:  its value as a constant; where it is an output of the model, by an Identity.
    """
    arrays = [b.constant(t) for t in node.inputs if t]
    op = op_of(node, b.registry)
    if node.domain or is_host(op) or not arrays or any(a is None for a in arrays):
        return
    if len(node.outputs) != 1 or node.op_type == "Identity":
        return
    wide = any(a is not None and a.dtype.itemsize == 8 for a in arrays)
    with jax.enable_x64(wide), jax.default_device(jax.local_devices(backend="cpu")[0]):
        made = op.to_float(node.attrs, *(b.constant(t) if t else None for t in node.inputs))
        value = np.asarray(made[0] if isinstance(made, tuple | list) else made)
    name = b.new_constant(f"{node.outputs[0]}/value", value.astype(b.dtype(node.outputs[0])))
    if b.is_output(node.outputs[0]):
        b.replace(node)("Identity", name, output=node.outputs[0])
        return
    readers = list(b.readers(node.outputs[0]))
    for reader in readers:
        b.reconnect(reader, [name if t == node.outputs[0] else t for t in reader.inputs])


@rewrite("BatchNormalization")
def batch_norm_into_conv(b: GraphBuilder, node: Node) -> None:
    """Folds a per-channel affine map into the convolution before it.

    Before: y = BatchNormalization(Conv(x, w, c)); likewise ConvTranspose. Nothing else reads the convolution.
    After:  y = Conv(x, w * scale, c * scale + bias)
    """
    affine = affine_of(b, node)
    conv = b.private_producer(node.inputs[0], "Conv", "ConvTranspose")
    if affine is None or conv is None:
        return
    weight, bias = b.constant(conv.inputs[1]), _bias(b, conv, len(affine[0]))
    if weight is None or bias is None:
        return
    scale, shift = affine
    if conv.op_type == "Conv":
        per_weight = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    else:  # [I, O/group, *kernel]: the inputs of a group see the outputs of that group
        group = conv.attrs.group
        rows = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
        per_weight = rows.reshape(*rows.shape, *(1,) * (weight.ndim - 2))
    emit = b.replace(conv, node)
    weights = _constants(b, conv, weight * per_weight, bias * scale + shift)
    emit(conv.op_type, conv.inputs[0], *weights, output=node.outputs[0], name=conv.name, attrs=conv.attrs)


@rewrite("Conv")
def batch_norm_into_next_conv(b: GraphBuilder, node: Node) -> None:
    """Folds a per-channel affine map into the convolution behind it.

    Before: y = Conv(BatchNormalization(x), w, c) without padding, or with padding and a map without a shift. Nothing
            else reads the map, and no weighted node before it can take it.
    After:  y = Conv(x, w * scale, c + w shift)
    """
    norm = b.private_producer(node.inputs[0], "BatchNormalization")
    affine = None if norm is None else affine_of(b, norm)
    weight, bias = b.constant(node.inputs[1]), _bias(b, node, b.shape(node.outputs[0])[1])
    if norm is None or affine is None or weight is None or bias is None:
        return
    if b.private_producer(norm.inputs[0], "Conv", "ConvTranspose", "Gemm") is not None:
        return
    scale, shift = affine
    if shift.any() and any(node.attrs.pads):
        return  # padding is 0 behind the map, not before it
    feeding = feeding_channels(len(weight), weight.shape[1], node.attrs.group)
    spread = (...,) + (None,) * (weight.ndim - 2)
    wide = weight.astype(np.float64)
    moved = (wide * shift[feeding][spread]).sum(axis=tuple(range(1, weight.ndim)))
    emit = b.replace(norm, node)
    weights = _constants(b, node, wide * scale[feeding][spread], bias + moved)
    emit("Conv", norm.inputs[0], *weights, output=node.outputs[0], name=node.name, attrs=node.attrs)


@rewrite("BatchNormalization")
def batch_norm_into_gemm(b: GraphBuilder, node: Node) -> None:
    """Folds a per-output affine map into the dense layer before it.

    Before: y = BatchNormalization(Gemm(x, w, c)), w [O, I]. Nothing else reads the Gemm.
    After:  y = Gemm(x, w * scale, c * scale + bias)
    """
    affine, gemm = affine_of(b, node), b.private_producer(node.inputs[0], "Gemm")
    if affine is None or gemm is None or not is_normal_gemm(gemm):
        return
    weight, bias = b.constant(gemm.inputs[1]), _bias(b, gemm, len(affine[0]))
    if weight is None or bias is None or bias.shape != affine[0].shape:
        return
    scale, shift = affine
    emit = b.replace(gemm, node)
    weights = _constants(b, gemm, weight * scale[:, None], bias * scale + shift)
    emit("Gemm", gemm.inputs[0], *weights, output=node.outputs[0], name=gemm.name, attrs=gemm.attrs)


@rewrite("BatchNormalization")
def merge_batch_norms(b: GraphBuilder, node: Node) -> None:
    """Merges two per-channel affine maps.

    Before: y = BatchNormalization(BatchNormalization(x)). Nothing else reads the inner one.
    After:  y = BatchNormalization(x) in normal form
    """
    inner = b.private_producer(node.inputs[0], "BatchNormalization")
    if inner is None:
        return
    outer_affine, inner_affine = affine_of(b, node), affine_of(b, inner)
    if outer_affine is None or inner_affine is None:
        return
    scale, shift = outer_affine[0] * inner_affine[0], outer_affine[0] * inner_affine[1] + outer_affine[1]
    _emit_affine(b, b.replace(inner, node), inner.inputs[0], scale, shift, node)


@rewrite("BatchNormalization")
def normalise_batch_norm(b: GraphBuilder, node: Node) -> None:
    """Brings what is left to the form in which scale and bias say everything.

    Before: y = BatchNormalization(x, gamma, beta, mean, var), epsilon
    After:  y = BatchNormalization(x, gamma / sqrt(var + epsilon), beta - mean * scale, 0, 1), epsilon 0
    """
    affine = affine_of(b, node)
    if affine is None:
        return
    mean, var = b.constant(node.inputs[3]), b.constant(node.inputs[4])
    assert mean is not None and var is not None
    if node.attrs.epsilon == 0 and not mean.any() and (var == 1).all():
        return
    _emit_affine(b, b.replace(node), node.inputs[0], *affine, node)


@rewrite("Add", "Sub", "Mul", "Div")
def constant_to_batch_norm(b: GraphBuilder, node: Node) -> None:
    """Writes arithmetic with a per-channel constant as the diagonal operator it is.

    Before: y = x * c, x + c, x - c, c - x or x / c; c a scalar or a vector along one axis, x float32
    After:  y = BatchNormalization(x) in normal form, between two Reshapes where the axis is not axis 1
    """
    for side in (0, 1):
        constant, x = b.constant(node.inputs[side]), node.inputs[1 - side]
        if constant is None or b.constant(x) is not None or (node.op_type == "Div" and side == 0):
            continue
        if node.op_type == "Add" and only_hides(constant):
            continue  # folded, it would blow the range of the sum up
        shape = b.shape(x)
        if b.dtype(x) != "float32" or b.shape(node.outputs[0]) != shape or not shape:
            continue
        aligned = (1,) * (len(shape) - constant.ndim) + constant.shape
        along = [i for i, n in enumerate(aligned) if n != 1]
        if len(aligned) != len(shape) or len(along) > 1:
            continue
        axis = along[0] if along else min(1, len(shape) - 1)
        count = shape[axis]
        value = np.broadcast_to(constant.astype(np.float64).reshape(-1), (count,))
        ones, zeros = np.ones(count), np.zeros(count)
        if node.op_type == "Mul":
            scale, shift = value, zeros
        elif node.op_type == "Div":
            if not value.all():
                continue
            scale, shift = 1 / value, zeros
        elif node.op_type == "Add":
            scale, shift = ones, value
        else:
            scale, shift = (-ones, value) if side == 0 else (ones, -value)
        emit = b.replace(node)
        if axis == 1:
            _emit_affine(b, emit, x, scale, shift, node)
        else:
            maker = b.producer(x)  # the inside of a decomposed operator keeps its width until it is scaled
            wide = maker is not None and maker.wide
            flat = emit("Reshape", x, shape=(math.prod(shape[:axis]), *shape[axis:]), wide=wide)
            y = _emit_affine(b, emit, flat, scale, shift, node, output=None)
            emit("Reshape", y, output=node.outputs[0], shape=shape)
        return


@rewrite("BatchNormalization")
def drop_unit_batch_norm(b: GraphBuilder, node: Node) -> None:
    """Removes a per-channel affine map that does nothing.

    Before: y = BatchNormalization(x) with scale 1 and bias 0
    After:  x
    """
    affine = affine_of(b, node)
    if affine is not None and (affine[0] == 1).all() and not affine[1].any():
        b.bypass(node, node.inputs[0])


@rewrite(*_WEIGHTED)
def unshare_weights(b: GraphBuilder, node: Node) -> None:
    """Gives every weighted node constants of its own, since each will be scaled in its own way.

    Before: two nodes read the constant w as a weight or bias
    After:  the later one reads an equal constant of its own
    """
    inputs = list(node.inputs)
    for i, tensor in enumerate(node.inputs):
        value = b.constant(tensor)
        if i == 0 or value is None:
            continue
        first = min(b.readers(tensor), key=b.place)
        if first.name != node.name or tensor in node.inputs[:i]:
            inputs[i] = b.new_constant(f"{node.name}.{tensor}", value)
    if tuple(inputs) != node.inputs:
        b.reconnect(node, inputs)


def affine_of(b: GraphBuilder, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, bias) of a BatchNormalization, float64 [C]; None unless all its parameters are constants."""
    values = [b.constant(t) for t in node.inputs[1:5]]
    gamma, beta, mean, var = (None if v is None else v.astype(np.float64) for v in values)
    if gamma is None or beta is None or mean is None or var is None:
        return None
    scale = gamma / np.sqrt(var + node.attrs.epsilon)
    return scale, beta - mean * scale


def _emit_affine(
    b: GraphBuilder,
    emit: Emit,
    x: str,
    scale: np.ndarray,
    shift: np.ndarray,
    node: Node,
    output: str | None = "",
) -> str:
    """A BatchNormalization in normal form in place of a node (output None: before it)."""
    count = len(scale)
    values = {"scale": scale, "bias": shift, "mean": np.zeros(count), "var": np.ones(count)}
    constants = [b.new_constant(f"{node.name}.{key}", rounded(value)) for key, value in values.items()]
    output = node.outputs[0] if output == "" else output
    return emit("BatchNormalization", x, *constants, output=output, epsilon=0.0)


def _bias(b: GraphBuilder, node: Node, count: int) -> np.ndarray | None:
    """Constant bias of a weighted node, zeros where it has none; None if it is computed."""
    bias = input_of(node, 2)
    if not bias:
        return np.zeros(count)
    value = b.constant(bias)
    return None if value is None else value.astype(np.float64)


def _constants(b: GraphBuilder, node: Node, weight: np.ndarray, bias: np.ndarray) -> Sequence[str]:
    return (
        b.new_constant(f"{node.name}.weight", rounded(weight)),
        b.new_constant(f"{node.name}.bias", rounded(bias)),
    )


def rounded(value: np.ndarray) -> np.ndarray:
    """Float32, to nearest even: the last step of every fold."""
    return value.astype(np.float32)


def is_normal_gemm(node: Node) -> bool:
    """Whether a Gemm says x w' + c with w [O, I], and nothing more."""
    a = node.attrs
    return a.alpha == a.beta == 1 and not a.transA and bool(a.transB)
