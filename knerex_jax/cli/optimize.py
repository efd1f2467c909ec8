"""`knerex optimize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from knerex_jax.cli.screen import Screen, with_screen

if TYPE_CHECKING:
    from knerex_jax.prepare.optimize import Optimized


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write.  [default: <MODEL>_optimized.onnx]")
@click.option(
    "--duplicate-shared-weights", type=click.IntRange(0, 2), default=1, show_default=True,
    help="Copies of shared weights: 0 never, 1 where the compiler needs them (never), 2 always.",
)  # fmt: skip
@click.option("--skip-check", is_flag=True, help="Do not run the result against MODEL.")
@click.option(
    "--overwrite-input-shapes", "--input-shape", "overwrite_input_shapes", multiple=True, metavar="NAME:1,3,224,224",
    help="Shape of an input instead of MODEL's; without a name, of the only one.",
)  # fmt: skip
@click.option("--convert-f16/--no-convert-f16", default=True, help="Half precision becomes float32; always applied.")
@click.option("--skipped-optimizers", multiple=True, metavar="NAME", help="A rewrite to leave out.")
@click.option("--skip-fuse-qkv", is_flag=True, help="Projections of attention are never merged.")
@click.option("--clear-descriptions", is_flag=True, help="Drop documentation and metadata.")
@click.option("--opt-matmul", is_flag=True, help="Not needed: products of any rank are compiled.")
@click.option("--clear-shapes", is_flag=True, help="Shapes are always inferred anew.")
@click.option("--replace-avgpool-with-conv", is_flag=True, help="Average by depthwise convolutions.")
@click.option("--replace-dilated-conv", is_flag=True, help="Write dilations as zeros among the weights.")
@click.option("--defuse-gaps", is_flag=True, help="Not applied: global pooling runs whole.")
@with_screen
def optimize(screen: Screen, model: str, output: str | None, **options: Any) -> None:
    """Writes MODEL with fewer and plainer operators, checked against it on ONNX Runtime."""
    from knerex_jax.prepare.optimize import optimize_onnx

    target = Path(output) if output else Path(model).with_name(f"{Path(model).stem}_optimized.onnx")
    with screen.working("optimizing"):
        made = optimize_onnx(model, target, **options)
    screen.show(lambda: _data(made, target), lambda console: _print_optimized(console, made, target))


def _data(made: "Optimized", target: Path) -> dict[str, Any]:
    comparison = made.comparison and made.comparison.to_json()
    counts = {"before": dict(made.before), "after": dict(made.after)}
    return {"output": str(target), **counts, "comparison": comparison, "notes": [vars(n) for n in made.notes]}


def _print_optimized(console: Console, made: "Optimized", target: Path) -> None:
    table = Table("operator", "before", "after", box=None, pad_edge=False)
    for kind in sorted({*made.before, *made.after}):
        table.add_row(Text(kind), str(made.before.get(kind, 0)), str(made.after.get(kind, 0)))
    table.add_row("in total", str(sum(made.before.values())), str(sum(made.after.values())), style="bold")
    console.print(table)
    for note in made.notes:
        console.print(f"note: {note}", markup=False)
    if made.comparison is not None:
        worst = max((o.relative for o in made.comparison.outputs), default=0.0)
        said = f"{made.comparison.samples} random inputs: at most {worst:.1e} of the largest value apart"
        console.print(f"checked against the model given, {said}", highlight=False)
    console.print(str(target), markup=False, highlight=False, soft_wrap=True)
