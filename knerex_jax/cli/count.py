"""`knerex count`."""

from dataclasses import fields
from typing import Any

import click

from knerex_jax.cli.options import CONFIG, config_options, given_options
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.cli.together import with_processes
from knerex_jax.quantize.config import PTQConfig, make_config

_OUTPUTS = ("p_output", "counts")


@click.command()
@CONFIG
@click.option("-o", "--to", type=click.Path(), required=True, help="File of the counts (.npz).")
@config_options([f.name for f in fields(PTQConfig) if f.name not in _OUTPUTS])
@with_screen
@with_processes
def count(screen: Screen, config_file: str | None, to: str, **options: Any) -> None:
    """Counts calibration data, or a part of them; knerex ptq --counts makes the model of all parts.

    The options are those of knerex ptq; np-txt is this part of the data.
    """
    from knerex_jax.config_file import read_options
    from knerex_jax.counts import count_data

    given = {**({} if config_file is None else read_options(config_file)), **given_options(options)}
    with screen.bars() as progress:
        found = count_data(make_config(**given), to=to, progress=progress)
    state = found.state
    screen.show(
        lambda: {"samples": state.samples, "tensors": len(state.tensors), "file": to},
        lambda console: console.print(
            f"{state.samples} samples, {len(state.tensors)} tensors: {to}", highlight=False, markup=False
        ),
    )
