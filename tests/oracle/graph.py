"""What the steps need to know of the model and the plan, and what a step is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .errors import OracleError
from .formats import Format, read_format

FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Step:
    """One node, prepared: `run` maps the values of `inputs` to the values of `outputs`, for one sample.

    The value of a quantized tensor is its codes, that of a plain tensor its elements.
    """

    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[..., np.ndarray | tuple[np.ndarray, ...]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)


class Graph:
    """The planned model: constants, static shapes, formats, settings."""

    def __init__(self, model: onnx.ModelProto, plan: dict[str, Any]) -> None:
        if plan["arith_version"] != 1:
            raise OracleError(f"arith_version {plan['arith_version']} is not 1")
        self.nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        self.constants = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _constant(node)
        self.inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        self.shapes = {name: value.shape for name, value in self.constants.items()}
        self._integers = {name for name, value in self.constants.items() if value.dtype.kind in "biuSUO"}
        for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
            self.shapes[value.name] = _static_shape(value)
            if value.type.tensor_type.elem_type not in FLOAT_TYPES:
                self._integers.add(value.name)
        self.opsets = list(model.opset_import)
        self.platform = str(plan["platform"])
        self.post_multiplier = bool(plan["post_multiplier"])
        self.weight_bits = plan["weight_bits"]
        self.fused = plan["fused"]
        self.islands = frozenset(plan.get("islands", ()))
        self._entries = plan["tensors"]
        self._by_label = {label_of(node): node for node in self.nodes}
        if len(self._by_label) != len(self.nodes):
            raise OracleError("two nodes have the same name")
        fused = {name for node in self.nodes if label_of(node) in self.fused for name in node.output}
        made = {name for node in self.nodes for name in node.output}
        self._derived = made - fused - set(self._entries)

    def node(self, label: str) -> onnx.NodeProto:
        if label not in self._by_label:
            raise OracleError(f"the plan names a node {label!r} that the model does not have")
        return self._by_label[label]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.shapes:
            raise OracleError(f"{name}: the model states no shape for this tensor")
        return self.shapes[name]

    def format(self, name: str) -> Format:
        if name not in self._entries:
            raise OracleError(f"{name}: the plan has no format for this tensor")
        return read_format(name, self._entries[name], self.shape(name))

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def is_plain(self, name: str) -> bool:
        """Whether a tensor is never quantized: integers, booleans, and floats that follow from these alone.

        Computed floats without a format are taken for such; `prepare_plain` checks where they come from.
        """
        return name in self._integers or name in self._derived

    def constant(self, node: onnx.NodeProto, position: int) -> np.ndarray | None:
        """The constant at that input of a node, or None where the input is absent."""
        if position >= len(node.input) or node.input[position] == "":
            return None
        name = node.input[position]
        if name not in self.constants:
            raise OracleError(f"{label_of(node)} ({node.op_type}): input {position} ({name}) must be a constant")
        return self.constants[name]

    def required_constant(self, node: onnx.NodeProto, position: int) -> np.ndarray:
        value = self.constant(node, position)
        if value is None:
            raise OracleError(f"{label_of(node)} ({node.op_type}): constant input {position} is missing")
        return value


def label_of(node: onnx.NodeProto) -> str:
    """The node's name, or its first output where it has none."""
    return node.name or node.output[0]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as Python values; strings decoded, floats are the float32 values of the file."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def float_attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """A float attribute; the default too is rounded to float32, the type that ONNX gives it."""
    return float(np.float32(attributes(node).get(name, default)))


def expect(condition: bool, node: onnx.NodeProto, message: str) -> None:
    if not condition:
        raise OracleError(f"{label_of(node)} ({node.op_type}): {message}")


def _constant(node: onnx.NodeProto) -> np.ndarray:
    values = attributes(node)
    if "value" not in values:
        raise OracleError(f"{label_of(node)}: only Constant with attribute `value` is known")
    return numpy_helper.to_array(values["value"])


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        raise OracleError(f"{value.name}: the shape is not static")
    return tuple(dim.dim_value for dim in dims)
