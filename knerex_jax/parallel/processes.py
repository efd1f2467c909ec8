"""Several processes, on one machine or many, that work on one job after `jax.distributed.initialize`.

Every process reads its own batches of the data; whatever they have to tell one another passes through `exchange`.
With one process, nothing here does anything.
"""

import io
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from knerex_jax.errors import ConfigError, KnerexError, ModelError

T = TypeVar("T")

_PIECE = 1 << 24
"""Bytes that a process sends at a time: bounds the memory on the device."""


def join(coordinator: str, processes: int | None, number: int | None) -> None:
    """Makes this process one of several; before any computation.

    Args:
      coordinator: "host:port" of process 0, or "auto" where the cluster tells (Slurm, MPI, cloud).
      processes: how many there are.
      number: of this one, from 0.

    Raises:
      ConfigError: they do not find together.
    """
    if coordinator != "auto" and (processes is None or number is None):
        fix = "give --processes N --process 0 to N-1, or --coordinator auto where the cluster tells"
        raise ConfigError("it is not said which of how many processes this is", where="coordinator", fix=fix)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, num_processes=processes, process_id=number)
    except (RuntimeError, ValueError) as e:
        raise ConfigError(
            f"the processes do not find together: {e}", where=f"coordinator={coordinator}",
            fix="start all of them, each with its own number and with the address of number 0",
        ) from e  # fmt: skip


def count() -> int:
    """Number of processes."""
    return jax.process_count()


def index() -> int:
    """Number of this process; 0 writes files."""
    return jax.process_index()


def exchange(message: bytes) -> list[bytes]:
    """What every process says, in the order of their numbers; all have to call it."""
    if count() == 1:
        return [message]
    sizes = [int(size) for size in multihost_utils.process_allgather(np.array([len(message)], np.uint32)).ravel()]
    said = [bytearray() for _ in sizes]
    for start in range(0, max(sizes), _PIECE):
        # Powers of two, so that few shapes are compiled.
        room = 1 << max(min(_PIECE, max(sizes) - start) - 1, 1).bit_length()
        piece = np.frombuffer(message[start : start + room].ljust(room, b"\0"), np.uint8)
        for held, part in zip(said, multihost_utils.process_allgather(piece), strict=True):
            held += np.asarray(part).tobytes()
    return [bytes(held[:size]) for held, size in zip(said, sizes, strict=True)]


def exchange_array(array: np.ndarray) -> list[np.ndarray]:
    """The arrays of all processes, as they are: element types and shapes may differ."""
    if count() == 1:
        return [array]
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return [np.lib.format.read_array(io.BytesIO(said), allow_pickle=False) for said in exchange(file.getvalue())]


def all_or_none(work: Callable[[], T]) -> T:
    """Runs a part of the work in every process; what fails in one fails in all, instead of leaving them to wait.

    Raises:
      KnerexError: the process's own, or a ModelError that tells of another's.
    """
    if count() == 1:
        return work()
    failure, made = None, []
    try:
        made.append(work())
    except KnerexError as e:
        failure = e
    told = exchange(b"" if failure is None else str(failure).encode())
    if failure is not None:
        raise failure
    for number, text in enumerate(told):
        if text:
            raise ModelError(
                f"process {number} failed: {text.decode()}", where=f"process {number} of {len(told)}",
                fix="mend what it says there, and start all processes again",
            )  # fmt: skip
    return made[0]
