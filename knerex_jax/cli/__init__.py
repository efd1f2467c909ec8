"""The command line."""

from knerex_jax.cli.main import knerex as knerex
from knerex_jax.cli.main import main as main
