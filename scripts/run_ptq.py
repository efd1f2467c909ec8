"""Quantizes a model: `knerex ptq`."""

import sys

from knerex_jax.cli import main

main(["ptq", *sys.argv[1:]])
