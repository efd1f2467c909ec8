"""`knerex infer`."""

from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console

from knerex_jax.cli.options import INPUT_SHAPE, KEY_FILE, LAYOUT, MODEL_ID, PREPROCESS, parse_shape
from knerex_jax.cli.repeat import repeatable
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.nef.tools import opening_key

if TYPE_CHECKING:
    from knerex_jax.inferred import Inferred


@click.command()
@click.argument("model", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help=".npz, .npy, or a folder of .npy files or images.")
@PREPROCESS
@LAYOUT
@click.option("--data-type", type=click.Choice(["float", "fixed"]), default="float", show_default=True, help="Values.")
@click.option("--format", "form", type=click.Choice(["npz", "npy"]), default="npz", show_default=True, help="Files.")
@click.option("--dump", "dumps", is_flag=True, help="Also write every tensor into <model>.dump.zip.")
@click.option("--dump-samples", type=click.IntRange(1), default=1, show_default=True, help="Samples in the dump.")
@click.option("-o", "--p-output", default="kneron_infer", show_default=True, type=click.Path(), help="Folder.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Samples at once.")
@INPUT_SHAPE
@MODEL_ID
@KEY_FILE
@repeatable("p_output")
@with_screen
def infer(
    screen: Screen, model: str, data: str, preprocess: str | None, layout: str | None,
    data_type: Literal["float", "fixed"], form: Literal["npz", "npy"], dumps: bool, dump_samples: int, p_output: str,
    batch_size: int, input_shape: tuple[str, ...], model_id: int | None, key_file: str | None,
) -> None:  # fmt: skip
    """Runs MODEL (ONNX, bie or nef) over data and writes its outputs, a file per sample."""
    from knerex_jax.inferred import infer as run

    with screen.bars() as progress:
        found = run(
            model, data, p_output, data_type=data_type, form=form, preprocess=preprocess, layout=layout,
            batch_size=batch_size, dump_samples=dump_samples if dumps else 0, model_id=model_id,
            key=opening_key(model, key_file), input_shapes=dict(parse_shape(s) for s in input_shape),
            progress=progress,
        )  # fmt: skip
    screen.show(found.to_json, lambda console: _print_inferred(console, found))


def _print_inferred(console: Console, found: "Inferred") -> None:
    shapes = ", ".join(f"{t} {tuple(o['shape'])} {o['dtype']}" for t, o in found.outputs.items())
    console.print(f"{found.samples} samples of {found.model} ({found.kind}): {shapes}", highlight=False)
    console.print(f"{'outputs':>12}  {found.folder}", highlight=False)
    if found.dump is not None:
        console.print(f"{'dump':>12}  {found.dump}", highlight=False)
