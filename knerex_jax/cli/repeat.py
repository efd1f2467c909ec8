"""Commands that can be repeated: their options come from a file, and are left beside what they wrote."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import tomli_w
from click.core import ParameterSource

from knerex_jax.config_file import from_here, from_there, read_table
from knerex_jax.errors import ConfigError
from knerex_jax.files import write_atomic
from knerex_jax.suggest import nearest


def repeatable(folder: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --config; a run that wrote into a folder leaves `<command>.toml` there, which --config repeats.

    Paths in the file are relative to the folder of the file. Options of the command line come first.

    Args:
      folder: the command's option for its output folder; where it is not given, nothing is left.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--config", type=click.Path(), is_eager=True, expose_value=False, callback=_read,
            help="TOML or YAML file of these options, as a run leaves one; what the command line says goes before it.",
        )  # fmt: skip
        @functools.wraps(command)
        def run(*args: Any, **options: Any) -> Any:
            try:
                done = command(*args, **options)
            except click.exceptions.Exit:  # an exit code is a result, too
                _leave(folder)
                raise
            _leave(folder)
            return done

        return run

    return decorate


def _read(context: click.Context, _: click.Parameter, path: str | None) -> None:
    """The file's options become the defaults of the command."""
    if path is None:
        return
    params = {p.name: p for p in context.command.params if p.expose_value}
    table = read_table(path)
    for name in table:
        if name not in params:
            raise ConfigError(f"unknown option {name!r}", where=path, fix=nearest(name, params))
    here = Path(path).parent
    context.default_map = {n: _each(v, lambda p: from_here(here, p), params[n]) for n, v in table.items()}


def _leave(folder: str) -> None:
    context = click.get_current_context()
    given = {
        p.name: context.params[p.name]
        for p in context.command.params
        if p.name in context.params and context.get_parameter_source(p.name) != ParameterSource.DEFAULT
    }
    place = context.params[folder]
    if place is None or not Path(place).is_dir():
        return
    params, place = {p.name: p for p in context.command.params}, Path(place)
    given = {n: _each(v, lambda p: from_there(place, p), params[n]) for n, v in given.items() if v is not None}
    name = f"{context.info_name}.toml"
    head = f"# Repeat it: knerex {context.info_name} --config {name}; paths start at the folder of this file.\n\n"
    write_atomic(place / name, (head + tomli_w.dumps(given | {folder: "."})).encode())


def _each(value: Any, path: Callable[[str], str], param: click.Parameter) -> Any:
    """A value of an option, its paths by that function; all others as they are."""
    if isinstance(value, list | tuple):
        return [_each(v, path, param) for v in value]
    return path(value) if isinstance(param.type, click.Path) and isinstance(value, str) else value
