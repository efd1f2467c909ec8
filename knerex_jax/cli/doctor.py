"""`knerex doctor`."""

from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from knerex_jax.cli.screen import Screen, with_screen

if TYPE_CHECKING:
    from knerex_jax.doctor import Diagnosis


@click.command()
@with_screen
@click.pass_context
def doctor(context: click.Context, screen: Screen) -> None:
    """Says what this machine has and which fast paths it gets, and tests them; exit code 1 if they are not exact."""
    from knerex_jax.doctor import diagnose

    with screen.working("testing"):
        found = diagnose()
    screen.show(found.to_json, lambda console: _print(console, found))
    context.exit(0 if found.healthy else 1)


def _print(console: Console, found: "Diagnosis") -> None:
    rows = {
        "versions": ", ".join(f"{package} {number}" for package, number in found.versions.items()),
        "devices": ", ".join(found.devices),
        "cpu": f"{found.cpu['name']}, {found.cpu['cores']} cores, {' '.join(found.cpu['features'] or ['?'])}",
        "int8 against float32": ", ".join(f"{k} {ratio:g} times its time" for k, ratio in found.speed.items()),
        "compiler options": ", ".join(f"{k}={v}" for k, v in found.compiler_options.items()) or "none",
        "extras": ", ".join(f"{k}{'' if there else ' (missing)'}" for k, there in found.extras.items()),
        "fetched models": found.folders["cache"],
        "compilation cache": found.folders["compilations"] or "not set",
        "free": ", ".join(f"{k} {'?' if gb is None else f'{gb:g} GB'}" for k, gb in found.free_gb.items()),
    }
    table = Table.grid(Column(justify="right", style="bold", no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    for name, text in rows.items():
        table.add_row(name, Text(text))
    for test in found.tests:
        right = test.differing == 0
        said = Text("exact") if right else Text(f"{test.differing} codes differ: {test.first}", "bold red")
        table.add_row(f"emulator, {test.widths}", Text(f"{test.methods}: ") + said + Text(f" ({test.codes:,} codes)"))
    console.print(table)
    for text in found.advice:
        console.print(f"hint: {text}", markup=False, highlight=False)
