"""What overrides come to in numbers: the ranges a user gives, and the scales that classes can take from them."""

from collections.abc import Container, Mapping

import numpy as np

from knerex_jax.calibrate.ranges import Cut, Ranges
from knerex_jax.fixedpoint.qformat import MAX_RADIX, MIN_RADIX, QFormat, data_limits
from knerex_jax.quantize.bitwidth import Widths
from knerex_jax.quantize.note import Note
from knerex_jax.quantize.overrides import Overrides, refusal
from knerex_jax.quantize.structure import Structure


def trace(structure: Structure, tensor: str, *known: Container[str]) -> tuple[str, np.ndarray | None]:
    """The first of a tensor and those it is a copy of that is known, and which channels of it these are (None: all)."""
    channels = None
    while not any(tensor in k for k in known):
        tensor, step = structure.aliases[tensor]
        channels = step if channels is None else step[channels]
    return tensor, channels


def asked_absmax(
    structure: Structure, ranges: Ranges, overrides: Overrides, tensor: str, bits: int
) -> np.ndarray | None:
    """The range that the user gives for a tensor or for what it is a copy of: float64 [1] or [C]; None if neither."""
    source, channels = trace(structure, tensor, overrides.low, overrides.high, ranges)
    if source not in overrides.low and source not in overrides.high:
        return None
    measured, places = trace(structure, source, ranges)
    cut = ranges[measured].cut(bits)
    by_channel = max(len(end.get(source, ())) for end in (overrides.low, overrides.high)) > 1
    low, high = (
        np.abs(given.get(source, _measured(cut, name, places, by_channel)))
        for given, name in ((overrides.low, "min"), (overrides.high, "max"))
    )
    absmax = np.maximum(low, high)
    return absmax if channels is None or len(absmax) == 1 else absmax[channels]


def _measured(cut: Cut, end: str, places: np.ndarray | None, by_channel: bool) -> np.ndarray:
    """One end of a measured range, per layer or per channel."""
    values = np.asarray(getattr(cut, f"channel_{end}"), np.float64)
    if not by_channel or len(values) == 1:
        return np.asarray([getattr(cut, f"layer_{end}")], np.float64)
    return values if places is None else values[places]


def impose_scales(
    structure: Structure,
    absmax: Mapping[str, np.ndarray],
    widths: Widths,
    overrides: Overrides,
    scale: np.ndarray,
    reference: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, tuple[Note, ...]]:
    """The scales of all classes with those that the user chose; a class is asked through the tensor it depends on.

    Args:
      structure: the constraint problem.
      absmax: range of every tensor.
      widths: of every tensor.
      overrides: what the user imposes.
      scale: float32, of every class.
      reference: number of the tensor that a class takes its scale from.

    Returns:
      scale; reference, -1 where the user chose; a note for every scale that cannot be chosen.
    """
    if not overrides.scale:
        return scale, reference, ()
    scale, chosen, notes = scale.copy(), reference.copy(), []
    finest, coarsest = _quotients(structure, absmax, widths, len(scale))
    products = {int(c) for y, _, _ in structure.products for c in structure.classes[y]}
    number = {t: i for i, t in enumerate(structure.tensors)}
    for t, asked in overrides.scale.items():
        classes = structure.classes[t]
        values = np.broadcast_to(asked, classes.shape)
        _, first, member = np.unique(classes, return_index=True, return_inverse=True)
        others = [int(r) for r in reference[classes] if r != number[t]]
        if products.intersection(classes.tolist()):
            why = "its scale is the product of its operands' scales"
        elif others:
            why = f"it shares the scale of {structure.tensors[others[0]]}; choose that"
        elif (values[first][member] != values).any():
            why = "some of its channels share one scale"
        elif (finest[classes] / values >= 2.0 ** (MAX_RADIX + 1)).any() or (
            coarsest[classes] / values < 2.0**MIN_RADIX
        ).any():
            why = f"a radix would leave {MIN_RADIX} .. {MAX_RADIX}"
        else:
            scale[classes], chosen[classes] = values, -1
            continue
        notes.append(refusal(t, "scale", asked, why))
    return scale, chosen, tuple(notes)


def _quotients(
    structure: Structure, absmax: Mapping[str, np.ndarray], widths: Widths, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest code per unit, scale times 2**radix, that the members of every class ask for."""
    finest, coarsest = np.zeros(count), np.full(count, np.inf)
    for t, a in absmax.items():
        held = a > 0
        quotient = data_limits(widths.data[t])[1] / a[held]
        np.maximum.at(finest, structure.classes[t][held], quotient)
        np.minimum.at(coarsest, structure.classes[t][held], quotient)
    return finest, coarsest


def missed_radices(overrides: Overrides, formats: Mapping[str, QFormat]) -> tuple[Note, ...]:
    """A note for every radix that an operator did not let through."""
    return tuple(
        refusal(t, "radix", asked, "a Concat leaves at the smallest radix of its operands on this platform")
        for t, asked in overrides.radix.items()
        if (formats[t].radix != asked).any()
    )
