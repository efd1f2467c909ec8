"""mac (rule 1): the weighted operators, and a fused activation."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import onnx

from .activations import FUSABLE, clip_bounds, make_act
from .errors import OracleError
from .formats import Format
from .graph import Graph, Step, attributes, expect, label_of
from .integers import saturate, shr
from .products import convolve, convolve_transposed, multiply_diagonal, multiply_matrix
from .spatial import read_window
from .weights import FloatMac, IntegerMac, MacSettings, quantize_mac


@dataclass(frozen=True)
class Linear:
    """A weighted operator in one form: float constants, how to accumulate, how the stored weight is laid out."""

    data: str
    weight: np.ndarray  # float64 [o, i, taps]
    bias: np.ndarray  # float64 [o]
    source: np.ndarray  # [o, i]: the input channel that meets weight[o, i]
    in_axis: int
    out_axis: int
    accumulate: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (codes, integer weight [o, i, taps]) -> acc
    stored: Callable[[np.ndarray], np.ndarray]  # [o, i, taps] -> the shape of the ONNX constant


def prepare_mac(graph: Graph, node: onnx.NodeProto) -> Step:
    """One weighted node together with the activation that the plan fuses into it."""
    label = label_of(node)
    activation = graph.node(graph.fused[label]) if label in graph.fused else None
    if activation is not None:
        expect(activation.input[0] == node.output[0], activation, f"is not the reader of {label}")
    output_name = node.output[0] if activation is None else activation.output[0]
    y = graph.format(output_name)
    linear = READERS[node.op_type](graph, node, y)
    x = graph.format(linear.data)
    if label not in graph.weight_bits:
        raise OracleError(f"{label}: the plan has no weight_bits for this node")

    settings = _settings(graph, node, activation, x, y)
    radix_x, scale_x = x.along(linear.in_axis, x.shape[linear.in_axis])
    radix_y, scale_y = y.along(linear.out_axis, linear.weight.shape[0])
    float_mac = FloatMac(linear.weight, linear.bias, radix_x[linear.source], scale_x[linear.source], radix_y, scale_y)
    mac = quantize_mac(float_mac, settings)
    constants = {f.name: getattr(mac, f.name) for f in fields(mac)}
    constants["weight"] = linear.stored(mac.weight)

    spread = [-1 if axis == linear.out_axis else 1 for axis in range(len(y.shape))]
    n1, bias, m, n2 = (values.reshape(spread) for values in (mac.n1, mac.bias, mac.m, mac.n2))
    finish, extra = _make_finish(graph, activation, mac, scale_y, settings, x.bits, spread)

    def run(codes: np.ndarray) -> np.ndarray:
        acc = linear.accumulate(codes, mac.weight)
        p = saturate(shr(acc, n1), settings.psum_bits)
        p = saturate(p + bias, settings.psum_bits)
        return saturate(shr(finish(p) * m, n2), y.bits)

    return Step(label, (linear.data,), (output_name,), run, {**constants, **extra})


def _settings(
    graph: Graph, node: onnx.NodeProto, activation: onnx.NodeProto | None, x: Format, y: Format
) -> MacSettings:
    weight_bits = int(graph.weight_bits[label_of(node)])
    hard_swish = activation is not None and activation.op_type == "HardSwish"
    clip_bound = None
    if activation is not None and activation.op_type == "Clip":
        low, high = clip_bounds(graph, activation)
        if low is not None and high is not None:
            clip_bound = max(abs(low), abs(high))
    if graph.platform == "520" or hard_swish:
        psum_bits = 16
    else:
        psum_bits = 48 if 15 in (x.bits, weight_bits) else 32
    return MacSettings(label_of(node), weight_bits, y, psum_bits, graph.post_multiplier, clip_bound, hard_swish)


def _make_finish(
    graph: Graph,
    activation: onnx.NodeProto | None,
    mac: IntegerMac,
    scale_y: np.ndarray,
    settings: MacSettings,
    data_bits: int,
    spread: list[int],
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, np.ndarray]]:
    """What happens to p before `* m` and the last shift, and the integer constants of it."""
    if activation is None:
        return lambda p: p, {}
    if activation.op_type == "HardSwish":
        big_s = np.ldexp(mac.s_w, mac.r_p.astype(np.int32))
        three, six = np.rint(3 * big_s).astype(np.int64), np.rint(6 * big_s).astype(np.int64)
        shift_by, top = three.reshape(spread), six.reshape(spread)
        return lambda p: p * np.clip(p + shift_by, 0, top), {"three": three, "six": six}
    expect(activation.op_type in FUSABLE, activation, "this operator cannot be fused into a mac")
    unit = ((scale_y * mac.s_w).reshape(spread), mac.r_p.reshape(spread))
    act = make_act(graph, activation, unit, settings.psum_bits, data_bits)
    return act.run, {name: values.reshape(-1) for name, values in act.constants.items()}


def _bias(graph: Graph, node: onnx.NodeProto, position: int, size: int) -> np.ndarray:
    bias = graph.constant(node, position)
    if bias is None:
        return np.zeros(size)
    expect(bias.size in (1, size), node, f"the bias has shape {bias.shape} for {size} outputs")
    return np.broadcast_to(bias.astype(np.float64).reshape(-1), (size,))


def _read_conv(graph: Graph, node: onnx.NodeProto, y: Format) -> Linear:
    weight = graph.required_constant(node, 1)
    outputs, inputs, *kernel = weight.shape
    group = int(attributes(node).get("group", 1))
    window = read_window(node, tuple(kernel), graph.shape(node.input[0])[2:])
    group_of = np.arange(outputs) // (outputs // group)
    source = group_of[:, None] * inputs + np.arange(inputs)
    return Linear(
        data=node.input[0],
        weight=weight.astype(np.float64).reshape(outputs, inputs, -1),
        bias=_bias(graph, node, 2, outputs),
        source=source,
        in_axis=1,
        out_axis=1,
        accumulate=lambda codes, w: convolve(codes, w, window, group, y.shape[2:]),
        stored=lambda w: w.reshape(weight.shape),
    )


def _read_conv_transpose(graph: Graph, node: onnx.NodeProto, y: Format) -> Linear:
    weight = graph.required_constant(node, 1)  # [group * i, o / group, *kernel]
    total_inputs, outputs_of_group, *kernel = weight.shape
    values = attributes(node)
    group = int(values.get("group", 1))
    expect("output_shape" not in values, node, "output_shape is not known; the planned model has explicit pads")
    inputs, outputs = total_inputs // group, outputs_of_group * group
    window = read_window(node, tuple(kernel), graph.shape(node.input[0])[2:])
    by_group = weight.astype(np.float64).reshape(group, inputs, outputs_of_group, -1)
    group_of = np.arange(outputs) // outputs_of_group

    def stored(w: np.ndarray) -> np.ndarray:
        return w.reshape(group, outputs_of_group, inputs, -1).swapaxes(1, 2).reshape(weight.shape)

    return Linear(
        data=node.input[0],
        weight=by_group.swapaxes(1, 2).reshape(outputs, inputs, -1),
        bias=_bias(graph, node, 2, outputs),
        source=group_of[:, None] * inputs + np.arange(inputs),
        in_axis=1,
        out_axis=1,
        accumulate=lambda codes, w: convolve_transposed(codes, w, window, group, y.shape[2:]),
        stored=stored,
    )


def _matrix(graph: Graph, node: onnx.NodeProto, matrix: np.ndarray, bias: np.ndarray, transposed: bool) -> Linear:
    """Data [..., i] times a constant; `matrix` is [o, i] if transposed, else [i, o]."""
    by_output = matrix if transposed else matrix.T
    outputs, inputs = by_output.shape
    last = len(graph.shape(node.input[0])) - 1
    return Linear(
        data=node.input[0],
        weight=by_output.astype(np.float64)[:, :, None],
        bias=bias,
        source=np.broadcast_to(np.arange(inputs), (outputs, inputs)),
        in_axis=last,
        out_axis=last,
        accumulate=multiply_matrix,
        stored=lambda w: w[:, :, 0] if transposed else w[:, :, 0].T,
    )


def _read_gemm(graph: Graph, node: onnx.NodeProto, y: Format) -> Linear:
    values = attributes(node)
    plain = values.get("alpha", 1.0) == 1 and values.get("beta", 1.0) == 1 and values.get("transA", 0) == 0
    expect(plain, node, "alpha = beta = 1 and transA = 0 are required")
    matrix = graph.required_constant(node, 1)
    transposed = bool(values.get("transB", 0))
    outputs = matrix.shape[0] if transposed else matrix.shape[1]
    return _matrix(graph, node, matrix, _bias(graph, node, 2, outputs), transposed)


def _read_matmul(graph: Graph, node: onnx.NodeProto, y: Format) -> Linear:
    constant = graph.required_constant(node, 1)
    expect(2 <= constant.ndim <= len(y.shape), node, "a constant right operand must be a matrix")
    expect(constant.shape[:-2] == (1,) * (constant.ndim - 2), node, "a stack of matrices is an operand, not a weight")
    matrix = constant.reshape(constant.shape[-2:])
    return _matrix(graph, node, matrix, np.zeros(matrix.shape[1]), transposed=False)


def _read_batch_normalization(graph: Graph, node: onnx.NodeProto, y: Format) -> Linear:
    scale, bias, mean, var = (graph.required_constant(node, position).astype(np.float64) for position in range(1, 5))
    neutral = np.all(mean == 0) and np.all(var == 1) and attributes(node).get("epsilon", 1e-5) == 0
    expect(bool(neutral), node, "mean 0, variance 1 and epsilon 0 are required")
    return _diagonal(node.input[0], scale, bias, 1, len(y.shape))


def _read_constant_operand(graph: Graph, node: onnx.NodeProto, y: Format) -> Linear:
    """Mul, Add or Sub with one constant operand: a scalar or a vector along one axis."""
    position = 1 if graph.is_constant(node.input[1]) else 0
    data, rank = node.input[1 - position], len(y.shape)
    constant = graph.required_constant(node, position).astype(np.float64)
    long_axes = [rank - constant.ndim + axis for axis, size in enumerate(constant.shape) if size > 1]
    expect(len(long_axes) <= 1, node, "the constant must be a scalar or a vector along one axis")
    x = graph.format(data)
    axes = set(long_axes)
    for fmt in (x, y):
        if not fmt.is_per_layer():
            axes.add(rank - len(fmt.shape) + fmt.axis)
    expect(len(axes) <= 1, node, f"constant and formats vary along different axes {sorted(axes)}")
    expect(len(x.shape) == rank, node, "the constant must not add axes to the data")
    axis = axes.pop() if axes else 0
    size = y.shape[axis] if long_axes or not (x.is_per_layer() and y.is_per_layer()) else 1
    vector = np.broadcast_to(constant.reshape(-1), (size,))
    ones, zeros = np.ones(size), np.zeros(size)
    if node.op_type == "Mul":
        weight, bias = vector, zeros
    elif node.op_type == "Add":
        weight, bias = ones, vector
    else:  # x - c, or c - x
        weight, bias = (ones, -vector) if position == 1 else (-ones, vector)
    return _diagonal(data, weight, bias, axis, rank, same_channel=x.shape[axis] == size)


def _diagonal(
    data: str, weight: np.ndarray, bias: np.ndarray, axis: int, rank: int, same_channel: bool = True
) -> Linear:
    """Output channel o reads input channel o alone (or the only one, where the constant broadcasts the data)."""
    size = weight.size
    return Linear(
        data=data,
        weight=weight.reshape(size, 1, 1),
        bias=bias,
        source=(np.arange(size) if same_channel else np.zeros(size, dtype=np.int64))[:, None],
        in_axis=axis,
        out_axis=axis,
        accumulate=lambda codes, w: multiply_diagonal(codes, w, axis, rank),
        stored=lambda w: w.reshape(-1),
    )


READERS: dict[str, Callable[[Graph, onnx.NodeProto, Format], Linear]] = {
    "Conv": _read_conv,
    "ConvTranspose": _read_conv_transpose,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
    "BatchNormalization": _read_batch_normalization,
    "Mul": _read_constant_operand,
    "Add": _read_constant_operand,
    "Sub": _read_constant_operand,
}
