"""An ONNX file as a bound model."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from knerex_jax.graph.ir import Model
from knerex_jax.graph.read import read_onnx
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind
from knerex_jax.ops.opdef import OpDef


def load_onnx(
    source: str | Path | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Mapping[str, OpDef] = REGISTRY,
) -> Model:
    """Reads and simplifies an ONNX file to a bound model with static shapes and batch 1.

    Args:
      source: path of the .onnx file, or the model it holds (not changed).
      input_shapes: full shapes by input name, for dimensions the model leaves open.
      ops: operator records; {**REGISTRY, "domain::MyOp": MY_OP} adds one of your own.

    Raises:
      ModelError: not readable, or a dimension stays unknown (the message names it).
      UnsupportedOpError: an operator has no rule.
    """
    file = read_onnx(source, input_shapes)
    return bind(file.model, ops, file.opset)
