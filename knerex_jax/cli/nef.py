"""The commands `knerex nef`."""

import json

import click
from rich.console import Console
from rich.table import Table

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
def compile_(bies: tuple[str, ...], fm_cut: str, first_id: int, p_output: str, compress: bool, key_file: str) -> None:
    """Compiles BIES into one nef."""
    from knerex_jax.deliver import ModelEntry, compile
    from knerex_jax.nef.crypto import read_key

    entries = [ModelEntry(path, first_id + k) for k, path in enumerate(bies)]
    click.echo(compile(entries, p_output, fm_cut=fm_cut, compress=compress, key=read_key(key_file)))


@nef.command()
@click.argument("nefs", nargs=-1, required=True, type=click.Path())
@_OUT
@_COMPRESS
@_KEY
def combine(nefs: tuple[str, ...], p_output: str, compress: bool, key_file: str) -> None:
    """Puts the models of NEFS into one file."""
    from knerex_jax.nef.crypto import read_key
    from knerex_jax.nef.tools import combine_nef

    click.echo(combine_nef(nefs, p_output, compress=compress, key=read_key(key_file)))


@nef.command()
@click.argument("path", type=click.Path())
@_OUT
@_KEY
def extract(path: str, p_output: str, key_file: str) -> None:
    """Writes a nef and a folder of segments per model of PATH."""
    from knerex_jax.nef.tools import extract_nef, opening_key

    for made in extract_nef(path, p_output, key=opening_key(path, key_file)):
        click.echo(made)


@nef.command()
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def info(path: str, as_json: bool) -> None:
    """Says what is in PATH; no key is needed."""
    from knerex_jax.nef.tools import nef_info

    found = nef_info(path)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    console = Console()
    console.print(", ".join(f"{k} {v}" for k, v in found.items() if k != "models"), highlight=False)
    table = Table("model_id", "name", "version", "uuid", "bytes", box=None, pad_edge=False)
    for m in found["models"]:
        sizes = ", ".join(f"{s['name']} {s['size']}" for s in m["segments"])
        table.add_row(str(m["model_id"]), m["name"], m["version"], m["uuid"], sizes)
    console.print(table)


@nef.command()
@click.argument("path", type=click.Path())
@click.argument("entry")
def get(path: str, entry: str) -> None:
    """Prints one ENTRY of what `info --json` says, such as models.0.model_id."""
    from knerex_jax.nef.tools import nef_value

    value = nef_value(path, entry)
    click.echo(value if isinstance(value, str) else json.dumps(value))
