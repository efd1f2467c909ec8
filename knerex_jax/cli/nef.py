"""The commands `knerex nef`."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from knerex_jax.cli.screen import Screen, with_screen

_KEY = click.option(
    "--key-file", type=click.Path(), help="Key of encrypted nefs: 32 bytes or 64 hex digits; else KNEREX_NEF_KEY."
)
_OUT = click.option("-o", "--p-output", default="kneron_flow", show_default=True, type=click.Path(), help="Folder.")
_COMPRESS = click.option("--compress", is_flag=True, help="Pack the segments.")


@click.group()
def nef() -> None:
    """Compiled models: compile, combine, extract, look into."""


@nef.command("compile")
@click.argument("bies", nargs=-1, required=True, type=click.Path())
@click.option("--fm-cut", default="default", show_default=True, help="default or deep_search.")
@click.option("--first-id", default=32769, show_default=True, help="Id of the first model; the others count on.")
@_OUT
@_COMPRESS
@_KEY
@with_screen
def compile_(
    bies: tuple[str, ...], fm_cut: str, first_id: int, p_output: str, compress: bool, key_file: str, screen: Screen
) -> None:
    """Compiles BIES into one nef."""
    from knerex_jax.deliver import ModelEntry, compile
    from knerex_jax.nef.crypto import read_key

    entries = [ModelEntry(path, first_id + k) for k, path in enumerate(bies)]
    with screen.working("compiling"):
        made = compile(entries, p_output, fm_cut=fm_cut, compress=compress, key=read_key(key_file))
    _show(screen, made)


@nef.command()
@click.argument("nefs", nargs=-1, required=True, type=click.Path())
@_OUT
@_COMPRESS
@_KEY
@with_screen
def combine(nefs: tuple[str, ...], p_output: str, compress: bool, key_file: str, screen: Screen) -> None:
    """Puts the models of NEFS into one file."""
    from knerex_jax.nef.crypto import read_key
    from knerex_jax.nef.tools import combine_nef

    _show(screen, combine_nef(nefs, p_output, compress=compress, key=read_key(key_file)))


@nef.command()
@click.argument("path", type=click.Path())
@_OUT
@_KEY
@with_screen
def extract(path: str, p_output: str, key_file: str, screen: Screen) -> None:
    """Writes a nef and a folder of segments per model of PATH."""
    from knerex_jax.nef.tools import extract_nef, opening_key

    _show(screen, *extract_nef(path, p_output, key=opening_key(path, key_file)))


@nef.command()
@click.argument("path", type=click.Path())
@with_screen
def info(path: str, screen: Screen) -> None:
    """Says what is in PATH; no key is needed."""
    from knerex_jax.nef.tools import nef_info

    found = nef_info(path)

    def text(console: Console) -> None:
        console.print(", ".join(f"{k} {v}" for k, v in found.items() if k != "models"), highlight=False)
        table = Table("model_id", "name", "version", "uuid", "bytes", box=None, pad_edge=False)
        for m in found["models"]:
            sizes = ", ".join(f"{s['name']} {s['size']}" for s in m["segments"])
            table.add_row(str(m["model_id"]), m["name"], m["version"], m["uuid"], sizes)
        console.print(table)

    screen.show(lambda: found, text)


@nef.command()
@click.argument("path", type=click.Path())
@click.argument("entry")
def get(path: str, entry: str) -> None:
    """Prints one ENTRY of what `info --json` says, such as models.0.model_id."""
    from knerex_jax.nef.tools import nef_value

    value = nef_value(path, entry)
    click.echo(value if isinstance(value, str) else json.dumps(value))


def _show(screen: Screen, *made: Path) -> None:
    """The files that were written, one a line."""
    screen.show(lambda: [str(path) for path in made], lambda _: click.echo("\n".join(map(str, made))))
