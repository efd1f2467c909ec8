"""Sliding windows: automatic padding and output sizes, settled once for convolution and pooling."""

from typing import Any


def output_size(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil: bool) -> int:
    """Number of window positions along one axis (ONNX rule: no window starts in the end padding)."""
    span = size + begin + end - ((kernel - 1) * dilation + 1)
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + begin:
        count -= 1
    return count


def resolve_window(attrs: dict[str, Any], spatial: tuple[int, ...]) -> dict[str, Any]:
    """Fills strides, dilations and explicit pads, so that auto_pad is known to no other rule."""
    kernel = tuple(attrs["kernel_shape"])
    n = len(kernel)
    attrs = dict(attrs)
    strides = attrs["strides"] = tuple(attrs.get("strides") or (1,) * n)
    dilations = attrs["dilations"] = tuple(attrs.get("dilations") or (1,) * n)
    auto = attrs.pop("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begins.append(small if auto == "SAME_UPPER" else large)
            ends.append(large if auto == "SAME_UPPER" else small)
        attrs["pads"] = (*begins, *ends)
    elif auto == "VALID":
        attrs["pads"] = (0,) * (2 * n)
    else:
        attrs["pads"] = tuple(attrs.get("pads") or (0,) * (2 * n))
    return attrs
