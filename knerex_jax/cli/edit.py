"""`knerex edit`."""

from pathlib import Path

import click

from knerex_jax.cli.options import parse_shape
from knerex_jax.errors import ConfigError


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write.  [default: <MODEL>_edited.onnx]")
@click.option("--inputs", multiple=True, metavar="T1,T2", help="Tensors to start at, instead of MODEL's inputs.")
@click.option("--outputs", multiple=True, metavar="T1,T2", help="Tensors to end at, instead of MODEL's outputs.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME:1,3,224,224", help="Shape of an input; 0: left open.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="New name of a tensor.")
def edit(
    model: str, output: str | None, inputs: tuple[str, ...], outputs: tuple[str, ...], shapes: tuple[str, ...],
    rename: tuple[str, ...],
) -> None:  # fmt: skip
    """Cuts a head or tail off MODEL, changes shapes of inputs and names of tensors."""
    from knerex_jax.prepare.edit import edit_onnx

    target = Path(output) if output else Path(model).with_name(f"{Path(model).stem}_edited.onnx")
    cut = [[t for text in side for t in text.split(",") if t] for side in (inputs, outputs)]
    if not any((*cut, shapes, rename)):
        fix = "give --inputs, --outputs, --shape or --rename"
        raise ConfigError("nothing to do", where="knerex edit", fix=fix)
    made = edit_onnx(
        model, target, inputs=cut[0], outputs=cut[1], shapes=dict(parse_shape(s) for s in shapes),
        rename=dict(_pair(text) for text in rename),
    )  # fmt: skip
    for label, side in (("input", made.graph.input), ("output", made.graph.output)):
        for value in side:
            dims = value.type.tensor_type.shape.dim
            click.echo(f"{label} {value.name} [{', '.join(str(d.dim_value or d.dim_param or '?') for d in dims)}]")
    click.echo(f"{len(made.graph.node)} nodes")
    click.echo(target)


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise ConfigError(f"cannot read {text!r}", where="--rename", fix="write it as OLD=NEW")
    return old, new
