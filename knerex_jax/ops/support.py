"""Which operators run on which NPU, and under what condition: the public operator table as one mapping.

Source: the operator table of the public toolchain manual, release 0.33.1. 530 and 630 share a column. An operator that
is not named here runs on no NPU.
"""

from collections.abc import Mapping
from types import MappingProxyType

from knerex_jax.ops import conditions as c
from knerex_jax.ops import conditions_resize as r
from knerex_jax.ops import conditions_window as w
from knerex_jax.ops.opdef import Condition


def _row(
    on_520: Condition | None, on_720: Condition | None, on_530_630: Condition | None, on_730: Condition | None
) -> Mapping[str, Condition]:
    """Platform -> condition, without the platforms that do not run the operator."""
    columns = {"520": on_520, "530": on_530_630, "630": on_530_630, "720": on_720, "730": on_730}
    return MappingProxyType({platform: rule for platform, rule in columns.items() if rule is not None})


_ANYWHERE = _row(c.anything, c.anything, c.anything, c.anything)
_NOT_520 = _row(None, c.anything, c.anything, c.anything)
_FROM_530 = _row(None, None, c.anything, c.anything)
_ONLY_730 = _row(None, None, None, c.anything)

SUPPORT: Mapping[str, Mapping[str, Condition]] = {
    "Abs": _ONLY_730,
    "Add": _row(c.at_most_4d, c.at_most_4d, c.at_most_4d, c.anything),
    "AveragePool": _row(w.average_520, w.average_720, w.average_720, w.average_730),
    "BatchNormalization": _row(c.at_most_4d, c.at_most_4d, c.at_most_4d, c.at_most_4d),
    "Clip": _row(c.relu_n, c.relu_n, c.relu_n, c.relu_n),
    "Concat": _row(c.at_most_4d, c.at_most_4d, c.at_most_4d, c.anything),
    "Conv": _row(w.conv_small_kernel, w.conv_strides, c.at_most_4d, c.at_most_4d),
    "ConvTranspose": _row(None, w.stride_2, w.square_stride, c.anything),
    "DepthToSpace": _row(
        c.depth_to_space_2_of_one_channel, c.depth_to_space_2_of_one_channel, c.block_2_or_4, c.block_2_or_4
    ),
    "Div": _FROM_530,
    "Elu": _FROM_530,
    "Erf": _FROM_530,
    "Exp": _row(None, c.exp_by_power_of_two, c.anything, c.anything),
    "Expand": _row(None, c.expand_rows_or_columns, c.expand_within_a_sample, c.expand_within_a_sample),
    "Flatten": _row(None, c.axis_1, c.axis_1, c.axis_1),
    "Gather": _row(c.one_index, c.one_index, c.one_index, c.one_index),
    "Gemm": _ANYWHERE,
    "GlobalAveragePool": _row(
        w.global_average_256, w.global_average_16384, w.global_average_16384, w.global_average_16384
    ),
    "GlobalMaxPool": _row(w.more_than_3_rows, c.anything, c.anything, c.anything),
    "HardSigmoid": _FROM_530,
    "InstanceNormalization": _ONLY_730,
    "LayerNormalization": _ONLY_730,
    "LeakyRelu": _ANYWHERE,
    "Log": _ONLY_730,
    "Loop": _ONLY_730,
    "MatMul": _row(None, c.matmul_4d, c.matmul_4d, c.matmul_3d_to_5d),
    "Max": _ONLY_730,
    "MaxPool": _row(w.maximum_520, w.maximum_520, w.maximum_530, w.maximum_530),
    "MaxRoiPool": _NOT_520,
    "Mul": _row(None, c.at_most_4d, c.at_most_4d, c.anything),
    "Neg": _ANYWHERE,
    "PRelu": _ANYWHERE,
    "Pad": _row(c.pad_spatial_zeros, c.pad_spatial_zeros, c.pad_spatial_zeros, c.pad_zeros),
    "Pow": _row(None, c.square, c.square, c.square),
    "Reciprocal": _FROM_530,
    "ReduceMax": _row(c.keeps_axes, c.keeps_axes, c.keeps_axes, c.keeps_axes),
    "ReduceMean": _row(
        None, c.reduces_within_a_sample, c.reduces_within_a_sample, c.reduces_within_a_sample
    ),
    "ReduceMin": _ONLY_730,
    "ReduceSum": _row(c.reduces_channels, c.reduces_within_a_sample, c.reduces_within_a_sample, c.anything),
    "Relu": _ANYWHERE,
    "Reshape": _NOT_520,
    "Resize": _row(r.resize_520, r.resize_720, r.resize_530, r.resize_530),
    "Sigmoid": _NOT_520,
    "Sign": _ONLY_730,
    "Slice": _row(None, c.slice_4d_step_1, c.slice_4d_step_1, c.slice_step_1),
    "Softmax": _row(None, None, c.softmax_in_parts, c.softmax_in_parts),
    "SpaceToDepth": _row(None, None, c.block_2_or_4, c.block_2_or_4),
    "Split": _ONLY_730,
    "Sqrt": _FROM_530,
    "Sub": _ANYWHERE,
    "Tanh": _NOT_520,
    "Transpose": _row(None, c.transpose_neighbours, c.transpose_within_a_sample, c.anything),
    "Upsample": _row(r.upsample_4d, r.upsample_one_direction, r.upsample_4d, r.upsample_4d),
}  # fmt: skip
"""op_type -> platform -> condition; a platform that is absent does not run the operator."""

REWRITES: Mapping[str, str] = {
    "Softmax": "let the model end before it and apply it behind the output",
    "LogSoftmax": "let the model end before it and apply it behind the output",
    "Sigmoid": "let the model end before it and apply it behind the output",
    "Mul": "multiply by a constant per channel, which becomes part of a convolution or a BatchNormalization",
    "Div": "divide by a constant, which becomes a BatchNormalization",
    "Reshape": "move it behind the model's output, or use a 1x1 convolution instead of a dense layer behind it",
    "Flatten": "move it behind the model's output, or use a 1x1 convolution instead of a dense layer behind it",
    "Transpose": "move it behind the model's output, or export in the layout batch, channel, row, column",
    "HardSwish": "use Relu or Relu6 instead",
    "ReduceMean": "use GlobalAveragePool over rows and columns",
    "Slice": "split the layer in front into one layer per slice",
    "MatMul": "multiply by a constant, which becomes a Gemm",
}
"""What to do about an operator that the platform does not run, where there is a better answer than the general one."""
