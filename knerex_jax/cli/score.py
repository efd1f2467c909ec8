"""`knerex score`."""

from typing import Any

import click

from knerex_jax.cli.options import INPUT_SHAPE, KEY_FILE, LAYOUT, MODEL_ID, PREPROCESS, parse_shape
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.cli.together import with_processes
from knerex_jax.metrics import METRICS
from knerex_jax.nef.tools import opening_key


@click.command()
@click.argument("model", type=click.Path())
@click.option("--data", required=True, help=".npz, .npy, folder of .npy files or images; module:function of pairs.")
@click.option("--labels", type=click.Path(), help="One per sample: .npy, or text with a number per line.")
@click.option(
    "--metric", "metrics", multiple=True, type=click.Choice(list(METRICS)), default=["top1"], show_default=True,
    help="Score; more than once for several.",
)  # fmt: skip
@PREPROCESS
@LAYOUT
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Samples per step, device.")
@click.option("--devices", type=click.IntRange(1), help="Devices that share the work; default all.")
@click.option("--threads", type=click.IntRange(1), default=4, show_default=True, help="Threads that read data.")
@INPUT_SHAPE
@MODEL_ID
@KEY_FILE
@with_screen
@with_processes
def score(
    screen: Screen, model: str, data: str, labels: str | None, metrics: tuple[str, ...], input_shape: tuple[str, ...],
    key_file: str | None, **options: Any,
) -> None:  # fmt: skip
    """Scores MODEL (ONNX, bie or nef) on labelled data of any size."""
    from knerex_jax.dataset import evaluate_dataset

    shapes = dict(parse_shape(s) for s in input_shape)
    with screen.bars() as progress:
        found = evaluate_dataset(
            model, data, metrics, labels=labels, key=opening_key(model, key_file), input_shapes=shapes,
            progress=progress, **options,
        )  # fmt: skip
    scores = ", ".join(f"{name} {value:.6g}" for name, value in found.scores.items())
    text = f"{found.model} ({found.kind}), {found.samples} samples: {scores}"
    screen.show(found.to_json, lambda console: console.print(text, highlight=False, markup=False))
