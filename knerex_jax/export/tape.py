"""An ONNX graph under construction, and the integers that its float tensors hold."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

HOLDS = {"float32": 1 << 24, "float64": 1 << 53}
"""Every integer below this magnitude is a number of the type."""


@dataclass(frozen=True)
class Value:
    """A tensor of integers in a float type, which holds them exactly.

    Attributes:
      name: in the ONNX graph.
      peak: bound of their magnitude, proven for all inputs.
      dtype: "float32" or "float64".
    """

    name: str
    peak: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        assert self.peak < HOLDS[self.dtype], f"{self.name}: {self.dtype} does not hold integers up to {self.peak}"


@dataclass
class Tape:
    """Nodes and constants in the order in which they are needed.

    Attributes:
      taken: names that new tensors must not have.
      scope: first part of the names of new nodes: the instruction in work.
    """

    taken: set[str] = field(default_factory=set)
    scope: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    _constants: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def fresh(self, hint: str) -> str:
        """A name that no tensor has yet."""
        name, k = hint, 1
        while name in self.taken:
            name, k = f"{hint}_{k}", k + 1
        self.taken.add(name)
        return name

    def emit(self, op_type: str, *inputs: str, output: str | None = None, **attrs: Any) -> str:
        """Appends a node with one output and returns its name; `output` states the name."""
        name = self.fresh(f"{self.scope}/{op_type}")
        made = output or name
        self.nodes.append(helper.make_node(op_type, list(inputs), [made], name=name, **attrs))
        return made

    def constant(self, array: Any) -> str:
        """The name of a constant; equal ones are stored once."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh(f"{self.scope}/constant")
            self._constants[key] = name
            self.tensors.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def integers(self, array: np.ndarray, dtype: str = "float32") -> str:
        """Integers that are stored as such, in the narrowest type, and read as floats."""
        return self.cast(self.constant(np.asarray(array).astype(narrowest(array))), dtype)

    def cast(self, name: str, dtype: str) -> str:
        """The tensor in another element type."""
        return self.emit("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def shape(self, sizes: Iterable[int]) -> str:
        """A shape, axes or indices as a constant."""
        return self.constant(np.asarray(list(sizes), np.int64))


def narrowest(array: np.ndarray) -> np.dtype:
    """The smallest of int8, int16, int32 and int64 that holds all elements."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kinds = [np.dtype(f"int{8 * size}") for size in (1, 2, 4, 8)]
    return next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
