"""ONNX files that are built here from fetched weights, kept in the cache."""

import hashlib
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import onnx

from knerex_jax.files import cache_dir
from knerex_jax.zoo.fetch import Pin, scratch_folder

_SOURCES = ("pth.py", "onnxnet.py", "topologies.py")


def built_file(stem: str, weights: Pin, build: Callable[[], onnx.ModelProto], cache: Path | None = None) -> Path:
    """Returns the path of a built model, building it the first time.

    The file name carries a hash of the weights' pin and of the builders' source, so neither a new pin nor a changed
    builder meets an old file.

    Args:
      stem: readable part of the file name.
      weights: pin of the package that holds the weights.
      build: makes the model.
      cache: cache folder; `cache_dir()` if None.

    Raises:
      ArtifactError: the cache cannot be written.
    """
    cache = cache_dir() if cache is None else cache
    key = hashlib.sha256(weights.sha256.encode())
    for source in _SOURCES:
        key.update(resources.files("knerex_jax.zoo").joinpath(source).read_bytes())
    path = cache / "built" / f"{stem}-{key.hexdigest()[:8]}.onnx"
    if not path.is_file():
        model = build()
        with scratch_folder(cache) as scratch:
            onnx.save(model, scratch / path.name)
            path.parent.mkdir(exist_ok=True)
            os.replace(scratch / path.name, path)
    return path
