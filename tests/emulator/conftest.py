"""Makes the helper modules of this folder importable."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True)
def convolutions_on_few_pixels(monkeypatch):
    """The library's convolution is tested too, although on small maps a dot would be chosen ("gpu" still gives it)."""
    monkeypatch.setattr("knerex_jax.emulator.methods._FEW_PIXELS", 0)
