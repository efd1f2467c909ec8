"""`knerex verify`."""

from dataclasses import asdict

import click
from rich.console import Console

from knerex_jax.cli.options import KEY_FILE
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.nef.tools import opening_key


@click.command()
@click.argument("path", type=click.Path())
@click.option(
    "--batch-size", type=click.IntRange(1), default=1, show_default=True,
    help="Copies that the emulator runs at once (bie).",
)  # fmt: skip
@KEY_FILE
@with_screen
@click.pass_context
def verify(context: click.Context, path: str, batch_size: int, key_file: str | None, screen: Screen) -> None:
    """Runs the built-in probe of a bie or nef on this machine; exit code 1 if its codes are others."""
    from knerex_jax.present import print_verdict
    from knerex_jax.verdict import verify as run

    with screen.working("running the probe"):
        verdicts = run(path, batch_size=batch_size, key=opening_key(path, key_file))

    def text(console: Console) -> None:
        for verdict in verdicts:
            print_verdict(console, verdict)

    screen.show(lambda: [asdict(v) for v in verdicts], text)
    context.exit(0 if all(v.equal for v in verdicts) else 1)
