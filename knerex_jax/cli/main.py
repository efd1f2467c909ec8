"""The `knerex` command: arguments -> config -> api. No logic of its own."""

import sys
from typing import NoReturn

import click

from knerex_jax.cli.check import check
from knerex_jax.cli.evaluate import evaluate
from knerex_jax.cli.nef import nef
from knerex_jax.cli.ptq import ptq
from knerex_jax.cli.report import report
from knerex_jax.cli.verify import verify
from knerex_jax.cli.whatif import whatif
from knerex_jax.errors import KnerexError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="knerex-jax")
def knerex() -> None:
    """Post-training quantization for Kneron-class NPUs, bit-true."""


for command in (ptq, check, evaluate, whatif, nef, verify, report):
    knerex.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line; a user's fault is one screen of text and exit code 1, never a traceback."""
    try:
        code = knerex(args=arguments, standalone_mode=False) or 0  # what a command gave context.exit, else nothing
    except click.exceptions.Exit as e:
        code = e.exit_code
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except click.exceptions.Abort:
        click.echo("interrupted; nothing was left half-written", err=True)
        code = 130
    except KnerexError as e:
        click.echo(f"{type(e).__name__}: {e}", err=True)
        code = 1
    sys.exit(code)
