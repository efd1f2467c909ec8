"""Exact integer sums of products: convolution, transposed convolution, matrix product, diagonal.

Every function here maps codes and integer weights [o, i, taps] to acc[o]; group by group, one kernel tap at a time.
"""

import numpy as np

from .spatial import Window


def convolve(x: np.ndarray, weight: np.ndarray, window: Window, group: int, out: tuple[int, ...]) -> np.ndarray:
    """Conv: x [n, group * i, *spatial], weight [o, i, taps] -> acc [n, o, *out]."""
    return np.concatenate([_convolve_one(image[None], weight, window, group, out) for image in x])


def _convolve_one(x: np.ndarray, weight: np.ndarray, window: Window, group: int, out: tuple[int, ...]) -> np.ndarray:
    outputs, inputs, _ = weight.shape
    padded = window.padded(x, 0, out)
    grouped = weight.reshape(group, outputs // group, inputs, -1)
    acc = np.zeros((group, outputs // group, int(np.prod(out))), dtype=np.int64)
    for number, tap in enumerate(window.taps()):
        under_tap = window.at(padded, tap, out).reshape(group, inputs, -1)
        acc += grouped[..., number] @ under_tap
    return acc.reshape(1, outputs, *out)


def convolve_transposed(
    x: np.ndarray, weight: np.ndarray, window: Window, group: int, out: tuple[int, ...]
) -> np.ndarray:
    """ConvTranspose: x [n, group * i, *spatial], weight [o, i, taps] -> acc [n, o, *out]."""
    return np.concatenate([_convolve_transposed_one(image[None], weight, window, group, out) for image in x])


def _convolve_transposed_one(
    x: np.ndarray, weight: np.ndarray, window: Window, group: int, out: tuple[int, ...]
) -> np.ndarray:
    """Of one image.

    Input position p adds weight[tap] * x[p] at output position p * stride + tap * dilation - pad. The buffer holds
    the output before the pads are cut off; output_padding shows only in `out`.
    """
    outputs, inputs, _ = weight.shape
    spatial = x.shape[2:]
    grouped = weight.reshape(group, outputs // group, inputs, -1)
    flat = x.reshape(group, inputs, -1)
    sizes = [
        max((size - 1) * window.strides[axis] + window.extent(axis), window.begin[axis] + out[axis])
        for axis, size in enumerate(spatial)
    ]
    buffer = np.zeros((1, outputs, *sizes), dtype=np.int64)
    for number, tap in enumerate(window.taps()):
        window.at(buffer, tap, spatial)[...] += (grouped[..., number] @ flat).reshape(1, outputs, *spatial)
    cut = tuple(slice(begin, begin + size) for begin, size in zip(window.begin, out, strict=True))
    return buffer[(slice(None), slice(None), *cut)]


def multiply_matrix(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Gemm, MatMul with a constant: x [..., i], weight [o, i, 1] -> acc [..., o]."""
    return np.matmul(x, weight[:, :, 0].T)


def multiply_diagonal(x: np.ndarray, weight: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Diagonal mac: weight [o, 1, 1] lies along `axis` of the output, which has `rank` axes."""
    return x * weight.reshape([-1 if a == axis else 1 for a in range(rank)])
