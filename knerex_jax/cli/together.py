"""Options of commands that several processes can run together."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click


def with_processes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --coordinator, --processes and --process; the command then runs as one of several."""

    @wraps(command)
    def run(coordinator: str | None, processes: int | None, process: int | None, **options: Any) -> Any:
        if coordinator is not None:
            from knerex_jax.parallel.processes import join

            join(coordinator, processes, process)
        return command(**options)

    for option in (
        click.option("--process", type=click.IntRange(min=0), help="Number of this process, from 0."),
        click.option("--processes", type=click.IntRange(min=1), help="How many processes work on this together."),
        click.option(
            "--coordinator", metavar="HOST:PORT",
            help="Where process 0 listens, if several processes share the work; auto where the cluster tells.",
        ),
    ):  # fmt: skip
        run = option(run)
    return run
