"""The `knerex` command: arguments -> config -> api. No logic of its own."""

import os
import sys
from typing import NoReturn

import click

from knerex_jax.cli.check import check
from knerex_jax.cli.compare import compare
from knerex_jax.cli.completion import completion
from knerex_jax.cli.count import count
from knerex_jax.cli.doctor import doctor
from knerex_jax.cli.edit import edit
from knerex_jax.cli.evaluate import evaluate
from knerex_jax.cli.infer import infer
from knerex_jax.cli.nef import nef
from knerex_jax.cli.optimize import optimize
from knerex_jax.cli.ptq import ptq
from knerex_jax.cli.report import report
from knerex_jax.cli.score import score
from knerex_jax.cli.simulate import simulate
from knerex_jax.cli.sweep import sweep
from knerex_jax.cli.verify import verify
from knerex_jax.cli.whatif import whatif
from knerex_jax.errors import KnerexError

_EXIT_CODES = """\b
Exit codes: 0 done; 1 a fault in what was given, or the answer is no;
2 a command line that cannot be read; 130 interrupted."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(package_name="knerex-jax")
def knerex() -> None:
    """Post-training quantization for Kneron-class NPUs, bit-true."""


for each in (
    ptq, count, sweep, optimize, edit, check, evaluate, infer, score, simulate, whatif, nef, verify, report,
    compare, doctor, completion,
):  # fmt: skip
    knerex.add_command(each)


def main(arguments: list[str] | None = None, command: click.Command = knerex) -> NoReturn:
    """Runs a command line; a user's fault is one screen of text and exit code 1, never a traceback."""
    try:
        code = command(args=arguments, standalone_mode=False) or 0  # what a command gave context.exit, else nothing
    except click.exceptions.Exit as e:
        code = e.exit_code
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except click.exceptions.Abort:
        click.echo("interrupted; nothing was left half-written", err=True)
        code = 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - else Python fails again when it flushes
        code = 1
    except KnerexError as e:
        click.echo(f"{type(e).__name__}: {e}", err=True)
        code = 1
    sys.exit(code)
