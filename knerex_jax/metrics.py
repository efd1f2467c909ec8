"""How close a fixed-point result is to the float one. Section 5 of the arithmetic contract."""

from dataclasses import dataclass

import numpy as np


def snr_db(reference: np.ndarray, approximate: np.ndarray) -> float:
    """10 log10(sum ref^2 / sum (ref - approx)^2), pooled over everything; inf without error, -inf without signal."""
    ref = np.asarray(reference, np.float64)
    noise = float(np.sum((ref - np.asarray(approximate, np.float64)) ** 2))
    signal = float(np.sum(ref**2))
    if noise == 0:
        return float("inf")
    return float("-inf") if signal == 0 else 10 * float(np.log10(signal / noise))


@dataclass(frozen=True)
class ChannelSnr:
    """SNR by channel: minimum and mean in dB over channels that carry signal, and how many went dead."""

    min_db: float
    mean_db: float
    dead: int


def channel_snr(reference: np.ndarray, approximate: np.ndarray, axis: int) -> ChannelSnr:
    """SNR of every channel along `axis` of [N, ...] arrays; dead: constant in fixed point, not constant in float."""
    ref = np.moveaxis(np.asarray(reference, np.float64), axis, 0).reshape(reference.shape[axis], -1)
    fix = np.moveaxis(np.asarray(approximate, np.float64), axis, 0).reshape(ref.shape)
    dead = int(((np.ptp(fix, axis=1) == 0) & (np.ptp(ref, axis=1) > 0)).sum())
    values = [snr_db(r, f) for r, f in zip(ref, fix, strict=True) if (r != 0).any()]
    finite = [v for v in values if np.isfinite(v)]
    return ChannelSnr(min(values, default=float("inf")), float(np.mean(finite)) if finite else float("inf"), dead)
