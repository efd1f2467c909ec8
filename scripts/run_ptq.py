"""Quantizes a model: `knerex ptq`."""

import sys

try:
    from knerex_jax.cli import main

    main(["ptq", *sys.argv[1:]])
except KeyboardInterrupt:  # while the package is being imported
    sys.exit(130)
