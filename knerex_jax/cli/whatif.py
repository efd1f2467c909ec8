"""`knerex whatif`."""

import click

from knerex_jax.cli.screen import Screen, with_screen


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--set", "settings", multiple=True, metavar="NODE.KEY=VALUE", help="One entry of quan_config.")
@click.option("--quan-config", help="More entries: a JSON or YAML file, or JSON text.")
@click.option("--data", required=True, help="Evaluation data: .npz, or a folder of .npy.")
@with_screen
def whatif(folder: str, settings: tuple[str, ...], quan_config: str | None, data: str, screen: Screen) -> None:
    """Plans the result in FOLDER again with other settings, and prints the SNR of every output before and after."""
    from knerex_jax.diagnose.whatif import WhatIf, parse_settings
    from knerex_jax.present import print_trial

    with screen.working("planning and running both"):
        subject = WhatIf.load(folder)
        trial = subject.change(parse_settings(settings, quan_config))
        inputs = subject.read(data)
        before, after = (subject.snr_db(t, inputs) for t in (subject.base, trial))
    screen.show(
        lambda: {
            "snr_db": {"before": dict(before), "after": dict(after)},
            "notes": [vars(n) for n in trial.planned.plan.notes],
        },
        lambda console: print_trial(console, trial.planned, before, after),
    )
