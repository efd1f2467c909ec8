"""The calibration loop: one compiled step per reading of the data, constant memory, any number of samples.

Two readings suffice where the data can be read twice: the first finds the exact range of every channel, the second
counts magnitudes finely in the octaves under its maximum. A threshold still lower (a few huge outliers over a
small rest) takes another reading of the tensors concerned. Data that can be read only once is counted coarsely.
"""

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from knerex_jax.calibrate.checkpoint import Checkpoints, Partial, Unfinished, message_of, seen_of
from knerex_jax.calibrate.measured import Measured, RangeRule, is_enough
from knerex_jax.calibrate.observers import Extremes, Grid, Observer, extremes, histogram, merge
from knerex_jax.calibrate.reading import Batch, Measurement, Observers, compile_step, read
from knerex_jax.calibrate.state import CalibrationState, TensorState, code_of, state_of_range
from knerex_jax.data.sources import Source
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.parallel import processes

_FINE_BITS = 9
_OCTAVES = 6
_MORE_OCTAVES = 12
"""Width of the fine windows: with 100 samples, 6 octaves held every threshold of five real models (experiments)."""

_TAIL = 10
"""Octaves counted coarsely under a window: down to half a step of 15 bits from the window's top."""

_COARSE = Grid(bits=6, octaves=32)
_COARSE_HEADROOM = 8
"""Octaves of the coarse window above the first batch's maximum."""


def measure(
    measurement: Measurement,
    source: Source,
    rules: Sequence[RangeRule],
    *,
    outputs: Collection[str] = (),
    leaving: Mapping[str, Collection[str]] | None = None,
    constants: Collection[str] = (),
    checkpoints: Checkpoints | None = None,
) -> Measured:
    """Reads the data as often as these rules need: at most twice, but for tensors with outliers far out.

    Args:
      measurement: what is measured.
      source: calibration data.
      rules: `ranges_of` will be asked for; any other rule gives at least bounds.
      outputs: of the model.
      leaving: observed tensor that leaves the model as it is, moved at most -> the outputs that hold it; default every
        output for itself.
      constants: tensors that always keep their exact range.
      checkpoints: where the state is kept meanwhile, for data that can be read twice.

    Returns:
      What was measured; the same for any batch size, beyond what the float model's own rounding does.

    Raises:
      ModelError: a tensor becomes NaN or infinite (the message names it), or the data does not fit the model.
      ConfigError: a batch of that size cannot be counted.
    """
    return measure_parts(
        measurement, [source], rules, outputs=outputs, leaving=leaving, constants=constants, checkpoints=checkpoints
    )[0]


def measure_parts(
    measurement: Measurement,
    sources: Sequence[Source],
    rules: Sequence[RangeRule],
    *,
    outputs: Collection[str] = (),
    leaving: Mapping[str, Collection[str]] | None = None,
    constants: Collection[str] = (),
    checkpoints: Checkpoints | None = None,
) -> list[Measured]:
    """`measure` for several sets of data, each for itself, with the same compiled steps for all of them.

    Checkpoints are kept of one set only. Of several processes, each reads its own batches; all return the same.
    """
    held = {t: frozenset(by) for t, by in ({t: (t,) for t in outputs} if leaving is None else leaving).items()}
    if all(source.rereadable for source in sources):
        mine = [s.part(processes.index(), processes.count(), measurement.batch_size) for s in sources]
        measured = _twice(measurement, mine, rules, held, constants, checkpoints if len(sources) == 1 else None)
    elif processes.count() > 1:
        raise ConfigError(
            "data that can be read only once cannot be divided among processes", where="calibration data",
            fix="give files, arrays, or a function that returns the iterator",
        )  # fmt: skip
    else:
        measured = [_once(measurement, source) for source in sources]
    shapes = {t: measurement.types[t].shape for t in outputs}
    return [Measured(state, shapes, frozenset(constants), held, notes) for state, notes in measured]


def _twice(
    measurement: Measurement,
    sources: Sequence[Source],
    rules: Sequence[RangeRule],
    leaving: Mapping[str, Collection[str]],
    constants: Collection[str],
    checkpoints: Checkpoints | None,
) -> list[tuple[CalibrationState, tuple[str, ...]]]:
    """Exact ranges first, then counts under them, until all that is asked is counted."""
    left = _left(checkpoints, sources[0].count)
    if left is None or left.seen is None:
        ranges = [extremes_of(measurement)] * len(sources)
        first = _read_each(measurement, sources, ranges, _Kept(checkpoints, 0, None, left and left.partial))
        parts = [{t: _range_state(measurement, t, n, found[0]) for t, found in seen.items()} for n, _, seen in first]
        sums, readings, left = [(n, digest) for n, digest, _ in first], 1, None
    else:
        (*held, state), readings = left.seen, left.reading
        sums, parts = [(held[0], held[1])], [dict(state.tensors)]

    def enough(t: str) -> bool:
        return all(is_enough(states[t], rules, leaving=leaving.get(t, ()), constant=t in constants) for states in parts)

    while pending := [t for t in parts[0] if not enough(t)]:
        grids = {t: fine_grid(*(states[t] for states in parts)) for t in pending}
        histograms = {t: (histogram(g),) for t, g in grids.items()}
        observers = [{t: (h, (s[t].next_window(grids[t].octaves),)) for t, h in histograms.items()} for s in parts]
        seen = (*sums[0], CalibrationState(sums[0][0], parts[0]))
        again = _read_each(measurement, sources, observers, _Kept(checkpoints, readings, seen, left and left.partial))
        for (samples, digest), (samples_again, digest_again, windows), states in zip(sums, again, parts, strict=True):
            if (samples_again, digest_again) != (samples, digest):
                raise ModelError(
                    f"the data changed between two readings ({samples} samples, then {samples_again})",
                    where="calibration data",
                    fix="fix the seed of random crops and the like, or pass an iterator, which is read only once",
                )
            for t in pending:
                states[t] = states[t].extend(windows.pop(t)[0], grids[t])
        readings, left = readings + 1, None
    if checkpoints is not None:
        checkpoints.done()
    return [(CalibrationState(n, states), ()) for (n, _), states in zip(sums, parts, strict=True)]


@dataclass(frozen=True)
class _Kept:
    """What goes into a checkpoint beside the counts of a reading, and where that reading starts."""

    checkpoints: Checkpoints | None
    readings: int
    seen: tuple[int, int, CalibrationState] | None
    start: Partial | None

    @property
    def offer(self) -> Callable[[Callable[[], Partial]], None] | None:
        """Keeps the counts of a reading, if it is time to."""
        if (checkpoints := self.checkpoints) is None:
            return None
        return lambda counted: checkpoints.offer(lambda: Unfinished(self.readings, self.seen, counted()))


def _left(checkpoints: Checkpoints | None, count: int | None) -> Unfinished | None:
    """Where an earlier run stopped.

    Of several processes, all go on in the reading that the furthest one was in; those that were not begin their part of
    it, with what the readings before it made of all parts.
    """
    left = None if checkpoints is None else checkpoints.load(count)
    if processes.count() == 1:
        return left
    readings = [int(text) for text in processes.exchange(str(left.reading if left else -1).encode())]
    furthest = max(readings)
    if furthest < 1 or min(readings) == furthest:  # parts of the first reading depend on nothing
        return left
    teller = readings.index(furthest)
    seen = None if left is None or processes.index() != teller else left.seen
    told = processes.exchange(b"" if seen is None else message_of(seen))[teller]
    if left is not None and left.reading == furthest:
        return left
    if checkpoints is not None:
        checkpoints.lagged(furthest)
    return Unfinished(furthest, seen_of(told), None)


def _read_each(
    measurement: Measurement, sources: Sequence[Source], observers: Sequence[Observers], kept: _Kept
) -> list[tuple[int, int, dict[str, Any]]]:
    """Reads every source with its observers, which differ in their windows alone; the states of all processes."""

    def work() -> list[tuple[int, int, dict[str, Any]]]:
        step, start = compile_step(measurement, observers[0]), kept.start
        done = 0 if start is None else start.samples
        return [
            read(measurement, _batches(measurement, source, done), each, step, start=start, offer=kept.offer)
            for source, each in zip(sources, observers, strict=True)
        ]

    return [_of_all_processes(*found) for found in processes.all_or_none(work)]


def _of_all_processes(samples: int, digest: int, seen: dict[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """What all processes have read together."""
    if processes.count() == 1:
        return samples, digest, seen
    told = processes.exchange(f"{samples} {digest}".encode())
    for t, parts in seen.items():
        seen[t] = tuple(merge(type(s)(*(np.stack(processes.exchange_array(a)) for a in s)), np) for s in parts)
    return sum(int(text.split()[0]) for text in told), zlib.crc32(b"\n".join(told)), seen


def fine_grid(*states: TensorState) -> Grid:
    """The bins of a tensor's next reading, for what is known of it in every set of data."""
    octaves = _MORE_OCTAVES if any(len(s.keys) for s in states) else _OCTAVES
    return Grid(_FINE_BITS, octaves, signed=any(bool((s.below[1] > 0).any()) for s in states), tail=_TAIL)


def _once(measurement: Measurement, source: Source) -> tuple[CalibrationState, tuple[str, ...]]:
    """One reading: the first batch (of one device) says where the coarse windows lie."""
    batches = _batches(measurement, source)
    first = next(batches)
    few = {t: values[: measurement.batch_size] for t, values in first.items()}
    _, _, seen = read(measurement, iter([few]), extremes_of(measurement))
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
    return CalibrationState(samples, states), (note,)


def extremes_of(measurement: Measurement) -> dict[str, tuple[tuple[Observer, ...], tuple[Any, ...]]]:
    return {t: ((extremes(),), (measurement.channels(t),)) for t in measurement.observed}


def _batches(measurement: Measurement, source: Source, start: int = 0) -> Iterator[Batch]:
    return source.batches(measurement.step_size, measurement.threads, start=start)


def _range_state(measurement: Measurement, tensor: str, samples: int, seen: Extremes) -> TensorState:
    return state_of_range(measurement.observed[tensor], samples * measurement.positions(tensor), seen)
