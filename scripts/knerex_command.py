"""Entry of the `knerex` command: outside of the package, so that Ctrl-C is one line even while that is imported."""

import sys
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line; exit code 130 when interrupted."""
    try:
        from knerex_jax.cli import main as run

        run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was left half-written\n")
        sys.exit(130)
