"""Advice about calibration data that fits the letter of a run but not its purpose."""

import re
from collections.abc import Mapping

_FEW_SAMPLES = 100
_POSITIONS = 1000
_CHANNELS = 128
_WORDS = re.compile(
    r"yolo|b?box|score|conf(idence)?(?![a-z])|anchor|objectness|detect|(?<![a-z])(obj|reg|loc|cls|hm)(?![a-z])|heatmap|landmark",
    re.IGNORECASE,
)


def data_hints(samples: int, pct: float, outputs: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Hints about the amount of data and the cut.

    Args:
      samples: number of calibration samples.
      pct: share of magnitudes that 8-bit ranges keep.
      outputs: output name -> shape, batch axis included.
    """
    hints = []
    if samples < _FEW_SAMPLES:
        hints.append(f"{samples} calibration samples are few: 100 or more typical ones give steadier ranges")
    reason = detector_sign(outputs)
    if pct < 1 and reason:
        hints.append(
            f"this looks like a detector ({reason}): its rare large values matter, so try data_analysis_pct=1.0"
            f" instead of {pct:g}"
        )
    return hints


def detector_sign(outputs: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why a model looks like a detector, None if it does not: many positions, telling names or several outputs."""
    for name, shape in outputs.items():
        sizes = sorted(d for d in shape[1:] if d > 1)
        if len(sizes) >= 2 and sizes[0] <= _CHANNELS and _positions(shape) > _POSITIONS:
            return f"output '{name}' has {_positions(shape)} positions"
    for name in outputs:
        if _WORDS.search(name):
            return f"output '{name}' is named like one"
    return f"{len(outputs)} outputs" if len(outputs) > 1 else None


def _positions(shape: tuple[int, ...]) -> int:
    """Product of all axes but the batch and the smallest other one, which we take for the channels."""
    sizes = sorted(shape[1:])
    product = 1
    for size in sizes[1:]:
        product *= size
    return product
