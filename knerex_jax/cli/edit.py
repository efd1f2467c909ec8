"""`knerex edit`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import onnx
from rich.console import Console

from knerex_jax.cli.options import parse_shape
from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.errors import ConfigError


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write.  [default: <MODEL>_edited.onnx]")
@click.option("--inputs", multiple=True, metavar="T1,T2", help="Tensors to start at, instead of MODEL's inputs.")
@click.option("--outputs", multiple=True, metavar="T1,T2", help="Tensors to end at, instead of MODEL's outputs.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME:1,3,224,224", help="Shape of an input; 0: left open.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="New name of a tensor.")
@with_screen
def edit(
    screen: Screen, model: str, output: str | None, inputs: tuple[str, ...], outputs: tuple[str, ...],
    shapes: tuple[str, ...], rename: tuple[str, ...],
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
    found = {
        "output": str(target), "nodes": len(made.graph.node), "inputs": _shapes(made.graph.input),
        "outputs": _shapes(made.graph.output),
    }  # fmt: skip
    screen.show(lambda: found, lambda console: _print_edited(console, found))


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, list[str]]:
    """Name -> axes, sizes or names."""
    return {v.name: [str(d.dim_value or d.dim_param or "?") for d in v.type.tensor_type.shape.dim] for v in values}


def _print_edited(console: Console, found: Mapping[str, Any]) -> None:
    for label in ("input", "output"):
        for name, dims in found[f"{label}s"].items():
            console.print(f"{label} {name} [{', '.join(dims)}]", markup=False, highlight=False)
    console.print(f"{found['nodes']} nodes", highlight=False)
    console.print(found["output"], markup=False, highlight=False, soft_wrap=True)


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise ConfigError(f"cannot read {text!r}", where="--rename", fix="write it as OLD=NEW")
    return old, new
