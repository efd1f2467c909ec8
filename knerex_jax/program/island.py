"""What an island computes: an operator of ONNX in float64 between two boundaries, one sample at a time, on the host.

Section 3, rule 10 of the arithmetic contract. Every executor of a program calls `run_island`; the operator itself is
onnx's reference implementation, pinned by the digest of its source that the program carries.
"""

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

from knerex_jax.program.primitives import Island

_IR_VERSION = 10


@lru_cache(maxsize=256)
def routine_digest(op_type: str, opset: int) -> str:
    """SHA-256 over what decides an operator's result: its reference implementation, or its definition by others.

    Raises:
      ValueError: there is no reference implementation.
    """
    try:
        routine = load_op("", op_type, opset)
    except Exception as error:  # onnx raises several kinds of its own
        raise ValueError(f"onnx {onnx.__version__} has no reference implementation of {op_type}") from error
    schema = onnx.defs.get_schema(op_type, opset)
    # The type stubs of onnx lack this attribute.
    defined = getattr(schema, "has_function", False)
    body = schema.function_body.SerializeToString(deterministic=True) if defined else b""
    text = f"{op_type} {schema.since_version}\n{inspect.getsource(routine)}"
    return hashlib.sha256(text.encode() + body).hexdigest()


def run_island(
    island: Island,
    operands: Mapping[str, np.ndarray],
    inverses: Mapping[str, np.ndarray],
    factors: Mapping[str, np.ndarray],
    bits: Mapping[str, int],
) -> list[np.ndarray]:
    """Runs one island on one sample.

    Args:
      island: what runs.
      operands: code and plain tensors it reads, and its constants, by name.
      inverses: code input -> float32 1 / (scale * 2**radix), broadcastable against it.
      factors: code output -> float32 scale * 2**radix, broadcastable against it.
      bits: code output -> width.

    Returns:
      For each of `island.outputs` its codes (int16), or its value where the output is plain.
    """
    feeds = {t: _real(np.asarray(v), inverses.get(t)) for t, v in operands.items()}
    made = []
    for name, value in zip(island.outputs, evaluate(island.node, island.opset, feeds), strict=True):
        made.append(_codes(value, factors[name], bits[name]) if name in factors else value)
    return made


def evaluate(node: bytes, opset: int, feeds: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    """The wanted outputs of a node by onnx's reference implementation, in the type of its operands."""
    with np.errstate(all="ignore"):
        return [np.asarray(v) for v in evaluator(node, opset).run(None, dict(feeds))]


@lru_cache(maxsize=256)
def evaluator(node: bytes, opset: int, captured: tuple[str, ...] = ()) -> ReferenceEvaluator:
    """Onnx's reference implementation of one node.

    Args:
      node: the serialised NodeProto.
      opset: version of its domain.
      captured: outer tensors that its subgraphs read.
    """
    proto = onnx.NodeProto.FromString(node)
    inputs = dict.fromkeys(t for t in (*proto.input, *captured) if t)
    return ReferenceEvaluator(single_node(proto, opset, [onnx.ValueInfoProto(name=t) for t in inputs]))


def single_node(
    node: onnx.NodeProto,
    opset: int,
    inputs: Iterable[onnx.ValueInfoProto],
    constants: Iterable[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A node as a model of its own.

    Args:
      node: as in a file.
      opset: version of its domain; a node of another domain may hold standard ones of the newest version.
      inputs: of the model, with types as far as they are known.
      constants: the other tensors it reads.
    """
    outputs = [onnx.ValueInfoProto(name=t) for t in node.output if t]
    graph = onnx.helper.make_graph([node], "single", list(inputs), outputs, list(constants))
    imports = [onnx.helper.make_opsetid(node.domain, opset)]
    if node.domain:
        imports.append(onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version()))
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)


def _real(value: np.ndarray, inverse: np.ndarray | None) -> np.ndarray:
    """Codes as float64; float constants as float64; everything else as it is."""
    if inverse is not None:
        return value.astype(np.float64) * inverse.astype(np.float64)
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _codes(value: np.ndarray, factor: np.ndarray, bits: int) -> np.ndarray:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    with np.errstate(all="ignore"):
        scaled = np.rint(value.astype(np.float64) * factor.astype(np.float64))
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=high, neginf=low), low, high).astype(np.int16)
