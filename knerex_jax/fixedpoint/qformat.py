"""Number formats: how codes stand for real values. Section 1 of the arithmetic contract."""

from dataclasses import dataclass, field
from typing import Final

import jax
import numpy as np

ARITH_VERSION: Final = 1
MIN_RADIX: Final = -16
MAX_RADIX: Final = 31
# float32 rounding of a shared scale may push a quotient just below the power of two it stands for; anything closer
# than this counts as that power. The largest code it can cost is the one saturation already gives.
_SNAP: Final = 2.0**-20


def data_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest code of a data tensor; bits is 8 or 15 (significant bits of int16)."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def weight_limit(bits: int) -> int:
    """Largest weight code (symmetric); bits is 4, 8 or 15."""
    return (1 << (bits - 1)) - 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QFormat:
    """The format of a quantized tensor: real = code / (scale * 2**radix).

    Attributes:
      radix: int32 [C] along `axis`, or [1] per layer.
      scale: float32, same length.
      bits: 8 or 15 significant bits.
      axis: channel axis of the tensor, None for per layer.
    """

    radix: np.ndarray
    scale: np.ndarray
    bits: int = field(metadata=dict(static=True))
    axis: int | None = field(metadata=dict(static=True))

    @property
    def factor(self) -> np.ndarray:
        """Scale * 2**radix in float64 (exact), same length: codes per real unit."""
        return np.ldexp(np.asarray(self.scale, np.float64), self.radix)


def _floor_log2(x: np.ndarray) -> np.ndarray:
    """floor(log2(x)), exact, with quotients a hair below a power of two counted as that power."""
    mantissa, exponent = np.frexp(x * (1.0 + _SNAP))
    return np.where(mantissa == 0.0, 0, exponent - 1).astype(np.int64)


def own_format(absmax: np.ndarray, qmax: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radix and scale that spend the whole code range on [-absmax, absmax].

    Args:
      absmax: float64 [C], real units, >= 0.
      qmax: largest positive code.
      bits: width, used for all-zero channels (radix = bits - 1, scale = 1).

    Returns:
      radix int32 [C] within -16 .. 31; scale float32 [C] in [1, 2) (below 1 only where radix was clamped to -16);
      clamped bool [C], true where the radix had to be clamped.
    """
    absmax = np.asarray(absmax, np.float64)
    zero = absmax == 0
    safe = np.where(zero, 1.0, absmax)
    mantissa, exponent = np.frexp(qmax / safe)
    radix = exponent.astype(np.int64) - 1
    scale = np.float32(2.0 * mantissa)
    rounded_up = scale >= 2
    radix, scale = radix + rounded_up, np.where(rounded_up, np.float32(1), scale)
    limited = np.clip(radix, MIN_RADIX, MAX_RADIX)
    clamped = (limited != radix) & ~zero
    # Recomputed at the clamped radix; a scale of 2 or more would promise codes that do not exist.
    rescaled = np.minimum(np.ldexp(qmax / safe, -limited), np.nextafter(np.float32(2), np.float32(1)))
    scale = np.where(clamped, np.float32(rescaled), scale)
    radix, scale = np.where(zero, bits - 1, limited), np.where(zero, np.float32(1), scale)
    return radix.astype(np.int32), scale.astype(np.float32), clamped


def imposed_radix(absmax: np.ndarray, scale: np.ndarray, qmax: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Radix [C] int32 of a tensor whose scale comes from a constraint, and where it was clamped (bool [C])."""
    absmax = np.asarray(absmax, np.float64)
    zero = absmax == 0
    quotient = qmax / (np.where(zero, 1.0, absmax) * np.asarray(scale, np.float64))
    radix = np.where(zero, bits - 1, _floor_log2(quotient))
    limited = np.clip(radix, MIN_RADIX, MAX_RADIX)
    return limited.astype(np.int32), (limited != radix) & ~zero


def multiplier(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A positive real ratio as a 15-bit mantissa: ratio ~ m * 2**(e - 15), 2**14 <= m < 2**15.

    Args:
      ratio: float64 [C], > 0.

    Returns:
      m int32 [C], e int64 [C]. m = 2**15 is written 2**14 with e + 1.
    """
    f, e = np.frexp(np.asarray(ratio, np.float64))
    m = np.rint(np.ldexp(f, 15)).astype(np.int64)
    full = m == 1 << 15
    return np.where(full, 1 << 14, m).astype(np.int32), (e + full).astype(np.int64)
