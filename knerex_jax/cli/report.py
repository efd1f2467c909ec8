"""`knerex report`."""

from pathlib import Path

import click

from knerex_jax.cli.screen import Screen, with_screen
from knerex_jax.errors import ConfigError


@click.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="The HTML file to write.")
@with_screen
def report(screen: Screen, reports: tuple[str, ...], output: str | None) -> None:
    """Makes the page of one model_fx_report.json again, or compares two; folders of run_ptq do as well.

    One report: writes the HTML beside it, or to -o. Two: prints what differs, and writes it to -o as HTML if asked.
    """
    from knerex_jax.artifacts.stages import finite
    from knerex_jax.files import write_atomic
    from knerex_jax.report.compare import compare_reports, read_report
    from knerex_jax.report.html import render_comparison, render_report
    from knerex_jax.report.text import comparison_text

    if len(reports) > 2 or (screen.as_json and len(reports) == 1):
        raise ConfigError(
            "one report is drawn, two are compared", where=f"knerex report, {len(reports)} given",
            fix="give one or two; --json goes with two",
        )  # fmt: skip
    paths = [Path(r) / "model_fx_report.json" if Path(r).is_dir() else Path(r) for r in reports]
    found = [read_report(p) for p in paths]
    if len(found) == 1:
        target = Path(output) if output else paths[0].with_suffix(".html")
        write_atomic(target, render_report(found[0]).encode())
        click.echo(target)
        return
    names = ("a", "b") if len({p.parent.name for p in paths} - {""}) < 2 else tuple(p.parent.name for p in paths)
    compared = compare_reports(found[0], found[1], (names[0], names[1]))
    if output:
        write_atomic(Path(output), render_comparison(compared).encode())
    screen.show(lambda: finite(compared), lambda console: console.print(comparison_text(compared)))
