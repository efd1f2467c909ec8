"""Work done ahead by threads: in order, bounded, with errors carried to the reader."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_ahead(jobs: Iterable[Callable[[], T]], threads: int, ahead: int) -> Iterator[T]:
    """Runs jobs in worker threads and yields their results in order.

    At most `ahead` results exist at a time, so memory does not grow with the number of jobs. `jobs` itself is read by
    the consumer's thread, so an ordinary generator is safe. An exception of a job (or of `jobs`) surfaces at its place
    in the order; jobs not yet begun are then cancelled.

    Args:
      jobs: functions without arguments, read lazily.
      threads: worker threads, at least 1.
      ahead: results in flight or waiting, at least 1.
    """
    assert threads >= 1 and ahead >= 1, "run_ahead needs a thread and a place for its result"
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="knerex-data") as pool:
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
