"""The `knerex` command: arguments -> config -> api. No logic of its own."""

import os
import sys
from typing import NoReturn

import click

from knerex_jax.cli.lazy import LazyGroup
from knerex_jax.compilations import keep_compilations
from knerex_jax.errors import KnerexError

_EXIT_CODES = """\b
Exit codes: 0 done; 1 a fault in what was given, or the answer is no;
2 a command line that cannot be read; 130 interrupted."""


_COMMANDS = {
    "ptq": "Quantizes a model; without --p-onnx, the digit CNN that ships with the package.",
    "count": "Counts a part of the calibration data for itself.",
    "qat": "Quantizes a model and fine-tunes it, without labels.",
    "sweep": "Tries every combination of the settings in a file.",
    "optimize": "Writes a model with fewer and plainer operators, checked against it.",
    "edit": "Cuts a model, changes shapes of its inputs and names of its tensors.",
    "check": "Says for every node where it runs, and why.",
    "evaluate": "Estimates fps, memory and costs by node.",
    "infer": "Runs an ONNX, bie or nef over data and writes its outputs.",
    "score": "Scores a model on labelled data of any size.",
    "simulate": "Runs an application on pictures: float, fixed and nef side by side.",
    "whatif": "Plans a result again with other settings.",
    "compile": "Compiles bies into one nef.",
    "nef": "Compiled models: compile, combine, extract, look into.",
    "verify": "Runs the built-in probe of a bie or nef on this machine.",
    "report": "Makes a report's page again, or compares two.",
    "compare": "Runs two ONNX models on the same inputs.",
    "doctor": "Says what this machine has, and tests its fast paths.",
    "completion": "Prints the script that completes commands in a shell.",
}
"""Command -> what the list says of it; its own help says more."""


@click.group(
    cls=LazyGroup,
    commands_of="knerex_jax.cli",
    helps=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)
@click.version_option(package_name="knerex-jax")
def knerex() -> None:
    """Post-training quantization for Kneron-class NPUs, bit-true."""


def main(arguments: list[str] | None = None, command: click.Command = knerex) -> NoReturn:
    """Runs a command line; a user's fault is one screen of text and exit code 1, never a traceback."""
    keep_compilations()
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
