"""The graph every other module works on: frozen, free of jax and onnx, with constants kept beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorType:
    """Element type (numpy name) and static shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def real(self) -> bool:
        """Whether it holds real numbers, which are quantized; integers and booleans are exact."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class Node:
    """One operator call.

    Attributes:
      name: unique in the graph.
      op_type: ONNX operator name.
      inputs: tensor names; "" is an optional input that is absent.
      outputs: tensor names; "" is an optional output that is not wanted.
      attrs: the operator's frozen attribute dataclass (`OpDef.attrs`); before binding a plain dict.
      domain: ONNX domain, "" for the standard operators.
      origin: names of the nodes of the user's model that this one stands for.
      wide: its outputs lie inside a decomposed operator and take 15 bits where the platform has them.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Any = None
    domain: str = ""
    origin: tuple[str, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order and the type of every tensor, constants included."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    types: Mapping[str, TensorType] = field(hash=False)

    @cached_property
    def producer(self) -> dict[str, Node]:
        """Tensor name -> the node that makes it."""
        return {t: n for n in self.nodes for t in n.outputs if t}

    @cached_property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """Tensor name -> the nodes that read it, in order (a node once, however often it reads the tensor)."""
        found: dict[str, dict[str, Node]] = {}
        for n in self.nodes:
            for t in n.inputs:
                if t:
                    found.setdefault(t, {})[n.name] = n
        return {t: tuple(ns.values()) for t, ns in found.items()}

    @cached_property
    def node(self) -> dict[str, Node]:
        """Node name -> node."""
        return {n.name: n for n in self.nodes}

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.types[tensor].shape


@dataclass(frozen=True)
class Model:
    """A graph and its constants (name -> array); the pair every pass maps to another pair."""

    graph: Graph
    constants: Mapping[str, np.ndarray] = field(hash=False)

    def constant(self, name: str) -> np.ndarray | None:
        """The constant of that name, None for an absent input or a computed tensor."""
        return self.constants.get(name) if name else None

    @cached_property
    def exact(self) -> frozenset[str]:
        """Inputs and computed tensors that are plumbing, never quantized.

        These are integers and booleans, and real numbers that follow from integer inputs and constants alone (masks).
        Where the latter meet quantized numbers, an Identity quantizes them; so does an Identity of a constant.
        """
        types = self.graph.types
        pure = {t for t in self.graph.inputs if not types[t].real}
        exact = set(pure)
        for node in self.graph.nodes:
            computed = [t for t in node.inputs if t and t not in self.constants]
            if computed and pure.issuperset(computed) and not self._makes_codes(node):
                pure.update(t for t in node.outputs if t)
            exact.update(t for t in node.outputs if t and (t in pure or not types[t].real))
        return frozenset(exact)

    def _makes_codes(self, node: Node) -> bool:
        """Whether exact operands give codes: an Identity quantizes, a Gather looks rows of a quantized table up."""
        lookup = node.op_type == "Gather" and node.inputs[0] in self.constants
        return not node.domain and (node.op_type == "Identity" or lookup)


def sort_nodes(nodes: Iterable[Node], known: Iterable[str]) -> tuple[Node, ...]:
    """Topological order, stable: among ready nodes the given order is kept."""
    pending, have, done = list(nodes), set(known) | {""}, []
    while pending:
        ready = [n for n in pending if have.issuperset(n.inputs)]
        assert ready, f"cycle or missing tensor before {pending[0].name}: {set(pending[0].inputs) - have}"
        # Take the longest runnable prefix first, so that an already sorted list costs one sweep.
        rest = []
        for n in pending:
            if have.issuperset(n.inputs):
                done.append(n)
                have.update(n.outputs)
            else:
                rest.append(n)
        pending = rest
    return tuple(done)


def prune(model: Model) -> Model:
    """Drops nodes that reach no output, and constants and types that nothing names; sorts the rest."""
    graph = model.graph
    wanted, stack = set(), list(graph.outputs)
    while stack:
        t = stack.pop()
        node = graph.producer.get(t)
        if node is not None and node.name not in wanted:
            wanted.add(node.name)
            stack.extend(i for i in node.inputs if i)
    nodes = sort_nodes((n for n in graph.nodes if n.name in wanted), [*graph.inputs, *model.constants])
    used = {*graph.inputs, *graph.outputs, *(t for n in nodes for t in (*n.inputs, *n.outputs) if t)}
    types = {t: ty for t, ty in graph.types.items() if t in used}
    constants = {t: v for t, v in model.constants.items() if t in used}
    if nodes == graph.nodes and len(types) == len(graph.types) and len(constants) == len(model.constants):
        return model
    return Model(replace(graph, nodes=nodes, types=types), constants)
