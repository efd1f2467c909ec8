"""`knerex check`."""

import click

from knerex_jax.cli.options import INPUT_SHAPE, parse_shape
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.targets import TARGETS


@click.command()
@click.argument("model", type=click.Path())
@click.option("--platform", type=click.Choice(list(TARGETS)), default="720", show_default=True, help="Chip.")
@INPUT_SHAPE
@with_screen
@click.pass_context
def check(context: click.Context, model: str, platform: str, input_shape: tuple[str, ...], screen: Screen) -> None:
    """Says for every node of MODEL where it runs, and why; exit code 1 if one is unsupported."""
    from knerex_jax.check import check_model
    from knerex_jax.present import print_check

    with screen.working("reading the model"):
        report = check_model(model, platform, dict(parse_shape(s) for s in input_shape))
    screen.show(report.to_json, lambda console: print_check(console, report))
    context.exit(0 if report.supported else 1)
