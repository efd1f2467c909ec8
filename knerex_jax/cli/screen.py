"""What all commands have in common: --quiet, --json, progress on the terminal, results on standard output."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[str, int, int | None], None]
"""(stage, done, in total or None)."""


@dataclass(frozen=True)
class Screen:
    """Where a command says what it found.

    Attributes:
      quiet: nothing but errors (and JSON, which is asked for).
      as_json: the result as JSON on standard output; nothing else goes there.
    """

    quiet: bool
    as_json: bool

    @cached_property
    def console(self) -> Console:
        return Console(stderr=self.as_json, quiet=self.quiet)

    def show(self, data: Callable[[], Any], text: Callable[[Console], None]) -> None:
        """The result: plain data for --json, else a text for people."""
        if self.as_json:
            click.echo(json.dumps(data(), indent=1))
        elif not self.quiet:
            text(self.console)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A sign of life for work that cannot say how far it is."""
        if self.quiet or not self.console.is_terminal:
            yield
            return
        with self.console.status(what):
            yield

    @contextmanager
    def bars(self) -> Iterator[Report | None]:
        """A bar per stage with the time that remains; None where nobody looks."""
        if self.quiet or not self.console.is_terminal:
            yield None
            return
        columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            tasks: dict[str, Any] = {}

            def update(stage: str, done: int, total: int | None) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield update


def with_screen(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --quiet and --json; the command gets a `Screen` as `screen`."""

    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @functools.wraps(command)
    def run(*args: Any, quiet: bool, as_json: bool, **options: Any) -> Any:
        return command(*args, screen=Screen(quiet, as_json), **options)

    return run
