"""The calibration loop: one compiled step per reading of the data, constant memory, any number of samples.

Two readings suffice where the data can be read twice: the first finds the exact range of every channel, the second
counts magnitudes finely in the octaves under its maximum. A threshold still lower (a few huge outliers over a
small rest) takes another reading of the tensors concerned. Data that can be read only once is counted coarsely.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.calibrate.cuts import cut_ranges, is_final
from knerex_jax.calibrate.hints import data_hints
from knerex_jax.calibrate.observers import Extremes, Grid, Histogram, Observer, extremes, fold, histogram
from knerex_jax.calibrate.ranges import Ranges, TensorRange
from knerex_jax.calibrate.state import CalibrationState, TensorState, code_of, state_of_range
from knerex_jax.data.sources import Source
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType

FloatFn = Callable[[Any, Mapping[str, Array]], Mapping[str, Array]]
Batch = dict[str, np.ndarray]

_FINE_BITS = 9
_OCTAVES = 6
_MORE_OCTAVES = 12
"""Fine windows: with 6 octaves the second reading was the last one on all but 2 of 270 tensors of five real models."""

_COARSE = Grid(bits=6, octaves=32)
_COARSE_HEADROOM = 8
"""Octaves of the coarse window above the first batch's maximum."""

_CPU_PIECE = 1 << 18
"""Elements a CPU takes at a time: 1 MB of values and 2 MB of indices, about a core's second-level cache."""


@dataclass(frozen=True)
class Measurement:
    """What is measured, and how.

    Attributes:
      fn: (params, inputs of one sample) -> {tensor: array}, batch axis of 1 included; pure and not compiled.
      params: its constants.
      observed: tensor -> channel axis, None for tensors without channels.
      types: types of all observed tensors and of the inputs.
      batch_size: samples per compiled step.
      threads: threads that load data.
      progress: called with the number of samples done in the current reading.
    """

    fn: FloatFn
    params: Any
    observed: Mapping[str, int | None]
    types: Mapping[str, TensorType]
    batch_size: int = 16
    threads: int = 4
    progress: Callable[[int], None] | None = None

    def channels(self, tensor: str) -> int:
        axis = self.observed[tensor]
        return 1 if axis is None else self.types[tensor].shape[axis]

    def positions(self, tensor: str) -> int:
        """Values per channel and sample."""
        return self.types[tensor].size // self.channels(tensor)


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
    cuts = {t: (1.0, 1.0) if t in kept else (pct, pct_wide) for t in observed}
    axes = {t: None if axis is None else axis % len(types[t].shape) for t, axis in observed.items()}
    measurement = Measurement(fn, params, axes, types, batch_size, threads, progress)
    state, hints = measure(measurement, source, cuts)
    outputs = {t: types[t].shape for t in kept if t in types}
    return ranges_of(state, pct, pct_wide, cuts, hints=(*data_hints(state.samples, pct, outputs), *hints))


def measure(
    measurement: Measurement, source: Source, cuts: Mapping[str, tuple[float, float]]
) -> tuple[CalibrationState, list[str]]:
    """Reads the data as often as these cuts need.

    Args:
      measurement: what is measured.
      source: calibration data.
      cuts: tensor -> shares of magnitudes that will be asked for (`ranges_of`).

    Returns:
      The state, which can be merged with those of other data, and notes on its accuracy.
    """
    if not source.rereadable:
        return _measure_once(measurement, source)
    samples, seen = read(measurement, _batches(measurement, source), extremes_of(measurement))
    states = {t: _range_state(measurement, t, samples, found[0]) for t, found in seen.items()}
    while pending := [t for t in states if not is_final(states[t], cuts[t])]:
        grids = {t: fine_grid(states[t]) for t in pending}
        observers = {t: ((histogram(g),), (states[t].next_window(g.octaves),)) for t, g in grids.items()}
        again, windows = read(measurement, _batches(measurement, source), observers)
        if again != samples:
            raise ModelError(
                f"the data had {samples} samples at first and {again} when read again", where="calibration data",
                fix="make the source give the same samples every time, or pass an iterator, which is read once",
            )  # fmt: skip
        for t in pending:
            states[t] = states[t].extend(windows.pop(t)[0], grids[t])
    return CalibrationState(samples, states), []


def ranges_of(
    state: CalibrationState,
    pct: float,
    pct_wide: float,
    cuts: Mapping[str, tuple[float, float]],
    *,
    hints: Sequence[str] = (),
) -> Ranges:
    """Ranges from a state, e.g. a merged one; a threshold that the state cannot tell is an upper bound, with a hint."""
    tensors, bounded = {}, []
    for t, s in state.tensors.items():
        (narrow, narrow_final), (wide, wide_final) = cut_ranges(s, cuts[t])
        tensors[t] = TensorRange(narrow, wide, s.axis, s.values)
        bounded += [] if narrow_final and wide_final else [t]
    if bounded:
        hints = [*hints, f"{len(bounded)} tensors (first: {bounded[0]}) have outliers so far out that their ranges are bounds only"]
    return Ranges(tensors, state.samples, pct, pct_wide, tuple(hints))


def fine_grid(state: TensorState) -> Grid:
    """The bins of a tensor's next reading."""
    octaves = _MORE_OCTAVES if len(state.keys) else _OCTAVES
    return Grid(_FINE_BITS, octaves, signed=bool((state.below[1] > 0).any()))


def _measure_once(measurement: Measurement, source: Source) -> tuple[CalibrationState, list[str]]:
    """One reading: the first batch says where the coarse windows lie."""
    batches = _batches(measurement, source)
    first = next(batches)
    _, seen = read(measurement, iter([first]), extremes_of(measurement))
    observers = {}
    for t, (observer, state) in extremes_of(measurement).items():
        largest = max(float(seen[t][0].high.max()), -float(seen[t][0].low.min()))
        top = int(code_of(np.float32(largest), 0)) if largest > 0 else int(code_of(np.float32(1), 0))
        base = min(max(top + _COARSE_HEADROOM + 1 - _COARSE.octaves, 1), 255 - _COARSE.octaves)
        window = np.full(measurement.channels(t), base, np.int32)
        observers[t] = ((*observer, histogram(_COARSE)), (*state, window))
    samples, found = read(measurement, chain([first], batches), observers)
    states = {}
    for t in list(found):
        seen_range, window = found.pop(t)
        states[t] = _range_state(measurement, t, samples, seen_range).extend(window, _COARSE).with_excess(window, _COARSE)
    note = "the data could be read only once: thresholds are within 0.8 %, with a source that can be read again 0.1 %"
    return CalibrationState(samples, states), [note]


Observers = Mapping[str, tuple[tuple[Observer, ...], tuple[Any, ...]]]
"""Tensor -> its observers, and what each one's `init` takes."""


def extremes_of(measurement: Measurement) -> dict[str, tuple[tuple[Observer, ...], tuple[Any, ...]]]:
    return {t: ((extremes(),), (measurement.channels(t),)) for t in measurement.observed}


def read(measurement: Measurement, batches: Iterator[Batch], observers: Observers) -> tuple[int, dict[str, Any]]:
    """Shows all batches to the observers: one compiled step, at most one of them in flight.

    Returns:
      Number of samples, and tensor -> states on the host, counts as large as they come.
    """
    step = compile_step(measurement, observers)
    params = jax.device_put(measurement.params)
    states = init_states(observers)
    done, since, size, totals, running = 0, 0, 0, {}, None
    with closing(_as_generator(batches)) as batches:
        for batch in batches:
            valid = len(next(iter(batch.values())))
            size = size or valid
            capacity = _capacity(measurement, observers, size)
            padded = {name: _pad(values, size, measurement.types[name]) for name, values in batch.items()}
            if running is not None:
                _await(running, measurement, list(observers))
            if since + size > capacity:
                states, since = _flush(states, totals), 0
            states, poisoned = step(states, params, padded, np.int32(valid))
            done, since, running = done + valid, since + size, (poisoned, done, done + valid)
    assert running is not None, "a source yields at least one batch or raises"
    _await(running, measurement, list(observers))
    return done, {t: _to_host(states.pop(t), totals.pop(t, None)) for t in list(states)}


def init_states(observers: Observers) -> dict[str, Any]:
    """Empty states on the device, made by one program."""
    return jax.jit(lambda: {t: tuple(o.init(a) for o, a in zip(*pair, strict=True)) for t, pair in observers.items()})()


def compile_step(measurement: Measurement, observers: Observers) -> Callable[..., Any]:
    piece = _CPU_PIECE if jax.default_backend() == "cpu" else 1 << 30
    axes, fn = measurement.observed, measurement.fn

    def step(states: dict[str, Any], params: Any, inputs: Mapping[str, Array], valid: Array) -> tuple[Any, Array]:
        taps = jax.vmap(fn, (None, 0))(params, inputs)
        new = {t: fold(observers[t][0], s, taps[t], axes[t], valid, piece) for t, s in states.items()}
        poisons = [jnp.isnan(s.poison).any() for parts in new.values() for s in parts if isinstance(s, Extremes)]
        return new, jnp.stack(poisons) if poisons else jnp.zeros(0, bool)

    return jax.jit(step, donate_argnums=0)


def _await(running: tuple[Array, int, int], measurement: Measurement, tensors: Sequence[str]) -> None:
    """Waits for a step, so that batches do not pile up, and looks for values that spoil the ranges."""
    poisoned, start, stop = running
    bad = np.flatnonzero(np.asarray(poisoned))
    if len(bad):
        raise ModelError(
            f"the float model makes NaN or infinity of samples {start} to {stop - 1}", where=f"tensor '{tensors[bad[0]]}'",
            fix="look for a division by 0, a logarithm of 0 or an overflow before this tensor, and check the preprocessing",
        )  # fmt: skip
    if measurement.progress is not None:
        measurement.progress(stop)


def _capacity(measurement: Measurement, observers: Observers, size: int) -> int:
    """How many samples the int32 counts can take."""
    most = max(measurement.positions(t) for t in observers)
    capacity = (2**31 - 1) // most
    if capacity < size:
        raise ConfigError(
            f"{size} samples of {most} values per channel are too many for one step", where="batch_size",
            fix=f"use a batch_size of at most {capacity}",
        )  # fmt: skip
    return capacity


def _flush(states: dict[str, Any], totals: dict[str, dict[int, np.ndarray]]) -> dict[str, Any]:
    """Moves the counts to int64 totals on the host and starts again from 0."""
    fresh = {}
    for t, parts in states.items():
        kept = []
        for i, s in enumerate(parts):
            if isinstance(s, Histogram):
                counts = np.asarray(s.counts).astype(np.int64)
                held = totals.setdefault(t, {})
                held[i] = held[i] + counts if i in held else counts
                s = s._replace(counts=jnp.zeros_like(s.counts))
            kept.append(s)
        fresh[t] = tuple(kept)
    return fresh


def _to_host(parts: tuple[Any, ...], totals: Mapping[int, np.ndarray] | None) -> tuple[Any, ...]:
    host = [type(s)(*(np.asarray(a) for a in s)) for s in parts]
    for i, counts in (totals or {}).items():
        host[i] = host[i]._replace(counts=host[i].counts + counts)
    return tuple(host)


def _batches(measurement: Measurement, source: Source) -> Iterator[Batch]:
    return source.batches(measurement.batch_size, measurement.threads)


def _as_generator(batches: Iterator[Batch]) -> Any:
    return batches if hasattr(batches, "close") else (batch for batch in batches)


def _pad(values: np.ndarray, size: int, type_: TensorType) -> np.ndarray:
    """[b, *sample shape] -> [size, *model shape]; the last sample stands in for those that are missing."""
    if len(values) < size:
        values = np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
    return values.reshape(size, *type_.shape)


def _range_state(measurement: Measurement, tensor: str, samples: int, seen: Extremes) -> TensorState:
    return state_of_range(measurement.observed[tensor], samples * measurement.positions(tensor), seen)
