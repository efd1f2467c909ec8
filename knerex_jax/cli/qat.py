"""`knerex qat`."""

from typing import Any

import click

from knerex_jax.cli.options import given_run, qat_options, run_options
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.quantize.config import make_config


@click.command()
@qat_options
@run_options
@with_screen
def qat(screen: Screen, model: str | None, config_file: str | None, **options: Any) -> None:
    """Quantizes MODEL (or --p-onnx) and fine-tunes it; without one, the digit CNN that ships with the package.

    In a file the options of the training are a table [qat]. A run that was cut off goes on when it is called again; its
    metrics are in qat.csv.
    """
    from knerex_jax.api import run_qat
    from knerex_jax.config_file import read_qat_options
    from knerex_jax.demo import default_options, is_default
    from knerex_jax.present import print_result
    from knerex_jax.qat.config import make_qat_config, split_options

    held, trained = ({}, {}) if config_file is None else read_qat_options(config_file)
    own, given = split_options(given_run(model, options))
    given = {**held, **given}
    given = default_options(given) if is_default(given) else given
    with screen.bars() as progress:
        result = run_qat(make_config(**given), make_qat_config(**{**trained, **own}), progress=progress)
    screen.show(lambda: result.report, lambda console: print_result(console, result, {}))
