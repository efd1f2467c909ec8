"""The files that a model lies in: the ONNX file, and those that hold its weights if they lie apart."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from knerex_jax.graph.tensors import is_external


def model_files(path: str | Path) -> tuple[Path, ...]:
    """The file itself, and the files beside it that it names, as far as they are there; whether it is valid or not."""
    path = Path(path)
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError):
        return (path,)
    named = {
        entry.value for tensor in _tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"
    }
    return (path, *(place for name in sorted(named) if (place := path.parent / name).is_file()))


def model_sha256(path: str | Path) -> str:
    """Hash of the contents of `model_files`: of a model in one file, of that file."""
    found = hashlib.sha256()
    for place in model_files(path):
        with place.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The weights that lie in other files, those of inner graphs included."""
    yield from (tensor for tensor in graph.initializer if is_external(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if is_external(attribute.t):
                yield attribute.t
            for inner in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                yield from _tensors(inner)
