"""What a platform's NPU asks of convolutions and pooling; see `conditions` for the form of these rules."""

from math import prod
from typing import Any

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops.conditions import at_most_4d

_LARGEST_KERNEL = 12
_LARGEST_STRIDE_W, _LARGEST_STRIDE_H = 16, 4
_SMALL = 3  # largest window and stride of direct pooling


def conv_strides(node: Node, model: Model) -> str | None:
    """Tensors have at most 4 dimensions; stride at most 16 along columns and 4 along rows."""
    wrong = at_most_4d(node, model)
    if wrong:
        return wrong
    *rows, column = node.attrs.strides
    if column > _LARGEST_STRIDE_W:
        return f"stride {column} along columns > {_LARGEST_STRIDE_W}: use two convolutions, or pool in between"
    if rows and rows[0] > _LARGEST_STRIDE_H:
        return f"stride {rows[0]} along rows > {_LARGEST_STRIDE_H}: use two convolutions, or pool in between"
    return None


def conv_small_kernel(node: Node, model: Model) -> str | None:
    """Tensors have at most 4 dimensions; kernel at most 12; stride at most 16 along columns and 4 along rows."""
    kernel = max(node.attrs.kernel_shape)
    if kernel > _LARGEST_KERNEL:
        return f"kernel {kernel} > {_LARGEST_KERNEL}: split the convolution into several of smaller kernels"
    return conv_strides(node, model)


def stride_2(node: Node, model: Model) -> str | None:
    """The stride is 2 along rows and columns."""
    strides = tuple(node.attrs.strides)
    if strides == (2, 2):
        return None
    return f"strides {strides}, must be (2, 2): resize and convolve, or use several steps of stride 2"


def square_stride(node: Node, model: Model) -> str | None:
    """The stride is the same along rows and columns."""
    strides = tuple(node.attrs.strides)
    if len(strides) == 2 and strides[0] == strides[1]:
        return None
    return f"strides {strides}, must be the same along rows and columns: resize one direction separately"


def global_average_256(node: Node, model: Model) -> str | None:
    """Tensors have at most 4 dimensions, and a channel at most 256 elements."""
    return at_most_4d(node, model) or _at_most_elements(node, model, 256)


def global_average_16384(node: Node, model: Model) -> str | None:
    """Tensors have at most 4 dimensions, and a channel at most 16384 elements."""
    return at_most_4d(node, model) or _at_most_elements(node, model, 16384)


def _at_most_elements(node: Node, model: Model, limit: int) -> str | None:
    count = prod(model.graph.shape(node.inputs[0])[2:])
    return None if count <= limit else f"{count} elements per channel > {limit}: average over windows first"


def more_than_3_rows(node: Node, model: Model) -> str | None:
    """The input has more than 3 rows."""
    shape = model.graph.shape(node.inputs[0])
    rows = shape[2] if len(shape) > 3 else 1
    return None if rows > 3 else f"{rows} rows, must be more than 3: use MaxPool with the window of the whole input"


def average_520(node: Node, model: Model) -> str | None:
    """One of these forms.

    (a) Floor mode, padding not counted, square window with the same square stride, a power of two above 3.
    (b) Floor mode, no dilation, window 1 with a stride above 1.
    (c) Floor mode, padding not counted, square stride above 3.
    (d) Two-dimensional, no dilation, square window up to 3, square stride up to the window.
    """
    a = node.attrs
    small = _undilated(a) and _small_square(a, stride_within_window=True)
    return None if _large_average(a) or _subsampling(a) or small else _misfit(a)


def average_720(node: Node, model: Model) -> str | None:
    """One of these forms; 530 and 630 have the same.

    (a) Floor mode, padding not counted, square window with the same square stride, a power of two above 3.
    (b) Floor mode, no dilation, window 1 with a stride above 1.
    (c) Floor mode, padding not counted, square stride above 3.
    (d) Two-dimensional, no dilation: square window and square stride up to 3; or window and stride up to 3 along rows
    and 1 along columns; or the same window and stride up to 3 along columns and 1 along rows.
    """
    a = node.attrs
    small = _undilated(a) and (_small_square(a) or _small_rows(a) or _small_columns(a))
    return None if _large_average(a) or _subsampling(a) or small else _misfit(a)


def average_730(node: Node, model: Model) -> str | None:
    """One of these forms.

    (a) Floor mode, padding not counted, square window with the same square stride, a power of two above 3.
    (b) Floor mode, padding not counted, no dilation, window 1 with a stride above 1.
    (c) Floor mode, padding not counted, square stride above 3.
    (d) One- or two-dimensional, no dilation: square window and square stride up to 3; or window and stride up to 3
    along rows and 1 along columns; or the same window and stride up to 3 along columns and 1 along rows.
    """
    a = node.attrs
    line = len(a.kernel_shape) == 1 and max(*a.kernel_shape, *a.strides) <= _SMALL
    small = _undilated(a) and (line or _small_square(a) or _small_rows(a) or _small_columns(a))
    return None if _large_average(a) or (_subsampling(a) and _uncounted(a)) or small else _misfit(a)


def maximum_520(node: Node, model: Model) -> str | None:
    """One of these forms; 720 has the same.

    (a) Floor mode, no dilation, window 1 with a stride above 1.
    (b) Floor mode, no dilation, square window with the same square stride, a power of two above 3.
    (c) Floor mode, window above 3 in every direction.
    (d) Two-dimensional, no dilation, square window of 2 or 3, square stride up to the window.
    """
    a = node.attrs
    small = _undilated(a) and _small_square(a, smallest=2, stride_within_window=True)
    return None if _large_maximum(a) or small else _misfit(a)


def maximum_530(node: Node, model: Model) -> str | None:
    """One of these forms; 630 and 730 have the same.

    (a) Floor mode, no dilation, window 1 with a stride above 1.
    (b) Floor mode, no dilation, square window with the same square stride, a power of two above 3.
    (c) Floor mode, window above 3 in every direction.
    (d) Two-dimensional: square window and square stride up to 3 without dilation; or window and stride up to 3 along
    rows and 1 along columns; or the same window and stride up to 3 along columns and 1 along rows.
    """
    a = node.attrs
    fits = _large_maximum(a) or (_undilated(a) and _small_square(a)) or _small_rows(a) or _small_columns(a)
    return None if fits else _misfit(a)


def _large_average(a: Any) -> bool:
    """Forms (a) and (c) of AveragePool."""
    return (
        not a.ceil_mode and _uncounted(a) and (_power_of_two_tiles(a) or (_same(a.strides) and a.strides[0] > _SMALL))
    )


def _large_maximum(a: Any) -> bool:
    """Forms (a) to (c) of MaxPool."""
    tiles = _undilated(a) and _power_of_two_tiles(a)
    return _subsampling(a) or (not a.ceil_mode and (tiles or min(a.kernel_shape) > _SMALL))


def _subsampling(a: Any) -> bool:
    return not a.ceil_mode and _undilated(a) and set(a.kernel_shape) == {1} and min(a.strides) > 1


def _power_of_two_tiles(a: Any) -> bool:
    n = a.kernel_shape[0]
    return _same(a.kernel_shape) and tuple(a.strides) == tuple(a.kernel_shape) and n > _SMALL and n & (n - 1) == 0


def _small_square(a: Any, smallest: int = 1, stride_within_window: bool = False) -> bool:
    if not (_same(a.kernel_shape) and _same(a.strides)):
        return False
    k, s = a.kernel_shape[0], a.strides[0]
    return smallest <= k <= _SMALL and s <= (k if stride_within_window else _SMALL)


def _small_rows(a: Any) -> bool:
    if len(a.kernel_shape) != 2:
        return False
    (kh, kw), (sh, sw) = a.kernel_shape, a.strides
    return kw == sw == 1 and max(kh, sh) <= _SMALL


def _small_columns(a: Any) -> bool:
    if len(a.kernel_shape) != 2:
        return False
    (kh, kw), (sh, sw) = a.kernel_shape, a.strides
    return kh == sh == 1 and kw == sw <= _SMALL


def _same(values: tuple[int, ...]) -> bool:
    """Whether a two-dimensional geometry is square."""
    return len(values) == 2 and values[0] == values[1]


def _undilated(a: Any) -> bool:
    return all(d == 1 for d in a.dilations)


def _uncounted(a: Any) -> bool:
    """Whether padding does not count in an average; without padding it cannot."""
    return not a.count_include_pad or not any(a.pads)


def _misfit(a: Any) -> str:
    facts = [f"window {_by(a.kernel_shape)} with stride {_by(a.strides)}"]
    if not _undilated(a):
        facts.append(f"dilation {_by(a.dilations)}")
    if a.ceil_mode:
        facts.append("ceil mode")
    if not _uncounted(a):
        facts.append("counted padding")
    return f"{', '.join(facts)} is not among the forms: use a square window up to 3, or several poolings in a row"


def _by(values: tuple[int, ...]) -> str:
    return "x".join(str(v) for v in values)
