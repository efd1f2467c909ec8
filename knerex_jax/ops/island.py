"""A node of any operator as the primitive `island`."""

import numpy as np

from knerex_jax.errors import UnsupportedOpError
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.graph.write import to_proto
from knerex_jax.ops.bind import unbind
from knerex_jax.ops.build import Built, ProgramView
from knerex_jax.program.island import routine_digest
from knerex_jax.program.primitives import Island


def island_program(node: Node, view: ProgramView) -> Built:
    """The island of a node; also the form of plain nodes, between exact tensors.

    Raises:
      UnsupportedOpError: ONNX has no reference implementation of the operator.
    """
    types, constants = view.model.graph.types, view.model.constants
    alone = Model(
        Graph(node.name, tuple(t for t in node.inputs if t and t not in constants), node.outputs, (node,), dict(types)),
        {t: constants[t] for t in node.inputs if t in constants},
    )
    raw = unbind(alone, view.registry)
    proto = to_proto(Model(raw.graph, {}))
    opset = next(o.version for o in proto.opset_import if not o.domain)
    (call,) = proto.graph.node
    call.name = ""
    del call.metadata_props[:]
    held = {t: np.asarray(raw.constants[t]) for t in call.input if t in raw.constants}
    try:
        digest = routine_digest(node.op_type, opset) if not node.domain else ""
    except ValueError as error:
        raise UnsupportedOpError(
            f"{node.op_type} has neither an integer rule nor a reference to run on the host", where=f"node {node.name}",
            fix="cut the model before this node, or register an OpDef with a to_program rule",
        ) from error  # fmt: skip
    if not digest:
        raise UnsupportedOpError(
            f"{node.domain}::{node.op_type} has no integer rule, and only standard operators can run on the host",
            where=f"node {node.name}", fix="give its OpDef a to_program rule (see ops.table.table_op), or cut the model",
        )  # fmt: skip
    first, *more = node.outputs
    instruction = Island(
        name=node.name, inputs=tuple(dict.fromkeys(alone.graph.inputs)), output=first, nodes=(node.name,),
        bits=view.formats[first].bits if first in view.formats else 0, node=call.SerializeToString(deterministic=True),
        opset=opset, digest=digest, more=tuple(more), constant_types=tuple((t, v.dtype.name) for t, v in held.items()),
    )  # fmt: skip
    return ((instruction, held),)
