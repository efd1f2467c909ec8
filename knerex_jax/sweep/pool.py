"""Where the cells of a sweep run: here, in worker processes of this machine, or on a Ray cluster.

A worker takes one piece of work at a time. One that dies (out of memory, killed) loses that piece and nothing else.
"""

import os
import pickle
import queue
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from knerex_jax.errors import ConfigError


class WorkerLost(Exception):
    """The worker ended before its work did."""


class Pool(ABC):
    """Workers.

    Attributes:
      count: pieces of work that can run at a time; `run` may be called by so many threads.
      stopped: whether the sweep ends before its time.
    """

    count: int = 1
    stopped: bool = False

    def stop(self) -> None:
        """Ends the workers, whatever they do."""
        self.stopped = True

    @abstractmethod
    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """fn(*args) by some worker; both can be pickled.

        Raises:
          WorkerLost: it died.
        """

    @abstractmethod
    def put(self, value: Any) -> Any:
        """What stands for a large value among the arguments of `run`, so that it is not sent each time."""


class Here(Pool):
    """This process."""

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)

    def put(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class Kept:
    """A value in a file."""

    path: str


class Local(Pool):
    """Processes of this machine, which share its cores."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self.workers = [_Worker(threads_each(count)) for _ in range(count)]
        for worker in self.workers:
            self._idle.put(worker)

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker.run(fn, *args)
        finally:
            self._idle.put(worker)

    def stop(self) -> None:
        super().stop()
        for worker in self.workers:
            worker.stop()

    def put(self, value: Any) -> Any:
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".pickle")
        with os.fdopen(handle, "wb") as file:
            pickle.dump(value, file, protocol=5)
        return Kept(name)


class _Worker:
    """One process, started when it is needed, again after it died."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.process: Any = None
        self.channel: Connection | None = None

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        if self.process is None or not self.process.is_alive():
            context = get_context("spawn")
            self.channel, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, self.threads), daemon=True)
            self.process.start()
            theirs.close()
        assert self.channel is not None, "made with the process"
        try:
            self.channel.send((fn, args))
            done, result = self.channel.recv()
        except (EOFError, OSError) as e:
            self.process.join()
            raise WorkerLost(f"the worker process ended with exit code {self.process.exitcode}") from e
        if not done:
            raise WorkerLost(result)
        return result

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


def _serve(channel: Connection, threads: int) -> None:
    """What a worker does until it is told no more: the other end is closed, also when the sweep is killed."""
    limit_threads(threads)
    while True:
        try:
            fn, args = channel.recv()
        except EOFError:
            return
        try:
            channel.send((True, fn(*args)))
        except KeyboardInterrupt:
            return
        except Exception as e:  # whatever the work raises
            channel.send((False, f"{type(e).__name__}: {e}"))


class OnRay(Pool):
    """A Ray cluster; every machine needs this package and sees the same files."""

    def __init__(self, address: str, count: int | None, threads: int) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
            from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
        except ImportError as e:
            fix = 'pip install "knerex-jax[ray]"'
            raise ConfigError("Ray is not installed", where=f"ray={address}", fix=fix) from e
        environment = {"env_vars": {"NPROC": str(threads), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}}
        options: dict[str, Any] = {"num_cpus": (count or 1) * threads} if address == "local" else {}
        try:
            ray.init(address=address, runtime_env=environment, log_to_driver=False, **options)
        except Exception as e:  # of a kind that depends on what is wrong
            fix = "start it with ray start --head, or use the address local"
            raise ConfigError(f"no Ray cluster: {e}", where=f"ray={address}", fix=fix) from e
        self._ray, self._error = ray, RayError
        self._task = ray.remote(_there).options(num_cpus=threads, max_retries=0)
        self.count = count or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._ray.get(self._task.remote(os.getcwd(), fn, *args))
        except self._error as e:
            raise WorkerLost(f"{type(e).__name__}: {' '.join(str(e).split())[:500]}") from e

    def put(self, value: Any) -> Any:
        return self._ray.put(value)

    def stop(self) -> None:
        super().stop()
        self._ray.shutdown()


def _there(folder: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Runs in the folder that paths start at."""
    os.chdir(folder)
    return fn(*args)


@contextmanager
def open_pool(workers: int, ray: str | None, folder: Path) -> Iterator[Pool]:
    """The workers of a sweep.

    Args:
      workers: processes; 1 without Ray: this process; 0: with Ray as many as the cluster has room for.
      ray: address of a Ray cluster, "auto", or "local" for one on this machine; None: no Ray.
      folder: for what workers share.

    Raises:
      ConfigError: Ray is not installed, or there is no such cluster.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".shared.") as scratch:
        if ray is not None:
            pool: Pool = OnRay(ray, workers or None, threads_each(workers or 1) if ray == "local" else 1)
        else:
            pool = Here() if workers <= 1 else Local(workers, Path(scratch))
        try:
            yield pool
        finally:
            pool.stop()


def taken(value: Any) -> Any:
    """In a worker: the value that was put."""
    return _loaded(value.path) if isinstance(value, Kept) else value


@lru_cache(maxsize=1)
def _loaded(path: str) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)


def threads_each(workers: int) -> int:
    """Threads of each of so many workers, so that all together have one per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def limit_threads(threads: int) -> None:
    """Limits what XLA starts in this process, and leaves the memory of a GPU to all; before JAX computes anything."""
    os.environ["NPROC"] = str(threads)  # read by XLA's CPU client for the size of its thread pools
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
