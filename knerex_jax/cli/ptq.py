"""`knerex ptq`."""

import json
from dataclasses import fields
from typing import Any

import click
from rich.console import Console

from knerex_jax.cli.bars import progress_bars
from knerex_jax.cli.options import config_options, given_options
from knerex_jax.quantize.config import PTQConfig, make_config


@click.command()
@config_options([f.name for f in fields(PTQConfig)])
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def ptq(quiet: bool, as_json: bool, **options: Any) -> None:
    """Quantizes a model; without --p-onnx, the digit CNN and the digits that ship with the package."""
    from knerex_jax.demo import run_default
    from knerex_jax.present import print_result

    given = given_options(options)
    console = Console(stderr=as_json, quiet=quiet)
    with progress_bars(console, enabled=not quiet and console.is_terminal) as progress:
        if "p_onnx" in given or "np_txt" in given:
            from knerex_jax.api import run_ptq

            result, scores = run_ptq(make_config(**given), progress=progress), {}
        else:
            result, scores = run_default(given, progress=progress)
    if as_json:
        click.echo(json.dumps(result.report, indent=1))
    else:
        print_result(console, result, scores)
