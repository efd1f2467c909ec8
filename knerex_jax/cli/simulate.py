"""`knerex simulate`."""

from typing import TYPE_CHECKING

import click
from rich.console import Console

from knerex_jax.cli.options import INPUT_SHAPE, KEY_FILE, MODEL_ID, parse_shape
from knerex_jax.cli.repeat import repeatable
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.nef.tools import opening_key

if TYPE_CHECKING:
    from knerex_jax.e2e.run import Simulation


@click.command()
@click.option("--onnx", type=click.Path(), help="Float model.")
@click.option("--bie", type=click.Path(), help="Fixed-point model.")
@click.option("--nef", type=click.Path(), help="Compiled model. One of the three at least.")
@click.option("--images", required=True, type=click.Path(), help="Folder of pictures.")
@click.option("--pre", required=True, help="module:function of a picture, or a preset (pytorch, yolo, ...).")
@click.option("--post", required=True, help="module:function of outputs and context; knerex_jax.e2e.ready:top5.")
@click.option("--metric", help="module:function of results and labels.")
@click.option("--labels", type=click.Path(), help="JSON or CSV: name of a picture, label.")
@click.option("-o", "--p-output", default="kneron_simulation", show_default=True, type=click.Path(), help="Folder.")
@click.option("--skip-bad", is_flag=True, help="Leave pictures out that cannot be read, instead of stopping.")
@click.option("--draw/--no-draw", default=True, show_default=True, help="Write drawn pictures.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Layout of the model's input, for a preset.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Pictures at once.")
@INPUT_SHAPE
@MODEL_ID
@KEY_FILE
@repeatable("p_output")
@with_screen
def simulate(
    screen: Screen, onnx: str | None, bie: str | None, nef: str | None, images: str, pre: str, post: str,
    metric: str | None, labels: str | None, p_output: str, skip_bad: bool, draw: bool, layout: str | None,
    batch_size: int, input_shape: tuple[str, ...], model_id: int | None, key_file: str | None,
) -> None:  # fmt: skip
    """Runs an application on pictures: float, fixed and nef side by side, with drawn results."""
    from knerex_jax.e2e.run import simulate_images

    with screen.bars() as progress:
        found = simulate_images(
            images, p_output, pre=pre, post=post, onnx=onnx, bie=bie, nef=nef, metric=metric, labels=labels,
            skip_bad=skip_bad, draw=draw, layout=layout, batch_size=batch_size, model_id=model_id,
            key=nef and opening_key(nef, key_file), input_shapes=dict(parse_shape(s) for s in input_shape),
            progress=progress,
        )  # fmt: skip
    screen.show(found.to_json, lambda console: _print_simulation(console, found))


def _print_simulation(console: Console, found: "Simulation") -> None:
    from knerex_jax.e2e.text import summary_table

    console.print(summary_table(found))
    for picture, why in found.skipped.items():
        console.print(f"skipped: {picture}: {why}", highlight=False, markup=False)
    if found.nef_equals_fixed is not None:
        console.print(f"nef equals fixed on {found.nef_equals_fixed} of {found.pictures} pictures", highlight=False)
    console.print(f"{'results':>12}  {found.folder}", highlight=False)
