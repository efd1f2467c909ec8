"""`python -m knerex_jax.ktc.opt_and_eval`."""

import click

from knerex_jax.cli.main import main
from knerex_jax.ktc.opt_and_eval import opt_and_eval
from knerex_jax.targets import TARGETS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("platform", type=click.Choice(list(TARGETS)))
@click.argument("path", type=click.Path())
@click.option("-e", "--evaluate-only", is_flag=True, help="Evaluate, do not optimize.")
@click.option("-E", "--evaluate-dir", type=click.Path(), help="Folder of the evaluation.")
@click.option("-o", "--optimize-only", is_flag=True, help="Optimize, do not evaluate.")
@click.option("-O", "--optimized-path", type=click.Path(), help="File of the optimized model.")
@click.option("--deep-search", is_flag=True, help="Search tilings.")
@click.option("-P", "--print", "show", is_flag=True, help="Print the evaluation.")
def command(platform: str, path: str, show: bool, **options: str | bool | None) -> None:
    """Optimizes the ONNX at PATH, and evaluates the result for PLATFORM; a bie is evaluated only."""
    made = opt_and_eval(platform, path, **options)
    if made.optimized is not None:
        click.echo(f"optimized: {made.optimized}")
    if made.report is not None:
        click.echo(f"evaluated: {made.folder}")
        if show:
            click.echo(made.report)


if __name__ == "__main__":
    main(command=command)
