"""What a pass is, how passes are run and checked, and the builder they rewrite graphs with."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from knerex_jax.errors import KnerexError
from knerex_jax.graph.ir import Model, Node, TensorType, prune
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of, output_types
from knerex_jax.ops.opdef import OpDef

Registry = Mapping[str, OpDef]


class Pass(Protocol):
    """One rewrite of a bound model, applied wherever it fits.

    The same object back means "nothing to do". Inputs and outputs keep their names, order and types, and the function
    stays the same up to float rounding.
    """

    def __call__(self, model: Model, registry: Registry = ...) -> Model: ...


Rule = Callable[["GraphBuilder", Node], None]
"""Looks at one node and, where its pattern matches, replaces it and its neighbours."""

_MOST_ROUNDS = 50


def run_passes(model: Model, passes: Sequence[Pass], registry: Registry = REGISTRY) -> Model:
    """Applies the passes in order, again and again until a whole round changes nothing; checks the graph after each.

    Raises:
      KnerexError: as raised by a pass; `where` then names the pass and those that changed the graph before it.
    """
    done: list[str] = []
    for _ in range(_MOST_ROUNDS):
        before = model
        for apply in passes:
            name = getattr(apply, "__name__", str(apply))
            story = f"pass {name}" + (f", after {', '.join(done)}" if done else "")
            try:
                after = apply(model, registry)
                if after is not model:
                    check_model(after, registry, like=model)
                    done.append(name)
            except KnerexError as error:
                raise type(error)(error.what, where=f"{error.where} ({story})", fix=error.fix) from error
            except Exception as error:
                error.add_note(f"in {story}")
                raise
            model = after
        if model is before:
            return model
    raise AssertionError(f"the passes do not settle: {', '.join(done[-2 * len(passes) :])}")


def check_model(model: Model, registry: Registry, like: Model | None = None) -> None:
    """Asserts what every bound model keeps: unique names, topological order, and types that follow from the operators.

    Args:
      model: the model to check.
      registry: op_type -> record.
      like: a model whose inputs and outputs this one must have.
    """
    graph = model.graph
    assert len(graph.node) == len(graph.nodes), "two nodes share a name"
    known = {*graph.inputs, *model.constants}
    for tensor, array in model.constants.items():
        assert graph.types[tensor] == TensorType(array.dtype.name, array.shape), f"type of constant {tensor}"
    for node in graph.nodes:
        missing = [t for t in node.inputs if t and t not in known]
        assert not missing, f"{node.name} reads {missing}, which nothing has made yet"
        made = output_types(op_of(node, registry), node, graph.types, model.constants)
        for tensor, held in zip(node.outputs, made, strict=False):
            assert tensor not in known, f"{tensor} is made twice"
            assert not tensor or graph.types[tensor] == held, f"type of {tensor}: {graph.types[tensor]}, not {held}"
            known.add(tensor)
        known.discard("")
    assert known.issuperset(graph.outputs), f"nothing makes {set(graph.outputs) - known}"
    if like is not None:
        for ours, theirs in ((graph.inputs, like.graph.inputs), (graph.outputs, like.graph.outputs)):
            assert ours == theirs, f"inputs or outputs changed from {theirs} to {ours}"
            assert all(graph.types[t] == like.graph.types[t] for t in ours), "types of inputs or outputs changed"


def rewrite(*op_types: str) -> Callable[[Rule], Pass]:
    """Makes a pass of a rule, which is shown every node of these operators (without any: every node), in order."""

    def wrap(rule: Rule) -> Pass:
        def fits(node: Node) -> bool:
            return not op_types or (node.op_type in op_types and not node.domain)

        @functools.wraps(rule)
        def apply(model: Model, registry: Registry = REGISTRY) -> Model:
            if not any(fits(node) for node in model.graph.nodes):
                return model
            builder = GraphBuilder(model, registry)
            for node in model.graph.nodes:
                current = builder.node(node.name)
                if current is not None and fits(current):
                    rule(builder, current)
            return builder.model()

        return apply

    return wrap


def input_of(node: Node, index: int) -> str:
    """An optional input; "" if it is absent."""
    return node.inputs[index] if index < len(node.inputs) else ""


class GraphBuilder:
    """A model under reconstruction: questions about the graph as it now is, and changes that keep it whole."""

    def __init__(self, model: Model, registry: Registry = REGISTRY) -> None:
        graph = model.graph
        self.registry = registry
        self._model = model
        self._changed = False
        self._outputs = frozenset(graph.outputs)
        self._nodes: dict[str, Node] = {}
        self._places: dict[str, tuple[int, ...]] = {}
        self._producer: dict[str, str] = {}
        self._readers: dict[str, dict[str, None]] = {}
        self._types = dict(graph.types)
        self._constants = dict(model.constants)
        for place, node in enumerate(graph.nodes):
            self._insert(node, (place,))

    def model(self) -> Model:
        """The result, dead nodes removed; the original object if nothing was changed."""
        if not self._changed:
            return self._model
        nodes = sorted(self._nodes.values(), key=lambda n: self._places[n.name])
        graph = replace(self._model.graph, nodes=tuple(nodes), types=self._types)
        return prune(Model(graph, self._constants))

    # --- questions

    def node(self, name: str) -> Node | None:
        """The node of that name as it now is; None if it is gone."""
        return self._nodes.get(name)

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self._types[tensor].shape

    def dtype(self, tensor: str) -> str:
        return self._types[tensor].dtype

    def constant(self, tensor: str) -> np.ndarray | None:
        """The value of a constant; None if the tensor is computed or absent."""
        return self._constants.get(tensor)

    def is_exact(self, tensor: str) -> bool:
        """Whether the tensor was exact, hence never quantized, when the pass began."""
        return tensor in self._model.exact

    def is_output(self, tensor: str) -> bool:
        """Whether the tensor is an output of the model."""
        return tensor in self._outputs

    def place(self, node: Node) -> tuple[int, ...]:
        """Sort key of a node in the order of the graph."""
        return self._places[node.name]

    def readers(self, tensor: str) -> Iterator[Node]:
        """The nodes that read a tensor."""
        return (self._nodes[name] for name in tuple(self._readers.get(tensor, ())))

    def producer(self, tensor: str, *op_types: str) -> Node | None:
        """The node that makes a tensor, if it is of one of these operators (without any: of any)."""
        name = self._producer.get(tensor)
        node = None if name is None else self._nodes[name]
        return node if node is not None and (not op_types or (node.op_type in op_types and not node.domain)) else None

    def private_producer(self, tensor: str, *op_types: str) -> Node | None:
        """As `producer`, but only if a single node reads the tensor, which is no output of the model."""
        private = tensor not in self._outputs and len(self._readers.get(tensor, ())) == 1
        return self.producer(tensor, *op_types) if private else None

    # --- changes

    def new_constant(self, stem: str, value: np.ndarray) -> str:
        """Adds a constant, under a name that is free or that of a constant nothing reads any more."""
        stale = stem in self._constants and stem not in self._readers and stem not in self._outputs
        name = stem if stale else self._fresh(stem, self._types)
        self._constants[name] = np.asarray(value, order="C")
        self._types[name] = TensorType(value.dtype.name, value.shape)
        return name

    def replace(self, *nodes: Node) -> "Emit":
        """Removes nodes; what the result is called with stands in their place and for their origin."""
        for node in nodes:
            self._remove(node)
        place = max(self._places.pop(node.name) for node in nodes)
        self._changed = True
        return Emit(self, nodes[-1], place, tuple(dict.fromkeys(o for n in nodes for o in n.origin)))

    def beside(self, node: Node, op_type: str, *inputs: str, name: str) -> str:
        """Adds a node right before another one, for its origin; returns its output."""
        self._changed = True
        name, (*front, last) = self._fresh(name, self._types), self._places[node.name]
        emit = Emit(self, replace(node, outputs=(name,)), (*front, last - 1), node.origin)
        return emit(op_type, *inputs, name=name, output=name)

    def reconnect(self, node: Node, inputs: Sequence[str]) -> Node:
        """Lets a node read other tensors that give it the same result."""
        return self._swap(node, replace(node, inputs=tuple(inputs)))

    def widen(self, node: Node) -> Node:
        """Marks a node's output as the inside of a decomposed operator."""
        return self._swap(node, replace(node, wide=True))

    def bypass(self, node: Node, source: str) -> bool:
        """Removes a node whose first output equals `source`; False if the names of the model's outputs forbid it."""
        target = node.outputs[0]
        assert self._types[source] == self._types[target], f"{node.name} is not an identity"
        if any(t and (t in self._outputs or t in self._readers) for t in node.outputs[1:]):
            return False
        if target in self._outputs:
            maker = self._producer.get(source)
            if maker is None or source in self._outputs:
                return False  # the output would become an input, a constant or another output
            self._remove(node)
            made = self._nodes[maker]
            self._swap(made, replace(made, outputs=tuple(target if t == source else t for t in made.outputs)))
            self._rename_reads(source, target)
        else:
            self._remove(node)
            self._rename_reads(target, source)
        self._places.pop(node.name)
        self._changed = True
        return True

    def _rename_reads(self, old: str, new: str) -> None:
        for reader in self.readers(old):
            self._swap(reader, replace(reader, inputs=tuple(new if t == old else t for t in reader.inputs)))

    def _swap(self, old: Node, new: Node) -> Node:
        place = self._places[old.name]
        self._remove(old)
        self._insert(new, place)
        self._changed = True
        return new

    def _insert(self, node: Node, place: tuple[int, ...]) -> None:
        self._nodes[node.name], self._places[node.name] = node, place
        self._producer.update((t, node.name) for t in node.outputs if t)
        for t in node.inputs:
            if t:
                self._readers.setdefault(t, {})[node.name] = None

    def _remove(self, node: Node) -> None:
        del self._nodes[node.name]
        for t in node.outputs:
            self._producer.pop(t, None)
        for t in set(node.inputs) - {""}:
            self._readers[t].pop(node.name)
            if not self._readers[t]:
                del self._readers[t]

    @staticmethod
    def _fresh(stem: str, taken: Mapping[str, object]) -> str:
        name, count = stem, 1
        while name in taken:
            name, count = f"{stem}_{count}", count + 1
        return name


class Emit:
    """Puts new nodes where old ones were; made by `GraphBuilder.replace`."""

    def __init__(self, builder: GraphBuilder, anchor: Node, place: tuple[int, ...], origin: tuple[str, ...]) -> None:
        self._builder, self._anchor, self._place, self._origin = builder, anchor, place, origin
        self._count = 0

    def __call__(
        self,
        op_type: str,
        *inputs: str,
        output: str | None = None,
        name: str | None = None,
        attrs: Any = None,
        wide: bool | None = None,
        **fields: Any,
    ) -> str:
        """Adds a node and returns its output tensor.

        Args:
          op_type: a registered operator.
          *inputs: tensors it reads; "" where one is absent.
          output: name of its output, to take over that of a replaced node; a new tensor if None.
          name: of the node; by default the last replaced node's if an output is taken over, else one made from it.
          attrs: its attribute dataclass; made from `fields` if None.
          wide: whether its output lies inside a decomposed operator; by default as for the last replaced node.
          **fields: attributes by name.
        """
        b, op = self._builder, self._builder.registry[op_type]
        name = b._fresh(name or (self._anchor.name if output else f"{self._anchor.name}/{op_type}"), b._nodes)
        attrs, wide = op.attrs(**fields) if attrs is None else attrs, self._anchor.wide if wide is None else wide
        node = Node(name, op_type, inputs, ("",), attrs, "", self._origin, wide)
        held = output_types(op, node, b._types, b._constants)[0]
        if output is None:
            output = b._fresh(f"{self._anchor.outputs[0]}/{op_type}", b._types)
        assert b._types.setdefault(output, held) == held, f"{name}: {output} is {b._types[output]}, not {held}"
        b._insert(replace(node, outputs=(output,)), (*self._place, self._count))
        self._count += 1
        return output
