"""`knerex evaluate`."""

from typing import Any

import click

from knerex_jax.cli.options import KEY_FILE, MODEL_ID, config_options, given_options
from knerex_jax.cli.repeat import repeatable
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.nef.tools import opening_key
from knerex_jax.performance.subject import COST_OPTIONS
from knerex_jax.targets import TARGETS


@click.command()
@click.argument("model", type=click.Path())
@click.option("--platform", "platforms", multiple=True, help="Chip; more than once, or all. [default: 720]")
@config_options(COST_OPTIONS)
@MODEL_ID
@KEY_FILE
@click.option("-o", "--output-dir", type=click.Path(), help="Folder for ip_evaluation_<platform>.json and .txt.")
@click.option("--write-ip-config", type=click.Path(), help="Folder for ip_config_<platform>.json, to edit.")
@repeatable("output_dir")
@with_screen
@click.pass_context
def evaluate(
    context: click.Context, model: str, platforms: tuple[str, ...], model_id: int | None, key_file: str | None,
    output_dir: str | None, write_ip_config: str | None, screen: Screen, **options: Any,
) -> None:  # fmt: skip
    """Estimates fps, memory and costs by node of MODEL (ONNX, bie or nef); exit code 1 if a node is unsupported."""
    from knerex_jax.performance.run import evaluate as run
    from knerex_jax.performance.text import compared, rendered
    from knerex_jax.targets.machine import write_ip_config as write

    asked = tuple(TARGETS) if "all" in platforms else platforms or (None,)
    key, given = opening_key(model, key_file), given_options(options)
    with screen.working("estimating"):
        found = [run(model, p, output_dir=output_dir, model_id=model_id, key=key, **given) for p in asked]
    if write_ip_config is not None:
        for one in found:
            click.echo(write(one.platform, write_ip_config, one.machine), err=True)
    many = bool(platforms) and len(asked) > 1
    screen.show(
        lambda: [one.to_json() for one in found] if many else found[0].to_json(),
        lambda console: console.print(compared(found) if len(found) > 1 else rendered(found[0])),
    )
    context.exit(0 if all(one.supported for one in found) else 1)
