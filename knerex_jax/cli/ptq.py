"""`knerex ptq`."""

from typing import Any

import click

from knerex_jax.cli.options import given_run, run_options
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.cli.together import with_processes
from knerex_jax.quantize.config import make_config


@click.command()
@run_options
@with_screen
@with_processes
def ptq(screen: Screen, model: str | None, config_file: str | None, **options: Any) -> None:
    """Quantizes MODEL (or --p-onnx); without one, the digit CNN that ships with the package.

    The options of every run are written to run.toml in its output folder; knerex ptq --config FOLDER/run.toml repeats
    it.
    """
    from knerex_jax.api import run_ptq
    from knerex_jax.config_file import read_options
    from knerex_jax.demo import is_default, run_default
    from knerex_jax.present import print_result

    given = {**({} if config_file is None else read_options(config_file)), **given_run(model, options)}
    with screen.bars() as progress:
        if is_default(given):
            result, scores = run_default(given, progress=progress)
        else:
            result, scores = run_ptq(make_config(**given), progress=progress), {}
    screen.show(lambda: result.report, lambda console: print_result(console, result, scores))
