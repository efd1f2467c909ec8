"""Entry of the `knerex` command; it imports nothing heavy: Ctrl-C is one line even while the rest is imported."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line; exit code 130 when interrupted."""
    # Libraries make other errors of a KeyboardInterrupt that meets them half imported; nothing is open yet.
    usual = signal.signal(signal.SIGINT, _leave)
    from knerex_jax.cli import main as run

    signal.signal(signal.SIGINT, usual)
    try:
        run(arguments)
    except KeyboardInterrupt:
        _say()
        sys.exit(130)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    _say()
    os._exit(130)


def _say() -> None:
    os.write(2, b"interrupted; nothing was left half-written\n")
