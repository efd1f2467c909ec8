"""Quantizes a model: `knerex ptq`."""

import sys

from knerex_jax.command import main

main(["ptq", *sys.argv[1:]])
