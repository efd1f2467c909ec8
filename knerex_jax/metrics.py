"""How close a fixed-point result is to the float one. Section 5 of the arithmetic contract."""

import numpy as np


def snr_db(reference: np.ndarray, approximate: np.ndarray) -> float:
    """10 log10(sum ref^2 / sum (ref - approx)^2), pooled over everything; inf without error, -inf without signal."""
    ref = np.asarray(reference, np.float64)
    noise = float(np.sum((ref - np.asarray(approximate, np.float64)) ** 2))
    signal = float(np.sum(ref**2))
    if noise == 0:
        return float("inf")
    return float("-inf") if signal == 0 else 10 * float(np.log10(signal / noise))
