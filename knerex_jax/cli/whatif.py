"""`knerex whatif`."""

import click
from rich.console import Console


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--set", "settings", multiple=True, metavar="NODE.KEY=VALUE", help="One entry of quan_config.")
@click.option("--quan-config", help="More entries: a JSON or YAML file, or JSON text.")
@click.option("--data", required=True, help="Evaluation data: .npz, or a folder of .npy.")
def whatif(folder: str, settings: tuple[str, ...], quan_config: str | None, data: str) -> None:
    """Plans the result in FOLDER again with other settings, and prints the SNR of every output before and after."""
    from knerex_jax.diagnose.whatif import WhatIf, parse_settings
    from knerex_jax.present import print_trial

    subject = WhatIf.load(folder)
    trial = subject.change(parse_settings(settings, quan_config))
    inputs = subject.read(data)
    print_trial(Console(), trial.planned, *(subject.snr_db(t, inputs) for t in (subject.base, trial)))
