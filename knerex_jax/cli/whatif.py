"""`knerex whatif`."""

from pathlib import Path

import click

from knerex_jax.cli.screen import Screen, with_screen


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--set", "settings", multiple=True, metavar="NODE.KEY=VALUE", help="One entry of quan_config.")
@click.option("--quan-config", help="More entries: a JSON or YAML file, or JSON text.")
@click.option("--data", required=True, type=click.Path(), help="Evaluation data: .npz, a folder of .npy or of images.")
@click.option("--preprocess", help="Preset for images.  [default: as the run in FOLDER]")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Layout of the data.  [default: as that run]")
@with_screen
def whatif(
    folder: str, settings: tuple[str, ...], quan_config: str | None, data: str, preprocess: str | None,
    layout: str | None, screen: Screen,
) -> None:  # fmt: skip
    """Plans the result in FOLDER again with other settings, and prints the SNR of every output before and after."""
    from knerex_jax.config_file import RUN_FILE, read_options
    from knerex_jax.diagnose.whatif import WhatIf, parse_settings
    from knerex_jax.present import print_trial

    with screen.working("planning and running both"):
        subject = WhatIf.load(folder)
        trial = subject.change(parse_settings(settings, quan_config))
        run = Path(folder) / RUN_FILE
        asked = read_options(run) if run.exists() else {}
        inputs = subject.read(
            data, preprocess=preprocess or asked.get("preprocess"), layout=layout or asked.get("layout")
        )
        before, after = (subject.snr_db(t, inputs) for t in (subject.base, trial))
    screen.show(
        lambda: {
            "snr_db": {"before": dict(before), "after": dict(after)},
            "notes": [vars(n) for n in trial.planned.plan.notes],
        },
        lambda console: print_trial(console, trial.planned, before, after),
    )
