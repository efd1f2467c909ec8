"""Spectra and windows: DFT, STFT, MelWeightMatrix, Hann, Hamming and Blackman windows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class DFTAttrs:
    """dft_length None: that of the axis. One-sided: only the frequencies from 0 to half the length."""

    dft_length: int | None = None
    axis: int = -2
    inverse: int = 0
    onesided: int = 0


@dataclass(frozen=True)
class STFTAttrs:
    """frame_length None: that of the window."""

    frame_step: int = 1
    frame_length: int | None = None
    onesided: int = 1


@dataclass(frozen=True)
class WindowAttrs:
    """output_datatype is an ONNX type."""

    size: int = 1
    output_datatype: int = onnx.TensorProto.FLOAT
    periodic: int = 1


@dataclass(frozen=True)
class MelAttrs:
    """As in ONNX; output_datatype is an ONNX type."""

    num_mel_bins: int = 1
    dft_length: int = 1
    sample_rate: int = 1
    lower_edge_hertz: float = 0.0
    upper_edge_hertz: float = 1.0
    output_datatype: int = onnx.TensorProto.FLOAT


def _complex(x: Array) -> Array:
    """[..., 1 or 2] -> complex [...], in double precision: what cancels in a spectrum leaves no float32 noise."""
    x = x.astype(jnp.float64)
    return lax.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else jnp.zeros_like(x[..., 0]))


def _pairs(z: Array, dtype: Any) -> Array:
    return jnp.stack([z.real, z.imag], axis=-1).astype(dtype)


def _dft(a: DFTAttrs, x: Array) -> Array:
    axis = a.axis % x.ndim
    with jax.enable_x64(True):
        if a.inverse and a.onesided:
            length = a.dft_length or 2 * (x.shape[axis] - 1)
            return jnp.fft.irfft(_complex(x), length, axis)[..., None].astype(x.dtype)
        length = a.dft_length or x.shape[axis]
        y = (jnp.fft.ifft if a.inverse else jnp.fft.fft)(_complex(x), length, axis)
        if a.onesided:
            y = y[(slice(None),) * axis + (slice(length // 2 + 1),)]
        return _pairs(y, x.dtype)


def _dft_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    return replace(node, attrs={"axis": 1 if opset < 20 else -2, **node.attrs})


def _stft(a: STFTAttrs, x: Array, frame_step: None = None, window: Array | None = None) -> Array:
    length = a.frame_length or (x.shape[1] if window is None else window.shape[0])
    count = (x.shape[1] - length) // a.frame_step + 1
    with jax.enable_x64(True):
        frames = _complex(x)[:, np.arange(count)[:, None] * a.frame_step + np.arange(length)]
        y = jnp.fft.fft(frames if window is None else frames * window.astype(jnp.float64), axis=-1)
        return _pairs(y[..., : length // 2 + 1] if a.onesided else y, x.dtype)


def _window(shape: Callable[[np.ndarray], np.ndarray]) -> Callable[[WindowAttrs], Array]:
    """The float rule of a window; `shape` maps angles, a full turn over the window, to values."""

    def to_float(a: WindowAttrs) -> Array:
        turn = a.size if a.periodic else max(a.size - 1, 1)
        values = shape(2 * np.pi * np.arange(a.size) / turn)
        return jnp.asarray(values, onnx.helper.tensor_dtype_to_np_dtype(a.output_datatype))

    return to_float


def _hamming(angle: np.ndarray) -> np.ndarray:
    return 25 / 46 - 21 / 46 * np.cos(angle)


def _blackman(angle: np.ndarray) -> np.ndarray:
    return 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle)


def _mel_weights(a: MelAttrs) -> Array:
    """Triangles [dft_length // 2 + 1, num_mel_bins] whose corners are equidistant on the mel scale."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (a.lower_edge_hertz, a.upper_edge_hertz))
    mels = low + np.arange(a.num_mel_bins + 2) * ((high - low) / (a.num_mel_bins + 2))
    corners = ((a.dft_length + 1) * (700 * (10 ** (mels / 2595) - 1)) // a.sample_rate).astype(np.int64)
    left, peak, right = (v[None] for v in (corners[:-2], corners[1:-1], corners[2:]))
    at = np.arange(a.dft_length // 2 + 1)[:, None]
    rising = np.where(peak > left, (at - left) / np.maximum(peak - left, 1), 1.0) * ((at >= left) & (at <= peak))
    falling = (right - at) / np.maximum(right - peak, 1)
    weights = np.where((at >= peak) & (at < right), falling, rising)
    return jnp.asarray(weights, onnx.helper.tensor_dtype_to_np_dtype(a.output_datatype))


_MEL_INPUTS = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")

OPS = (
    OpDef(
        op_type="DFT", attrs=DFTAttrs, static_inputs=((1, "dft_length"), (2, "axis")), canonical=_dft_canonical,
        to_float=_dft,
    ),
    OpDef(op_type="STFT", attrs=STFTAttrs, static_inputs=((1, "frame_step"), (3, "frame_length")), to_float=_stft),
    OpDef(
        op_type="MelWeightMatrix", attrs=MelAttrs, static_inputs=tuple(enumerate(_MEL_INPUTS)), to_float=_mel_weights
    ),
    *(
        OpDef(op_type=op_type, attrs=WindowAttrs, static_inputs=((0, "size"),), to_float=_window(shape))
        for op_type, shape in (
            ("HannWindow", lambda angle: 0.5 - 0.5 * np.cos(angle)),
            ("HammingWindow", _hamming),
            ("BlackmanWindow", _blackman),
        )
    ),
)  # fmt: skip
