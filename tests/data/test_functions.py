"""Functions named as "module:function"."""

import sys

import pytest

import knerex_jax as kx
from knerex_jax.data.functions import is_function_name, load_function
from knerex_jax.data.sources import open_source
from knerex_jax.graph.ir import TensorType

MODULE = """
import numpy as np

def good():
    return np.ones((3, 1, 2, 2), np.float32)

def bad():
    raise ValueError("no camera")

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the current folder, under a name of its own."""
    name = f"camera_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_what_reads_as_a_function():
    assert is_function_name("camera:good") and is_function_name("my.camera:Source.read")
    assert not any(map(is_function_name, ("images/", "C:\\data", "a.npz", "x:1,3", 3)))


def test_a_module_of_the_current_folder_gives_data(module):
    source = open_source(f"{module}:good", {"x": TensorType("float32", (1, 1, 2, 2))})
    assert source.count == 3
    assert next(source.batches(3, 1))["x"].sum() == 12


def test_the_current_folder_does_not_stay_on_the_path(module, tmp_path):
    before = list(sys.path)
    load_function(f"{module}:good", "here")
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("godo", kx.ConfigError, "did you mean 'good'"),
        ("number", kx.ConfigError, "is no function"),
    ],
)
def test_what_cannot_be_called(module, name, error, words):
    with pytest.raises(error, match=words):
        load_function(f"{module}:{name}", "np_txt")


def test_a_function_that_fails_is_shown_with_its_line(module):
    with pytest.raises(kx.HookError) as caught:
        open_source(f"{module}:bad", {"x": TensorType("float32", (1, 1, 2, 2))})
    text = str(caught.value)
    assert "no camera" in text and f"{module}.py:8 in bad" in text and f"np_txt={module}:bad" in text
