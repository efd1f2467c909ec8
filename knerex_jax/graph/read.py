"""The only reader of ONNX protobuf: file -> `Model` with raw attributes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from knerex_jax.errors import ModelError
from knerex_jax.graph.ir import Graph, Model, Node, TensorType
from knerex_jax.graph.simplify import load_proto, opset_of, simplify
from knerex_jax.graph.tensors import array_of, element_type, is_external, static_shape

ORIGIN_KEY = "knerex_jax.origin"
"""Node metadata: JSON list of the user's node names that the node stands for."""

WIDE_KEY = "knerex_jax.wide"
"""Node metadata: "true" where the node's output lies inside a decomposed operator."""


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file holds.

    Attributes:
      model: the graph, with attributes as the file spells them, and its constants.
      opset: version of the standard operators.
      metadata: the model's own key-value pairs.
      producer: name of the program that wrote it.
      doc: the model's documentation string.
    """

    model: Model
    opset: int
    metadata: Mapping[str, str]
    producer: str
    doc: str


def read_onnx(
    source: str | Path | onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> OnnxFile:
    """Reads a model of any supported opset, simplified to static shapes.

    Args:
      source: path of the .onnx file, or the model it holds (not changed; with its weights, none in other files).
      input_shapes: full shapes by input name, for dimensions the model leaves open.

    Raises:
      ModelError: the file, its graph or its shapes are not usable.
    """
    held = isinstance(source, onnx.ModelProto)
    name, folder = ("the loaded model", Path()) if held else (str(source), Path(source).resolve().parent)
    try:
        return read_proto(simplify(source if held else load_proto(source), input_shapes, folder), folder)
    except ModelError as error:
        if name in error.where:
            raise
        raise ModelError(error.what, where=f"{name}, {error.where}", fix=error.fix) from error
    except (ValueError, TypeError, LookupError, RuntimeError) as error:  # what onnx makes of damaged fields
        said = " ".join(str(error).split())[:300]
        fix = "export or download the model again: parts of it are damaged"
        raise ModelError(f"the model cannot be read: {said}", where=name, fix=fix) from error


def declared_shapes(source: str | Path | onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs as the model states them, 0 for open dimensions; inputs without a shape are left out.

    Raises:
      ModelError: the file is not usable.
    """
    graph = (source if isinstance(source, onnx.ModelProto) else load_proto(source)).graph
    weights = {t.name for t in graph.initializer}
    return {
        v.name: tuple(max(d.dim_value, 0) for d in v.type.tensor_type.shape.dim)
        for v in graph.input
        if v.name not in weights and v.type.tensor_type.HasField("shape")
    }


def read_proto(proto: onnx.ModelProto, folder: str | Path = "") -> OnnxFile:
    """Reads a model whose shapes are static where they are known; `simplify` makes it so.

    Args:
      proto: not changed.
      folder: where external weights lie.
    """
    return OnnxFile(
        model=read_graph(proto.graph, folder),
        opset=opset_of(proto),
        metadata={p.key: p.value for p in proto.metadata_props},
        producer=proto.producer_name,
        doc=proto.doc_string,
    )


def read_graph(source: onnx.GraphProto, folder: str | Path = "", *, widen: bool = True) -> Model:
    """Reads a graph with raw attributes; tensors whose shape is not static have no type.

    Args:
      source: not changed.
      folder: where external weights lie.
      widen: whether constants of half precision become float32.
    """
    folder = Path(folder)
    constants = {t.name: _array(t, folder, widen) for t in source.initializer}
    types: dict[str, TensorType] = {}
    for value in (*source.input, *source.output, *source.value_info):
        shape = static_shape(value)
        if shape is not None:
            types[value.name] = TensorType(element_type(value), shape)
    nodes: list[Node] = []
    names = _unique_names(source.node)
    for proto, name in zip(source.node, names, strict=True):
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attrs = attributes_of(proto, widen=widen)
        if proto.op_type == "Constant" and not domain:
            constants[proto.output[0]] = _constant(attrs)
            continue
        notes = {p.key: p.value for p in proto.metadata_props}
        origin = tuple(json.loads(notes[ORIGIN_KEY])) if ORIGIN_KEY in notes else (name,)
        inputs, outputs = tuple(proto.input), tuple(proto.output)
        nodes.append(Node(name, proto.op_type, inputs, outputs, attrs, domain, origin, notes.get(WIDE_KEY) == "true"))
    for name, array in constants.items():
        types[name] = TensorType(array.dtype.name, array.shape)
    inputs = tuple(v.name for v in source.input if v.name not in constants)
    graph = Graph(source.name, inputs, tuple(v.name for v in source.output), tuple(nodes), types)
    return Model(graph, constants)


def _unique_names(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Names of the nodes: their own where that is unique, else made up."""
    taken: set[str] = set()
    names = []
    for index, node in enumerate(nodes):
        stem = name = node.name or f"{node.op_type}_{index}"
        count = 1
        while name in taken:
            name, count = f"{stem}_{count}", count + 1
        taken.add(name)
        names.append(name)
    return names


def attributes_of(node: onnx.NodeProto, *, widen: bool = False) -> dict[str, Any]:
    """The attributes of a node as Python data; subgraphs, types and sparse tensors stay protobuf."""
    return {a.name: _value(a, widen) for a in node.attribute}


def _array(tensor: onnx.TensorProto, folder: Path, widen: bool) -> np.ndarray:
    return array_of(tensor, folder) if widen or is_external(tensor) else onnx.numpy_helper.to_array(tensor)


def _value(attribute: onnx.AttributeProto, widen: bool) -> Any:
    kind, held = attribute.type, onnx.AttributeProto
    if kind == held.INT:
        return int(attribute.i)
    if kind == held.FLOAT:
        return float(attribute.f)
    if kind == held.STRING:
        return attribute.s.decode(errors="replace")
    if kind == held.INTS:
        return tuple(int(i) for i in attribute.ints)
    if kind == held.FLOATS:
        return tuple(float(f) for f in attribute.floats)
    if kind == held.STRINGS:
        return tuple(s.decode(errors="replace") for s in attribute.strings)
    if kind == held.TENSOR:
        return _array(attribute.t, Path(), widen)
    return onnx.helper.get_attribute_value(attribute)


def _constant(attrs: Mapping[str, Any]) -> np.ndarray:
    """Value of a Constant node in any of its forms."""
    (kind, value), *_ = attrs.items()
    if kind == "value":
        return value
    if kind.startswith("value_float"):
        return np.array(value, np.float32)
    if kind.startswith("value_int"):
        return np.array(value, np.int64)
    if kind.startswith("value_string"):
        return np.array(value, object)
    raise ModelError(
        f"a Constant given as '{kind}' cannot be read", where="a Constant node", fix="store it as a dense tensor"
    )
