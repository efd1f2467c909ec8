"""One reading of the data: batches through one compiled step, one in flight at most, counts kept from overflow.

A step takes a microbatch of `batch_size` samples per device. Every device folds its own into states of its own, which
are merged when they leave the devices. With several processes, each reads its own batches.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from knerex_jax.calibrate.checkpoint import Partial
from knerex_jax.calibrate.observers import Extremes, Histogram, Observer, fold, merge
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType
from knerex_jax.parallel import processes
from knerex_jax.parallel.devices import SHARED, SPLIT, device_count, over_devices, parts_of, replicated, split

FloatFn = Callable[[Any, Mapping[str, Array]], Mapping[str, Array]]
Batch = dict[str, np.ndarray]

_CPU_PIECE = 1 << 18
"""Elements a CPU takes at a time: 1 MB of values and 2 MB of indices, about a core's second-level cache."""

Observers = Mapping[str, tuple[tuple[Observer, ...], tuple[Any, ...]]]
"""Tensor -> its observers, and what each one's `init` takes."""

Step = Callable[..., Any]
"""(states, params, padded batch, samples in it) -> (states, which tensors are poisoned), compiled.

With several devices, all but params have a leading axis that is divided among them.
"""


@dataclass(frozen=True)
class Measurement:
    """What is measured, and how.

    Attributes:
      fn: (params, inputs of one sample) -> {tensor: array}, batch axis of 1 included; pure and not compiled.
      params: its constants.
      observed: tensor -> channel axis, None for tensors without channels.
      types: types of all observed tensors and of the inputs.
      batch_size: samples per compiled step and device.
      threads: threads that load data.
      progress: called with the number of samples done in the current reading.
      mesh: devices that share the work; None: one does it all.
    """

    fn: FloatFn
    params: Any
    observed: Mapping[str, int | None]
    types: Mapping[str, TensorType]
    batch_size: int = 16
    threads: int = 4
    progress: Callable[[int], None] | None = None
    mesh: Mesh | None = None

    @property
    def step_size(self) -> int:
        """Samples per step, of all devices."""
        return self.batch_size * device_count(self.mesh)

    def channels(self, tensor: str) -> int:
        axis = self.observed[tensor]
        return 1 if axis is None else self.types[tensor].shape[axis]

    def positions(self, tensor: str) -> int:
        """Values per channel and sample."""
        return self.types[tensor].size // self.channels(tensor)


def read(
    measurement: Measurement,
    batches: Iterator[Batch],
    observers: Observers,
    step: Step | None = None,
    *,
    start: Partial | None = None,
    offer: Callable[[Callable[[], Partial]], None] | None = None,
) -> tuple[int, int, dict[str, Any]]:
    """Shows all batches to the observers: one compiled step, at most one of them in flight.

    Args:
      measurement: what is measured.
      batches: of the data, those after `start`, each of `step_size` samples but for the last.
      observers: by tensor.
      step: from `compile_step` for the same observers, whatever their windows; without it, a new one.
      start: what an earlier call had counted.
      offer: called after every batch with a function that gives what is counted so far.

    Returns:
      Number of samples, a checksum of their values, and tensor -> states on the host, counts as large as they come.
    """
    step, mesh = step or compile_step(measurement, observers), measurement.mesh
    params = replicated(measurement.params, mesh)
    states, totals = (init_states(observers, mesh), {}) if start is None else _resumed(start, mesh)
    done, digest = (0, 0) if start is None else (start.samples, start.digest)
    since, micro, running = 0, 0, None

    def counted() -> Partial:
        assert running is not None, "offered after a batch"
        _await(running, measurement, list(observers))  # what is poisoned is never kept
        return Partial(done, digest, {t: _to_host(s, totals.get(t), mesh) for t, s in states.items()})

    with closing(_as_generator(batches)) as batches:
        for batch in batches:
            valid = len(next(iter(batch.values())))
            # A first batch that is small is all there is, but not in a process that another one reads before.
            micro = micro or (measurement.batch_size if processes.index() else min(valid, measurement.batch_size))
            size = micro * device_count(mesh)
            capacity = _capacity(measurement, observers, size)
            for values in batch.values():
                digest = zlib.crc32(np.ascontiguousarray(values).data, digest)
            places, counts = parts_of(valid, micro, mesh)
            padded = {name: _pad(values, places, measurement.types[name]) for name, values in batch.items()}
            if running is not None:
                _await(running, measurement, list(observers))
            if since + size > capacity:
                states, since = _flush(states, totals, mesh), 0
            states, poisoned = step(states, params, padded, counts if mesh else counts[0])
            done, since, running = done + valid, since + size, (poisoned, done, done + valid)
            if offer is not None:
                offer(counted)
    if running is not None:
        _await(running, measurement, list(observers))
    return done, digest, {t: _to_host(states.pop(t), totals.pop(t, None), mesh) for t in list(states)}


def init_states(observers: Observers, mesh: Mesh | None) -> dict[str, Any]:
    """Empty states on the device, made by one program; with several devices, one per device."""

    def empty() -> dict[str, Any]:
        return {t: tuple(o.init(a) for o, a in zip(*pair, strict=True)) for t, pair in observers.items()}

    return jax.jit(over_devices(lambda: _stacked(empty()), mesh, ()) if mesh else empty)()


def compile_step(measurement: Measurement, observers: Observers) -> Step:
    piece = _CPU_PIECE if jax.default_backend() == "cpu" else 1 << 30
    axes, fn = measurement.observed, measurement.fn

    def step(states: dict[str, Any], params: Any, inputs: Mapping[str, Array], valid: Array) -> tuple[Any, Array]:
        taps = jax.vmap(fn, (None, 0))(params, inputs)
        # In the order of the observers, by which what is poisoned is named: jax hands states over sorted.
        new = {t: fold(kinds, states[t], taps[t], axes[t], valid, piece) for t, (kinds, _) in observers.items()}
        poisons = [s.poison.max() > 0 for parts in new.values() for s in parts if isinstance(s, Extremes)]
        return new, jnp.stack(poisons) if poisons else jnp.zeros(0, bool)

    def own(states: Any, params: Any, inputs: Mapping[str, Array], valid: Array) -> Any:
        return _stacked(step(jax.tree.map(lambda a: a[0], states), params, inputs, valid[0]))

    many = over_devices(own, measurement.mesh, (SPLIT, SHARED, SPLIT, SPLIT))
    return jax.jit(many if measurement.mesh else step, donate_argnums=0)


def _stacked(tree: Any) -> Any:
    """With a leading axis for the device."""
    return jax.tree.map(lambda a: a[None], tree)


def _await(running: tuple[Array, int, int], measurement: Measurement, tensors: Sequence[str]) -> None:
    """Waits for a step, so that batches do not pile up, and looks for values that spoil the ranges."""
    poisoned, start, stop = running
    bad = np.flatnonzero(np.atleast_2d(poisoned).any(0))
    if len(bad):
        raise ModelError(
            f"the float model makes NaN or infinity of samples {start} to {stop - 1}",
            where=f"tensor '{tensors[bad[0]]}'",
            fix="look for a division by 0, a logarithm of 0 or an overflow before it, and check the preprocessing",
        )
    if measurement.progress is not None:
        measurement.progress(stop)


def _capacity(measurement: Measurement, observers: Observers, size: int) -> int:
    """How many samples the int32 counts can take."""
    most = max((measurement.positions(t) for t in observers), default=1)
    capacity = (2**31 - 1) // most
    if capacity < size:
        raise ConfigError(
            f"{size} samples of {most} values per channel are too many for one step", where="batch_size",
            fix=f"use a batch_size of at most {capacity // device_count(measurement.mesh)}",
        )  # fmt: skip
    return capacity


def _flush(states: dict[str, Any], totals: dict[str, dict[int, np.ndarray]], mesh: Mesh | None) -> dict[str, Any]:
    """Moves the counts to int64 totals on the host and starts again from 0."""
    fresh = {}
    for t, parts in states.items():
        kept = []
        for i, s in enumerate(parts):
            if isinstance(s, Histogram):
                counts = np.asarray(s.counts).astype(np.int64)
                counts = counts.sum(0) if mesh else counts
                held = totals.setdefault(t, {})
                held[i] = held[i] + counts if i in held else counts
                s = s._replace(counts=jnp.zeros_like(s.counts))
            kept.append(s)
        fresh[t] = tuple(kept)
    return fresh


def _resumed(start: Partial, mesh: Mesh | None) -> tuple[dict[str, Any], dict[str, dict[int, np.ndarray]]]:
    """(states on the device, totals on the host) from which a reading goes on: counts begin at 0 again."""
    totals: dict[str, dict[int, np.ndarray]] = {}
    states = {}
    for t, parts in start.states.items():
        kept = []
        for i, s in enumerate(parts):
            if isinstance(s, Histogram):
                totals.setdefault(t, {})[i] = np.asarray(s.counts).astype(np.int64)
                s = s._replace(counts=np.zeros(s.counts.shape, np.int32))
            # What one device knows, all may know: repeated, it changes no minimum and no maximum.
            kept.append(type(s)(*(jnp.array(a) for a in s)) if mesh is None else _repeated(s, mesh))
        states[t] = tuple(kept)
    return states, totals


def _repeated(state: Any, mesh: Mesh) -> Any:
    return split(type(state)(*(np.repeat(np.asarray(a)[None], mesh.size, 0) for a in state)), mesh)


_merged = jax.jit(lambda parts: tuple(map(merge, parts)))


def _to_host(parts: tuple[Any, ...], totals: Mapping[int, np.ndarray] | None, mesh: Mesh | None) -> tuple[Any, ...]:
    """The states of one tensor, of all devices together."""
    # Sums stay below 2**31: counts are moved away before all devices together hold as much.
    host = [type(s)(*(np.asarray(a) for a in s)) for s in (_merged(parts) if mesh else parts)]
    for i, counts in (totals or {}).items():
        host[i] = host[i]._replace(counts=host[i].counts + counts)
    return tuple(host)


def _as_generator(batches: Iterator[Batch]) -> Any:
    return batches if hasattr(batches, "close") else (batch for batch in batches)


def _pad(values: np.ndarray, places: np.ndarray, type_: TensorType) -> np.ndarray:
    """[b, *sample shape] -> [n, *model shape]: the samples that stand at these places."""
    if len(values) < len(places):
        values = values[places]
    return values.reshape(len(places), *type_.shape)
