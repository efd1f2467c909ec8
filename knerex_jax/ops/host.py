"""Standard operators without a rule of their own: run on the host by the reference evaluator of ONNX."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.core import Tracer
from onnx import helper, numpy_helper, shape_inference

from knerex_jax.errors import ModelError, UnsupportedOpError
from knerex_jax.graph.ir import Graph, Model, Node, TensorType
from knerex_jax.graph.read import attributes_of
from knerex_jax.graph.write import to_proto
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.island import evaluator, single_node

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators without a result of their own: no two runs agree."""

_DECIDING = 4096  # elements; larger constants never decide about a shape


@dataclass(frozen=True)
class HostAttrs:
    """What the evaluator has to know of a node.

    Attributes:
      proto: the serialised NodeProto; its inputs and outputs are named by position.
      opset: version of its domain that the node follows.
      captured: outer tensors that its subgraphs read, by the names they have there; they follow its inputs.
      takes: element types of the inputs, None for an absent one; empty while they are not known.
      makes: types of the outputs, None for one that is not wanted; empty while they are not known.
    """

    proto: bytes
    opset: int
    captured: tuple[str, ...] = ()
    takes: tuple[str | None, ...] = ()
    makes: tuple[TensorType | None, ...] = ()

    @property
    def node(self) -> onnx.NodeProto:
        return onnx.NodeProto.FromString(self.proto)


def is_standard(node: Node) -> bool:
    """Whether ONNX defines the operator."""
    return onnx.defs.has(node.op_type, node.domain)


def is_host(op: OpDef) -> bool:
    """Whether nodes of this record run on the host."""
    return op is HOST


def host_node(node: Node, opset: int) -> Node:
    """The node as a host node of unknown types, which can only run on known values.

    Args:
      node: with a dict of raw attributes.
      opset: version of the standard operators.
    """
    (proto,) = to_proto(Model(Graph("host", (), (), (node,), {}), {})).graph.node
    captured = tuple(dict.fromkeys(_captured(proto)))
    for i, name in enumerate(proto.input):
        proto.input[i] = name and f"host.in{i}"
    for i, name in enumerate(proto.output):
        proto.output[i] = name and f"host.out{i}"
    version = onnx.defs.get_schema(node.op_type, domain=node.domain).since_version if node.domain else opset
    attrs = HostAttrs(proto.SerializeToString(deterministic=True), version, captured)
    return replace(node, attrs=attrs, inputs=(*node.inputs, *captured))


def typed_host_node(
    node: Node, opset: int, types: Mapping[str, TensorType], constants: Mapping[str, np.ndarray]
) -> Node:
    """The node as a host node with known types.

    Args:
      node: with a dict of raw attributes.
      opset: version of the standard operators.
      types: of all its inputs.
      constants: values of those inputs that have one.

    Raises:
      UnsupportedOpError: the shape of an output depends on the data.
    """
    hosted = host_node(node, opset)
    takes = tuple(types[t].dtype if t else None for t in hosted.inputs)
    makes = _inferred(hosted, types, constants)
    return replace(hosted, attrs=replace(hosted.attrs, takes=takes, makes=makes))


def raw_host_node(node: Node, written_opset: int) -> Node:
    """A host node with the attributes and inputs of ONNX, ready for writing.

    Raises:
      UnsupportedOpError: the written version of the operators does not know this form.
    """
    attrs: HostAttrs = node.attrs
    proto = attrs.node
    raw = attributes_of(proto)
    if not node.domain and onnx.defs.has(node.op_type, written_opset, ""):
        schema = onnx.defs.get_schema(node.op_type, written_opset)
        if schema.deprecated or not set(raw) <= set(schema.attributes) or len(proto.input) > schema.max_input:
            what = f"{node.op_type} of opset {attrs.opset} has no equal in opset {written_opset}, which is written"
            fix = f"convert the model to opset {written_opset} (onnx.version_converter), or replace the operator"
            raise UnsupportedOpError(what, where=f"node {node.name}", fix=fix)
    return replace(node, attrs=raw, inputs=node.inputs[: len(proto.input)])


def evaluate(attrs: HostAttrs, *inputs: Any) -> tuple[Any, ...]:
    """Runs the node on known values: arrays, or what ONNX's evaluator takes for sequences, optionals and strings.

    Returns:
      One value per output, None for one that is not wanted.
    """
    node = attrs.node
    feeds = {
        name: np.asarray(x) if isinstance(x, jax.Array) else x
        for name, x in zip((*node.input, *attrs.captured), inputs, strict=False)
        if name
    }
    with np.errstate(all="ignore"):
        results = iter(evaluator(attrs.proto, attrs.opset, attrs.captured).run(None, feeds))
    return tuple(next(results) if name else None for name in node.output)


def _info(name: str, held: TensorType) -> onnx.ValueInfoProto:
    code = onnx.TensorProto.STRING if held.dtype == "object" else helper.np_dtype_to_tensor_dtype(np.dtype(held.dtype))
    return helper.make_tensor_value_info(name, code, held.shape)


def _inferred(
    hosted: Node, types: Mapping[str, TensorType], constants: Mapping[str, np.ndarray]
) -> tuple[TensorType | None, ...]:
    """Types of the outputs, by the shape inference of ONNX."""
    node = hosted.attrs.node
    outer = dict(zip((*node.input, *hosted.attrs.captured), hosted.inputs, strict=True))
    inner = {name: types[t] for name, t in outer.items() if t}
    known = {name: constants[t] for name, t in outer.items() if t and t in constants and constants[t].size <= _DECIDING}
    inputs = [_info(name, held) for name, held in inner.items() if name not in known]
    tensors = [numpy_helper.from_array(array, name) for name, array in known.items()]
    model = single_node(node, hosted.attrs.opset, inputs, tensors)
    where = f"node {hosted.name}"
    try:
        graph = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        said = " ".join(str(error).split())[:300]
        what = f"{node.op_type} does not accept its inputs: {said}"
        raise ModelError(what, where=where, fix="check the input shapes given; export the model again") from error
    made = {v.name: v.type.tensor_type for v in graph.output}
    for name in node.output:
        if name and not (made[name].HasField("shape") and all(d.HasField("dim_value") for d in made[name].shape.dim)):
            what = f"the shape of an output of {node.op_type} depends on the data, so it cannot be compiled"
            fix = "cut the model before this node; such steps (selection, decoding) belong after the network"
            raise UnsupportedOpError(what, where=where, fix=fix)
    return tuple(_type(made[name]) if name else None for name in node.output)


def _type(held: onnx.TypeProto.Tensor) -> TensorType:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(held.elem_type)).name
    return TensorType(dtype, tuple(d.dim_value for d in held.shape.dim))


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node read from outside."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {v.name for v in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                yield from (name for name in (*inner.input, *_captured(inner)) if name and name not in own)
                own.update(inner.output)
            yield from (v.name for v in graph.output if v.name not in own)


def _to_float(attrs: HostAttrs, *inputs: Any) -> tuple[Any, ...]:
    if not any(isinstance(x, Tracer) for x in inputs):
        return tuple(jnp.asarray(y) if _is_numeric(y) else y for y in evaluate(attrs, *inputs))
    assert attrs.makes, "a host node that was not bound meets unknown values"
    structs = [jax.ShapeDtypeStruct(m.shape, jax.dtypes.canonicalize_dtype(m.dtype)) for m in attrs.makes if m]
    present = [i for i, x in enumerate(inputs) if x is not None]

    def call(*arrays: Any) -> list[np.ndarray]:
        full: list[Any] = [None] * len(inputs)
        for i, x in zip(present, arrays, strict=True):
            full[i] = np.asarray(x).astype(attrs.takes[i])
        made = (y for y, wanted in zip(evaluate(attrs, *full), attrs.makes, strict=True) if wanted)
        return [np.asarray(y).astype(s.dtype) for y, s in zip(made, structs, strict=True)]

    made = iter(jax.pure_callback(call, structs, *(inputs[i] for i in present), vmap_method="sequential"))
    return tuple(next(made) if m else None for m in attrs.makes)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "OUS"


HOST = OpDef(op_type="Host", attrs=HostAttrs, to_float=_to_float)
"""The record of every node that runs on the host, whatever its operator; it is in no registry."""
