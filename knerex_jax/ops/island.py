"""A node of any operator as the primitive `island`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Graph, Model, Node, TensorType
from knerex_jax.graph.write import to_proto
from knerex_jax.ops.bind import unbind
from knerex_jax.ops.build import Built, ProgramView
from knerex_jax.ops.host import RANDOM
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.island import evaluate, routine_digest
from knerex_jax.program.primitives import Island

_CUT = "cut the model before this node, or register an OpDef with a to_program rule"


def island_program(node: Node, view: ProgramView) -> Built:
    """The island of a node; also the form of plain nodes, between exact tensors.

    Raises:
      UnsupportedOpError: as `host_call`.
    """
    call = host_call(node, view.model, view.registry)
    first, *more = node.outputs
    instruction = Island(
        name=node.name, inputs=tuple(dict.fromkeys(t for t in node.inputs if t and t not in view.model.constants)),
        output=first, nodes=(node.name,), bits=view.formats[first].bits if first in view.formats else 0, node=call.node,
        opset=call.opset, digest=call.digest, more=tuple(more),
        constant_types=tuple((t, v.dtype.name) for t, v in call.constants.items()),
    )  # fmt: skip
    return ((instruction, call.constants),)


@dataclass(frozen=True)
class HostCall:
    """What runs on the host for a node.

    Attributes:
      node: the serialised ONNX node.
      opset: version of the standard operators that it follows.
      digest: of the routine.
      constants: those of its inputs that are constants, static inputs included.
    """

    node: bytes
    opset: int
    digest: str
    constants: Mapping[str, np.ndarray]


def host_call(node: Node, model: Model, registry: Mapping[str, OpDef]) -> HostCall:
    """The call of a node, tried out once.

    Raises:
      UnsupportedOpError: ONNX has no reference implementation of the operator, it does not run on these operands, or it
        draws numbers.
    """
    if node.op_type in RANDOM and not node.domain:
        fix = "replace it by a constant, or by an input of the model"
        raise UnsupportedOpError(f"{node.op_type} gives other numbers every time", where=f"node {node.name}", fix=fix)
    types, constants = model.graph.types, model.constants
    alone = Model(
        Graph(node.name, tuple(t for t in node.inputs if t and t not in constants), node.outputs, (node,), dict(types)),
        {t: constants[t] for t in node.inputs if t in constants},
    )
    raw = unbind(alone, registry)
    proto = to_proto(Model(raw.graph, {}))
    opset = next(o.version for o in proto.opset_import if not o.domain)
    if len(proto.graph.node) != 1:
        what = f"this form of {node.op_type} has no integer rule, and only {len(proto.graph.node)} operators express it"
        raise UnsupportedOpError(what, where=f"node {node.name}", fix=_CUT)
    (call,) = proto.graph.node
    call.name = ""
    del call.metadata_props[:]
    held = {t: np.asarray(raw.constants[t]) for t in call.input if t in raw.constants}
    made = HostCall(call.SerializeToString(deterministic=True), opset, _digest(node, opset), held)
    _try_on_zeros(node, made, types)
    return made


def _digest(node: Node, opset: int) -> str:
    """The digest of the routine of a standard operator."""
    if node.domain:
        raise UnsupportedOpError(
            f"{node.domain}::{node.op_type} has no integer rule, and only standard operators can run on the host",
            where=f"node {node.name}",
            fix="give its OpDef a to_program rule (see ops.table.table_op), or cut the model",
        )
    try:
        return routine_digest(node.op_type, opset)
    except ValueError as error:
        what = f"{node.op_type} has neither an integer rule nor a reference to run on the host"
        raise UnsupportedOpError(what, where=f"node {node.name}", fix=_CUT) from error


def _try_on_zeros(node: Node, call: HostCall, types: Mapping[str, TensorType]) -> None:
    """Runs the routine once, because the reference of ONNX does not cover every form of every operator.

    Raises:
      UnsupportedOpError: it fails, or its results do not have the shapes that the model states.
    """
    feeds = {t: np.zeros(types[t].shape, "float64" if types[t].real else types[t].dtype) for t in node.inputs if t}
    feeds |= {t: v.astype(np.float64) if v.dtype.kind == "f" else v for t, v in call.constants.items()}
    where = f"node {node.name}"
    try:
        made = [value.shape for value in evaluate(call.node, call.opset, feeds)]
    except Exception as error:  # whatever a routine raises
        said = " ".join(str(error).split())[:300]
        what = f"the reference of {node.op_type} in onnx {onnx.__version__} does not run on these operands: {said}"
        raise UnsupportedOpError(what, where=where, fix=_CUT) from error
    stated = [types[t].shape for t in node.outputs if t]
    if made != stated:
        what = f"the reference of {node.op_type} in onnx {onnx.__version__} gives shapes {made} instead of {stated}"
        raise UnsupportedOpError(what, where=where, fix=_CUT)
