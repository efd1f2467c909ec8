"""`knerex sweep`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from knerex_jax.cli.screen import Screen, with_screen


@click.command()
@click.argument("file", type=click.Path())
@click.option("-o", "--out", type=click.Path(), help="Folder of sweep.csv, instead of the file's.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that share the work.")
@click.option(
    "--ray", metavar="ADDRESS", help="A Ray cluster instead: its address, auto, or local (--workers: how many)."
)
@click.option("--tries", type=click.IntRange(1), default=2, show_default=True, help="Runs of a cell that fails.")
@with_screen
@click.pass_context
def sweep(
    context: click.Context, file: str, out: str | None, workers: int, ray: str | None, tries: int, screen: Screen
) -> None:
    """Tries every combination of the settings in FILE; exit code 1 if one of them failed.

    FILE is TOML or YAML: [base] holds the options of all runs, [grid] a list of values per option to combine, [[case]]
    options that change together, such as a model and its data. A second call runs only what is missing or failed. The
    table is sweep.csv, the page sweep.html.
    """
    from knerex_jax.sweep.grid import read_sweep
    from knerex_jax.sweep.run import PAGE, TABLE, run_sweep

    asked = read_sweep(file)
    asked = asked if out is None else replace(asked, out=Path(out))
    with screen.bars() as progress:
        rows = run_sweep(asked, progress, workers=workers, ray=ray, tries=tries)

    def text(console: Console) -> None:
        _print(console, rows, asked.names)
        for what, name in (("table", TABLE), ("page", PAGE)):
            console.print(f"{what}: {asked.out / name}", highlight=False, markup=False)

    screen.show(lambda: rows, text)
    context.exit(0 if all(row["status"] == "ok" for row in rows) else 1)


def _print(console: Console, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    table = Table(*names, "SNR, dB", "fps", "weights, bytes", "s", box=None, pad_edge=False)
    for row in rows:
        cells = [str(row[name]) for name in names]
        figures = [row.get(c) for c in ("snr_db", "fps", "weight_bytes", "seconds")]
        if row["status"] == "ok":
            cells += ["" if figure is None else str(figure) for figure in figures]
        table.add_row(*(Text(c) for c in cells), *([] if row["status"] == "ok" else [Text("failed", style="bold red")]))
    console.print(table)
    for row in rows:
        if row["status"] != "ok":
            tried = f" after {row['tries']} tries" if int(row.get("tries") or 1) > 1 else ""
            console.print(f"failed{tried}: {_named(row, names)}: {row['error']}", markup=False, highlight=False)


def _named(row: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={row[name]}" for name in names)
