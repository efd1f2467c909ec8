"""`Model` with raw attributes -> valid ONNX, written whole or not at all."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import helper, numpy_helper

from knerex_jax.files import replacing, write_atomic
from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.graph.read import ORIGIN_KEY, WIDE_KEY

WRITTEN_OPSET = 21
"""Version of the standard operators that is written, unless an operator is newer than that."""

EXTERNAL_ABOVE_BYTES = 3 << 29
"""Constants above 1.5 GiB go into a file of their own: protobuf ends at 2 GiB."""

_ALIGNMENT_BYTES = 4096  # lets a reader map the tensor into memory
_INLINE_BYTES = 1024  # smaller tensors stay in the model, where checkers and shape inference can see them

MakeTensor = Callable[[str, np.ndarray], onnx.TensorProto]


def to_proto(
    model: Model,
    metadata: Mapping[str, str] | None = None,
    doc: str = "",
    make_tensor: MakeTensor = lambda name, array: numpy_helper.from_array(array, name),
) -> onnx.ModelProto:
    """Returns the model as ONNX.

    Args:
      model: with raw attributes (dicts) in the forms of `WRITTEN_OPSET`, as `unbind` gives them.
      metadata: key-value pairs of the model.
      doc: documentation string of the model.
      make_tensor: turns a named constant into a tensor; the default stores its bytes.
    """
    graph = model.graph
    opset = _opset(model)
    computed = {t for n in graph.nodes for t in n.outputs if t} - set(graph.outputs)
    proto = helper.make_graph(
        [_node(n, opset) for n in graph.nodes],
        graph.name or "graph",
        [_value_info(t, graph.types[t]) for t in graph.inputs],
        [_value_info(t, graph.types[t]) for t in graph.outputs],
        [make_tensor(name, np.asarray(array, order="C")) for name, array in model.constants.items()],
        value_info=[_value_info(t, ty) for t, ty in graph.types.items() if t in computed],
    )
    domains = dict.fromkeys(n.domain for n in graph.nodes if n.domain)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, _domain_version(d)) for d in domains)]
    made = helper.make_model(
        proto,
        opset_imports=imports,
        ir_version=helper.find_min_ir_version_for([imports[0]]),
        producer_name="knerex_jax",
        doc_string=doc,
    )
    helper.set_model_props(made, dict(metadata or {}))
    return made


def write_onnx(
    model: Model,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    doc: str = "",
    external_above_bytes: int = EXTERNAL_ABOVE_BYTES,
) -> Path:
    """Writes the model; above a size its constants go to `<path>.data`, straight from their arrays.

    Both files are written beside their place and then renamed, so that an interrupted run leaves nothing half-written.

    Args:
      model: with raw attributes, as `unbind` gives them.
      path: of the .onnx file; its folder is made if missing.
      metadata: key-value pairs of the model.
      doc: documentation string of the model.
      external_above_bytes: total size of the constants from which they are stored in a file of their own.

    Returns:
      The path.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    path = Path(path)
    data_path = path.with_name(path.name + ".data")
    if sum(a.nbytes for a in model.constants.values()) > external_above_bytes:
        with replacing(data_path, path) as (data, file):
            proto = to_proto(model, metadata, doc, lambda n, a: _external_tensor(n, a, data, data_path.name))
            file.write(proto.SerializeToString())
    else:
        write_atomic(path, to_proto(model, metadata, doc).SerializeToString())
    return path


def _external_tensor(name: str, array: np.ndarray, file: BinaryIO, location: str) -> onnx.TensorProto:
    """Appends an array to the data file and returns the tensor that points to it."""
    if array.nbytes < _INLINE_BYTES or array.dtype.kind not in "fiub":  # others may be stored packed
        return numpy_helper.from_array(array, name)
    file.write(b"\0" * (-file.tell() % _ALIGNMENT_BYTES))
    offset = file.tell()
    array.tofile(file)
    tensor = onnx.TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _value_info(name: str, held: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _element_code(held.dtype), held.shape)


def _element_code(dtype: str) -> int:
    return onnx.TensorProto.STRING if dtype == "object" else helper.np_dtype_to_tensor_dtype(_numpy_dtype(dtype))


def _numpy_dtype(name: str) -> np.dtype:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # noqa: F401  # registers bfloat16, float8 and sub-byte types with numpy

        return np.dtype(getattr(ml_dtypes, name))


def _node(node: Node, opset: int) -> onnx.NodeProto:
    assert isinstance(node.attrs, Mapping), f"{node.name}: unbind the model before writing it"
    proto = helper.make_node(node.op_type, list(node.inputs), list(node.outputs), name=node.name, domain=node.domain)
    kinds = _attribute_kinds(node.op_type, opset, node.domain)
    proto.attribute.extend(_attribute(key, value, kinds.get(key)) for key, value in sorted(node.attrs.items()))
    if node.origin != (node.name,):
        proto.metadata_props.add(key=ORIGIN_KEY, value=json.dumps(node.origin))
    if node.wide:
        proto.metadata_props.add(key=WIDE_KEY, value="true")
    return proto


def _attribute(key: str, value: Any, kind: int | None) -> onnx.AttributeProto:
    """An attribute of the kind its operator declares, else of the kind its Python type suggests."""
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(value))
    if kind == onnx.AttributeProto.FLOAT:
        value = float(value)
    elif kind == onnx.AttributeProto.FLOATS:
        value = [float(v) for v in value]
    elif isinstance(value, bool | np.bool_):
        value = int(value)
    elif isinstance(value, tuple) and not value:
        kind = kind or onnx.AttributeProto.INTS
    return helper.make_attribute(key, value, attr_type=kind)


def _attribute_kinds(op_type: str, opset: int, domain: str) -> dict[str, int]:
    """Attribute name -> ONNX kind, as far as the operator has a schema."""
    if not onnx.defs.has(op_type, domain):
        return {}
    version = opset if not domain else _domain_version(domain)
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: int(getattr(a.type, "value", a.type)) for name, a in schema.attributes.items()}


def _opset(model: Model) -> int:
    """The written version: the usual one, or the first that knows every operator."""
    needed = [WRITTEN_OPSET]
    for op_type in {n.op_type for n in model.graph.nodes if not n.domain and onnx.defs.has(n.op_type)}:
        if not onnx.defs.has(op_type, WRITTEN_OPSET, ""):
            needed.append(min(s.since_version for s in _history(op_type, "")))
    return max(needed)


@cache
def _domain_version(domain: str) -> int:
    return max((s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.domain == domain), default=1)


@cache
def _history(op_type: str, domain: str) -> list[Any]:
    return [s for s in onnx.defs.get_all_schemas_with_history() if s.name == op_type and s.domain == domain]
