"""What a reading of the data has counted so far, on disk, so that a calibration that was cut off goes on from there.

The file is keyed by everything that decides the counts: another key, and it is ignored. It is written at intervals of
time, so that short calibrations never write one, and never takes more than a twentieth of the time.
"""

import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knerex_jax.calibrate.npz import pack_npz, read_npz, write_npz
from knerex_jax.calibrate.observers import Extremes, Histogram
from knerex_jax.calibrate.state import CalibrationState
from knerex_jax.errors import ArtifactError

CHECKPOINT = "calibration.partial.npz"
"""Name of the file in the output folder; it is removed when the calibration is done."""

INTERVAL_S = 10.0
_SHARE = 20
"""A checkpoint that took s seconds to write is followed by the next after 20 s at the earliest."""

_KIND = "unfinished calibration"
_OBSERVED = {"Extremes": Extremes, "Histogram": Histogram}


@dataclass(frozen=True)
class Partial:
    """A reading that is not at its end.

    Attributes:
      samples: number of samples shown to the observers, whole batches.
      digest: checksum of their values.
      states: tensor -> states of its observers on the host, counts as large as they come.
    """

    samples: int
    digest: int
    states: Mapping[str, Sequence[Any]] = field(repr=False)


@dataclass(frozen=True)
class Unfinished:
    """A calibration that is not at its end.

    Attributes:
      reading: number of readings that are done.
      seen: what they made: samples, checksum, state; None before the first is done.
      partial: the reading in progress; None: nothing of it is done.
    """

    reading: int
    seen: tuple[int, int, CalibrationState] | None
    partial: Partial | None


@dataclass
class Checkpoints:
    """The one file of a calibration.

    Attributes:
      path: of the file.
      key: what the counts depend on, as text; asked for only where a file is read or written. None: the data cannot be
        identified, so nothing is kept.
      interval_s: seconds between two checkpoints.
      notes: what became of an earlier file, for people.
      resumed: number of samples that did not have to be read again.
    """

    path: Path
    key: Callable[[], str | None]
    interval_s: float = INTERVAL_S
    notes: list[str] = field(default_factory=list)
    resumed: int = 0
    _next: float = field(default_factory=time.monotonic, repr=False)

    def load(self, count: int | None) -> Unfinished | None:
        """Where an earlier run of the same calibration stopped; `count`: samples in total, if known."""
        self._next = time.monotonic() + self.interval_s
        if not self.path.exists():
            return None
        try:
            meta, arrays = read_npz(self.path, _KIND)
            if meta["key"] != self._digest():
                self.notes.append("an unfinished calibration of other data or options was left: not used")
                return None
            found = _unpacked(meta, arrays)
        except (ArtifactError, KeyError, TypeError):
            self.notes.append("an unfinished calibration was left, but cannot be read: not used")
            return None
        self.resumed = meta["samples"]
        total = "" if count is None else f" of {count}"
        self.notes.append(f"resumed at sample {self.resumed}{total}, reading {found.reading + 1} of the data")
        return found

    def lagged(self, reading: int) -> None:
        """What `load` gave is not gone on from: other processes had come as far as this reading."""
        self.notes[-1:] = [f"other processes were in reading {reading + 1} of the data: resumed at its beginning"]
        self.resumed = 0

    def offer(self, unfinished: Callable[[], Unfinished]) -> None:
        """Writes the state if it is time to, and if the data can be identified."""
        started = time.monotonic()
        if started < self._next:
            return
        if (digest := self._digest()) is None:
            self._next = float("inf")
            return
        meta, arrays = _packed(unfinished())
        write_npz(self.path, _KIND, {"key": digest, **meta}, arrays)
        ended = time.monotonic()
        self._next = ended + max(self.interval_s, _SHARE * (ended - started))

    def done(self) -> None:
        """The calibration is at its end."""
        self.path.unlink(missing_ok=True)

    def _digest(self) -> str | None:
        key = self.key()
        return None if key is None else hashlib.sha256(key.encode()).hexdigest()


def message_of(seen: tuple[int, int, CalibrationState]) -> bytes:
    """`Unfinished.seen` for another process."""
    meta, arrays = _packed_seen(seen)
    file = io.BytesIO()
    pack_npz(file, _KIND, meta, arrays)
    return file.getvalue()


def seen_of(message: bytes) -> tuple[int, int, CalibrationState]:
    """What `message_of` was told."""
    return _unpacked_seen(*read_npz(message, _KIND))


def _packed_seen(seen: tuple[int, int, CalibrationState]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    samples, digest, state = seen
    described, arrays = state.packed()
    return {"count": samples, "digest": digest, **described}, arrays


def _unpacked_seen(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[int, int, CalibrationState]:
    return meta["count"], meta["digest"], CalibrationState.unpacked(meta, arrays)


def _packed(unfinished: Unfinished) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    partial = unfinished.partial
    assert partial is not None, "a file is written within a reading"
    meta: dict[str, Any] = {
        "reading": unfinished.reading, "samples": partial.samples, "digest": partial.digest, "seen": None,
        "observed": {t: [type(s).__name__ for s in states] for t, states in partial.states.items()},
    }  # fmt: skip
    arrays = {
        f"partial/{i}/{j}/{name}": np.asarray(getattr(state, name))
        for i, states in enumerate(partial.states.values())
        for j, state in enumerate(states)
        for name in state._fields
    }
    if unfinished.seen is not None:
        meta["seen"], held = _packed_seen(unfinished.seen)
        arrays |= {f"seen/{name}": array for name, array in held.items()}
    return meta, arrays


def _unpacked(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Unfinished:
    states = {
        t: tuple(
            _OBSERVED[kind](*(arrays[f"partial/{i}/{j}/{name}"] for name in _OBSERVED[kind]._fields))
            for j, kind in enumerate(kinds)
        )
        for i, (t, kinds) in enumerate(meta["observed"].items())
    }
    seen = None
    if (described := meta["seen"]) is not None:
        held = {name.removeprefix("seen/"): a for name, a in arrays.items() if name.startswith("seen/")}
        seen = _unpacked_seen(described, held)
    return Unfinished(meta["reading"], seen, Partial(meta["samples"], meta["digest"], states))
