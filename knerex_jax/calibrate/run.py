"""The calibration loop: one compiled step per reading of the data, constant memory, any number of samples.

Two readings suffice where the data can be read twice: the first finds the exact range of every channel, the second
counts magnitudes finely in the octaves under its maximum. A threshold still lower (a few huge outliers over a
small rest) takes another reading of the tensors concerned. Data that can be read only once is counted coarsely.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from knerex_jax.calibrate.cuts import cut_ranges, is_final
from knerex_jax.calibrate.hints import data_hints
from knerex_jax.calibrate.observers import Extremes, Grid, Observer, extremes, histogram
from knerex_jax.calibrate.ranges import Ranges, TensorRange
from knerex_jax.calibrate.reading import Batch, FloatFn, Measurement, read
from knerex_jax.calibrate.state import CalibrationState, TensorState, code_of, state_of_range
from knerex_jax.data.sources import Source
from knerex_jax.errors import ModelError
from knerex_jax.graph.ir import TensorType

_FINE_BITS = 9
_OCTAVES = 6
_MORE_OCTAVES = 12
"""Width of the fine windows: with 100 samples, 6 octaves held every threshold of five real models (experiments)."""

_COARSE = Grid(bits=6, octaves=32)
_COARSE_HEADROOM = 8
"""Octaves of the coarse window above the first batch's maximum."""


def calibrate(
    fn: FloatFn,
    params: Any,
    source: Source,
    observed: Mapping[str, int | None],
    types: Mapping[str, TensorType],
    *,
    pct: float = 0.999,
    pct_wide: float = 0.999999,
    exact: Iterable[str] = (),
    batch_size: int = 16,
    threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> Ranges:
    """Measures ranges at both cuts.

    Args:
      fn: (params, inputs of one sample) -> {tensor: array}, batch axis of 1 included; pure and not compiled.
      params: its constants.
      source: calibration data.
      observed: tensor -> channel axis, None for tensors without channels.
      types: types of all observed tensors and of the inputs.
      pct: share of magnitudes kept for 8-bit types; 1 gives the exact minimum and maximum.
      pct_wide: share kept for 15-bit types.
      exact: tensors that are never cut (model outputs).
      batch_size: samples per compiled step; the result does not depend on it (beyond what the float model's own
        rounding does).
      threads: threads that load, decode and preprocess data.
      progress: called with the number of samples done; starts again with every reading of the data.

    Raises:
      ModelError: a tensor becomes NaN or infinite (the message names it), or the data does not fit the model.
      ConfigError: a batch of that size cannot be counted.
    """
    kept = frozenset(exact)
    axes = {t: None if axis is None else axis % len(types[t].shape) for t, axis in observed.items()}
    measurement = Measurement(fn, params, axes, types, batch_size, threads, progress)
    state, hints = measure(measurement, source, pct, pct_wide, exact=kept)
    outputs = {t: types[t].shape for t in kept if t in types}
    return ranges_of(state, pct, pct_wide, exact=kept, hints=(*data_hints(state.samples, pct, outputs), *hints))


def measure(
    measurement: Measurement, source: Source, pct: float, pct_wide: float, *, exact: Collection[str] = ()
) -> tuple[CalibrationState, list[str]]:
    """Reads the data as often as these cuts need.

    Args:
      measurement: what is measured.
      source: calibration data.
      pct: share of magnitudes that `ranges_of` will be asked for.
      pct_wide: the other one.
      exact: tensors that are never cut.

    Returns:
      The state, which can be merged with those of other data, and notes on its accuracy.
    """
    if not source.rereadable:
        return _measure_once(measurement, source)
    samples, digest, seen = read(measurement, _batches(measurement, source), extremes_of(measurement))
    states = {t: _range_state(measurement, t, samples, found[0]) for t, found in seen.items()}
    while pending := [t for t in states if t not in exact and not is_final(states[t], (pct, pct_wide))]:
        grids = {t: fine_grid(states[t]) for t in pending}
        observers = {t: ((histogram(g),), (states[t].next_window(g.octaves),)) for t, g in grids.items()}
        again, digest_again, windows = read(measurement, _batches(measurement, source), observers)
        if (again, digest_again) != (samples, digest):
            raise ModelError(
                f"the data changed between two readings ({samples} samples, then {again})", where="calibration data",
                fix="fix the seed of random crops and the like, or pass an iterator, which is read only once",
            )  # fmt: skip
        for t in pending:
            states[t] = states[t].extend(windows.pop(t)[0], grids[t])
    return CalibrationState(samples, states), []


def ranges_of(
    state: CalibrationState,
    pct: float,
    pct_wide: float,
    *,
    exact: Collection[str] = (),
    hints: Sequence[str] = (),
) -> Ranges:
    """Ranges from a state, e.g. a merged one; a threshold that the state cannot tell is an upper bound, with a hint."""
    tensors, bounded = {}, []
    for t, s in state.tensors.items():
        (narrow, narrow_final), (wide, wide_final) = cut_ranges(s, (1.0, 1.0) if t in exact else (pct, pct_wide))
        tensors[t] = TensorRange(narrow, wide, s.axis, s.values)
        bounded += [] if narrow_final and wide_final else [t]
    if bounded:
        which = f"{len(bounded)} tensors (first: {bounded[0]})"
        hints = [*hints, f"{which} have outliers so far out that their ranges are bounds only"]
    return Ranges(tensors, state.samples, pct, pct_wide, tuple(hints))


def fine_grid(state: TensorState) -> Grid:
    """The bins of a tensor's next reading."""
    octaves = _MORE_OCTAVES if len(state.keys) else _OCTAVES
    return Grid(_FINE_BITS, octaves, signed=bool((state.below[1] > 0).any()))


def _measure_once(measurement: Measurement, source: Source) -> tuple[CalibrationState, list[str]]:
    """One reading: the first batch says where the coarse windows lie."""
    batches = _batches(measurement, source)
    first = next(batches)
    _, _, seen = read(measurement, iter([first]), extremes_of(measurement))
    observers = {}
    for t, (observer, state) in extremes_of(measurement).items():
        largest = max(float(seen[t][0].high.max()), -float(seen[t][0].low.min()))
        top = int(code_of(np.float32(largest), 0)) if largest > 0 else int(code_of(np.float32(1), 0))
        base = min(max(top + _COARSE_HEADROOM + 1 - _COARSE.octaves, 1), 255 - _COARSE.octaves)
        window = np.full(measurement.channels(t), base, np.int32)
        observers[t] = ((*observer, histogram(_COARSE)), (*state, window))
    samples, _, found = read(measurement, chain([first], batches), observers)
    states = {}
    for t in list(found):
        seen_range, window = found.pop(t)
        state = _range_state(measurement, t, samples, seen_range)
        states[t] = state.extend(window, _COARSE)
    note = "the data could be read only once: thresholds are within 0.8 %, with a source that can be read again 0.1 %"
    return CalibrationState(samples, states), [note]


def extremes_of(measurement: Measurement) -> dict[str, tuple[tuple[Observer, ...], tuple[Any, ...]]]:
    return {t: ((extremes(),), (measurement.channels(t),)) for t in measurement.observed}


def _batches(measurement: Measurement, source: Source) -> Iterator[Batch]:
    return source.batches(measurement.batch_size, measurement.threads)


def _range_state(measurement: Measurement, tensor: str, samples: int, seen: Extremes) -> TensorState:
    return state_of_range(measurement.observed[tensor], samples * measurement.positions(tensor), seen)
