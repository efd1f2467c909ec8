"""Advice about calibration data that fits the letter of a run but not its purpose."""

import re
from collections.abc import Mapping
from math import prod

_FEW_SAMPLES = 100
_POSITIONS = 1000
_CHANNELS = 256
_SURE = re.compile(r"yolo|b?box|anchor|objectness|detect|heatmap|landmark", re.IGNORECASE)
_LIKELY = re.compile(r"score|conf(idence)?(?![a-z])|(?<![a-z])(obj|reg|loc|cls|hm)(?![a-z])", re.IGNORECASE)
"""Names of a detector's outputs; classifiers have some of them, too, but no positions."""


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
            f"this may be a detector ({reason}), whose rare large values matter: compare with data_analysis_pct=1.0"
            f" instead of {pct:g}"
        )
    return hints


def detector_sign(outputs: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why a model looks like a detector, None if it does not: many positions, telling names or several outputs."""
    for name, shape in outputs.items():
        channels, positions = _extent(shape)
        if channels <= _CHANNELS and positions > _POSITIONS:
            return f"output '{name}' has {positions} positions"
    for name, shape in outputs.items():
        if _SURE.search(name) or (len(shape) > 2 and _LIKELY.search(name)):
            return f"output '{name}' is named like one"
    return f"{len(outputs)} outputs" if len(outputs) > 1 else None


def _extent(shape: tuple[int, ...]) -> tuple[int, int]:
    """(channels, positions): the second axis and the rest; of two axes the smaller and the larger; of one neither."""
    if len(shape) < 3:
        return 1, 1
    if len(shape) == 3:
        return min(shape[1:]), max(shape[1:])
    return shape[1], shape[0] * prod(shape[2:])
