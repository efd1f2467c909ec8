"""`knerex verify`."""

import json
from dataclasses import asdict

import click
from rich.console import Console

from knerex_jax.nef.tools import opening_key


@click.command()
@click.argument("path", type=click.Path())
@click.option("--batch-size", default=1, show_default=True, help="Copies that the emulator runs at once (bie).")
@click.option("--key-file", type=click.Path(), help="Key of an encrypted nef; else KNEREX_NEF_KEY.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def verify(context: click.Context, path: str, batch_size: int, key_file: str | None, as_json: bool) -> None:
    """Runs the built-in probe of a bie or nef on this machine; exit code 1 if its codes are others."""
    from knerex_jax.present import print_verdict
    from knerex_jax.verify import verify as run

    verdicts = run(path, batch_size=batch_size, key=opening_key(path, key_file))
    if as_json:
        click.echo(json.dumps([asdict(v) for v in verdicts], indent=1))
    else:
        for verdict in verdicts:
            print_verdict(Console(), verdict)
    context.exit(0 if all(v.equal for v in verdicts) else 1)
