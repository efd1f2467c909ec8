"""`knerex doctor`."""

from typing import TYPE_CHECKING

import click
from rich.console import Console

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
    for name, text in rows.items():
        console.print(f"[bold]{name:>20}[/]  ", end="")
        console.print(text, markup=False, highlight=False)
    for test in found.tests:
        said = "exact" if test.differing == 0 else f"[bold red]{test.differing} codes differ[/]: {test.first}"
        console.print(f"[bold]{'emulator, ' + test.widths:>20}[/]  {test.methods}: {said} ({test.codes:,} codes)")
    for text in found.advice:
        console.print(f"hint: {text}", markup=False, highlight=False)
