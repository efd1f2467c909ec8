"""Small helpers of the published interface that older scripts call."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from knerex_jax.fixedpoint.qformat import MAX_RADIX, MIN_RADIX


def get_radix(inputs: Iterable[Any]) -> int:
    """Radix of 8-bit inputs without a scale: 7 - ceil(log2(largest magnitude)). Deprecated: calibration finds formats.

    Args:
      inputs: arrays of one model input, in real units.

    Raises:
      ValueError: there are no values, one is NaN or infinite, all are zero, or the radix is outside -16 .. 31.
    """
    warnings.warn("get_radix is not needed: run_ptq finds the format of inputs", DeprecationWarning, stacklevel=2)
    arrays = (np.asarray(a, np.float64) for a in inputs)
    absmax = float(np.max([np.abs(a).max(initial=0) for a in arrays], initial=0))
    if not 0 < absmax < np.inf:  # NaN is not either
        raise ValueError(f"no radix for inputs whose largest magnitude is {absmax}")
    mantissa, exponent = np.frexp(absmax)
    radix = 7 - int(exponent - (mantissa == 0.5))
    if not MIN_RADIX <= radix <= MAX_RADIX:
        raise ValueError(f"inputs up to {absmax:g} need radix {radix}, outside {MIN_RADIX} .. {MAX_RADIX}")
    return radix


def convert_channel_last_to_first(image: np.ndarray) -> np.ndarray:
    """An image HWC, or images NHWC, as NCHW (of one image N is 1); a view, of the same element type.

    Raises:
      ValueError: it has neither three nor four axes.
    """
    array = np.asarray(image)
    if array.ndim not in (3, 4):
        raise ValueError(f"an image has 3 axes (HWC) or 4 (NHWC), this array {array.ndim}")
    return np.moveaxis(array if array.ndim == 4 else array[None], -1, -3)
