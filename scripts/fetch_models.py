"""Fetches the real models and their data: `python scripts/fetch_models.py [NAME ...]`."""

import sys

from knerex_jax.zoo import main

if __name__ == "__main__":
    sys.exit(main())
