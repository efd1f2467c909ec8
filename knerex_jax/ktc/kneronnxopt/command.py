"""The command lines of `kneronnxopt`: those of `knerex optimize` and `knerex compare`, with the published extras."""

import logging
from typing import Any, NoReturn

import click

from knerex_jax.cli.compare import compare
from knerex_jax.cli.main import main
from knerex_jax.cli.optimize import optimize

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LOG = click.Option(["--log"], type=click.Choice(LEVELS), default="INFO", show_default=True, help="Level of messages.")
_ONNXTOOL = click.Option(["--onnxtool"], is_flag=True, help="Ignored: there is one way to infer shapes.")
_SEPARATE = click.Option(["--seperate", "--separate"], is_flag=True, help="Ignored: outputs are always apart.")


def _command(name: str, of: click.Command, extra: list[click.Parameter]) -> click.Command:
    """A command with more options, which only `--log` of them has an effect."""

    def run(log: str = "INFO", onnxtool: bool = False, seperate: bool = False, **options: Any) -> Any:
        logging.basicConfig(level=log)
        if onnxtool:
            click.echo("note: onnxtool: requested True, applied False (there is one way to infer shapes)", err=True)
        assert of.callback is not None, "a command runs something"
        return of.callback(**options)

    helped = {"help_option_names": ["-h", "--help"]}
    return click.Command(name, helped, params=[*of.params, *extra], callback=run, help=of.help)


OPTIMIZE = _command("kneronnxopt", optimize, [_LOG])
LARGE = _command("large_model_fast_proc", optimize, [_LOG, _ONNXTOOL])
COMPARE = _command("onnx_vs_onnx", compare, [_LOG, _SEPARATE])


def run(command: click.Command) -> NoReturn:
    """Runs one of them."""
    main(command=command)
