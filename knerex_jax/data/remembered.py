"""Samples kept while a calibration reads them: a generator cannot be read again."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice

from knerex_jax.data.sources import Job, Sample, Source


def remember(source: Source, count: int) -> tuple[Source, dict[int, Sample]]:
    """The same source, which keeps its first samples as they are read (a generator cannot be read again for them)."""
    kept: dict[int, Sample] = {}

    def keep(index: int, job: Job) -> Job:
        def run() -> Sample:
            kept[index] = job()
            return kept[index]

        return run

    def jobs() -> Iterable[Job]:
        return (keep(i, job) if i < count else job for i, job in enumerate(source.jobs()))

    return replace(source, jobs=jobs), kept


def read_missing(source: Source, count: int, kept: Mapping[int, Sample]) -> None:
    """Reads those of the first samples that a resumed calibration has left out; the source remembers them."""
    for index, job in enumerate(islice(source.jobs(), count)):
        if index not in kept:
            job()
