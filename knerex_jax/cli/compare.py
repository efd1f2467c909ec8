"""`knerex compare`."""

from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from knerex_jax.cli.options import INPUT_SHAPE, LAYOUT, PREPROCESS, parse_shape
from knerex_jax.cli.screen import Screen, with_screen

if TYPE_CHECKING:
    from knerex_jax.prepare.compare import Comparison


@click.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option("--data", type=click.Path(), help="Inputs: .npz, a folder of .npy or of images.  [default: random]")
@PREPROCESS
@LAYOUT
@click.option("--samples", type=click.IntRange(min=1), help="How many.  [default: all data, or 3 random ones]")
@click.option("--tolerance", type=click.FloatRange(min=0), default=1e-4, show_default=True,
              help="Largest difference, relative to the output's largest value.")  # fmt: skip
@INPUT_SHAPE
@with_screen
@click.pass_context
def compare(
    context: click.Context, screen: Screen, first: str, second: str, data: str | None, preprocess: str | None,
    layout: str | None, samples: int | None, tolerance: float, input_shape: tuple[str, ...],
) -> None:  # fmt: skip
    """Runs the ONNX models FIRST and SECOND on ONNX Runtime on the same inputs; exit code 1 if they differ."""
    from knerex_jax.prepare.compare import compare_onnx

    shapes = dict(parse_shape(s) for s in input_shape)
    with screen.working("comparing"):
        found = compare_onnx(
            first, second, data, samples=samples, tolerance=tolerance, input_shapes=shapes, preprocess=preprocess,
            layout=layout,
        )  # fmt: skip
    screen.show(found.to_json, lambda console: _print_comparison(console, found))
    context.exit(0 if found.alike else 1)


def _print_comparison(console: Console, found: "Comparison") -> None:
    table = Table("output", "shape", "max abs diff", "relative", "SNR, dB", "", box=None, pad_edge=False)
    for o in found.outputs:
        row = (o.name, str(list(o.shape)), f"{o.max_abs:.3g}", f"{o.relative:.2g}", f"{o.snr_db:.1f}")
        table.add_row(*(Text(cell) for cell in row), "alike" if o.alike else "[bold red]different[/]")
    console.print(table)
    console.print(f"{found.samples} samples, tolerance {found.tolerance:g}", highlight=False)
