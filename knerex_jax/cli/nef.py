"""The commands `knerex nef`."""

import json

import click
from rich.console import Console
from rich.table import Table

from knerex_jax.cli.compile import COMPRESS, KEY, OUT, compile, show_files
from knerex_jax.cli.screen import Screen, with_screen


@click.group()
def nef() -> None:
    """Compiled models: compile, combine, extract, look into."""


nef.add_command(compile)


@nef.command()
@click.argument("nefs", nargs=-1, required=True, type=click.Path())
@OUT
@COMPRESS
@KEY
@with_screen
def combine(nefs: tuple[str, ...], p_output: str, compress: bool, key_file: str, screen: Screen) -> None:
    """Puts the models of NEFS into one file."""
    from knerex_jax.nef.crypto import read_key
    from knerex_jax.nef.tools import combine_nef

    show_files(screen, combine_nef(nefs, p_output, compress=compress, key=read_key(key_file)))


@nef.command()
@click.argument("path", type=click.Path())
@OUT
@KEY
@with_screen
def extract(path: str, p_output: str, key_file: str, screen: Screen) -> None:
    """Writes a nef and a folder of segments per model of PATH."""
    from knerex_jax.nef.tools import extract_nef, opening_key

    show_files(screen, *extract_nef(path, p_output, key=opening_key(path, key_file)))


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
