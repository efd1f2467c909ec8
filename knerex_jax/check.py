"""What a platform makes of a model, node by node of the user's file, before anything is calibrated."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from knerex_jax.errors import ConfigError, KnerexError, UnsupportedOpError
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.graph.read import read_onnx
from knerex_jax.graph.simplify import load_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import bind, op_of
from knerex_jax.ops.host import host_node, is_standard
from knerex_jax.ops.opdef import OpDef
from knerex_jax.ops.placement import Placement, Where, placement, refusal, rewrite_of
from knerex_jax.passes.pipeline import decompose_model
from knerex_jax.quantize.structure import analyse
from knerex_jax.targets import TARGETS

Registry = Mapping[str, OpDef]


@dataclass(frozen=True)
class NodeCheck:
    """One node of the user's model.

    Attributes:
      where: as in `Placement`; "folded" if nothing of the node is left to run; "unchecked" if it depends on a node that
        is unsupported, so that its shapes are not known.
      reason, suggestion: may be empty.
    """

    name: str
    op_type: str
    where: Where | Literal["folded", "unchecked"]
    reason: str = ""
    suggestion: str = ""


@dataclass(frozen=True)
class CheckReport:
    """Every node of a model on one platform, in the order of the file."""

    model: str
    platform: str
    nodes: tuple[NodeCheck, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes are where, most first."""
        return dict(Counter(n.where for n in self.nodes).most_common())

    @property
    def supported(self) -> bool:
        """Whether every node runs somewhere."""
        return not any(n.where == "unsupported" for n in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.model,
            "platform": self.platform,
            "supported": self.supported,
            "counts": self.counts,
            "nodes": [vars(n) for n in self.nodes],
        }


def check_model(
    path_or_model: str | Path | Model,
    platform: str,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Registry = REGISTRY,
) -> CheckReport:
    """Says for every node whether the platform's NPU runs it, and if not, why and what to do about it.

    Args:
      path_or_model: an ONNX file, or a model as `load_onnx` gives it.
      platform: "520", "530", "630", "720" or "730".
      input_shapes: full shapes by input name, for dimensions the file leaves open.
      ops: operator records.

    Raises:
      ConfigError: there is no such platform.
      ModelError: the file cannot be read, or an input's shape stays unknown. Unsupported nodes do not raise: they are
        reported.
    """
    if platform not in TARGETS:
        raise ConfigError(f"unknown platform {platform!r}", where="platform", fix=f"use one of {', '.join(TARGETS)}")
    if isinstance(path_or_model, Model):
        users = {n.name: n.op_type for n in path_or_model.graph.nodes}
        bound = _labelled(path_or_model, users, {})
        readable = Readable(bound.graph.name, users, bound, bound, {})
    else:
        readable = read_supported(path_or_model, input_shapes, ops)
    return check_read(readable, decompose_model(readable.bound, ops), platform, ops)


@dataclass(frozen=True)
class Readable:
    """A file as far as it can be read.

    Attributes:
      name: of the file.
      users: the nodes of the file, label -> operator.
      raw: simplified, with labels as origins.
      bound: the part of `raw` without nodes that nothing can run and all that depends on them.
      faults: node of `raw` -> why it could not be bound.
    """

    name: str
    users: Mapping[str, str]
    raw: Model
    bound: Model
    faults: Mapping[str, KnerexError]


def read_supported(
    path: str | Path, input_shapes: Mapping[str, tuple[int, ...]] | None = None, ops: Registry = REGISTRY
) -> Readable:
    """Reads an ONNX file, leaving out what nothing can run.

    Raises:
      ModelError: the file cannot be read, or an input's shape stays unknown.
    """
    users, raw, opset = _read(path, input_shapes)
    bound, faults = _bound_as_far_as_possible(raw, ops, opset)
    return Readable(Path(path).stem, users, raw, bound, faults)


def check_read(readable: Readable, decomposed: Model, platform: str, ops: Registry = REGISTRY) -> CheckReport:
    """`check_model` of a file that was read, with its part that can run decomposed."""
    parts = _Parts.of(decomposed, readable.users, platform, ops)
    return CheckReport(readable.name, platform, _judged(readable, parts, platform, ops))


def _read(path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None) -> tuple[dict[str, str], Model, int]:
    """The nodes of the file (label -> operator), and the simplified model whose nodes have these labels as origins.

    Nodes are recognised by their outputs, because they need not have names, and simplification makes names up.
    """
    users: dict[str, str] = {}
    labels: dict[str, str] = {}
    for index, node in enumerate(load_proto(path).graph.node):
        label = node.name or f"{node.op_type}_{index}"
        while label in users:
            label = f"{label}_{index}"
        users[label] = node.op_type
        labels |= {t: label for t in node.output if t}
    file = read_onnx(path, shapes)
    model = _labelled(file.model, users, labels)
    for node in model.graph.nodes:
        users.setdefault(node.origin[0], node.op_type)  # out of a function or of a branch
    return users, model, file.opset


def _labelled(model: Model, users: Mapping[str, str], labels: Mapping[str, str]) -> Model:
    """The model with each node's label as its origin.

    Args:
      model: simplified.
      users: label -> operator.
      labels: tensor -> label of the node that makes it in the file. Simplification may give a node the output of one
        that it removed, so a label of the same operator goes first.
    """

    def label(node: Node) -> str:
        candidates = [*(labels[t] for t in node.outputs if t in labels), node.name]
        return next((c for c in candidates if users.get(c) == node.op_type), candidates[0])

    nodes = tuple(replace(n, origin=(label(n),)) for n in model.graph.nodes)
    return replace(model, graph=replace(model.graph, nodes=nodes))


def _bound_as_far_as_possible(raw: Model, registry: Registry, opset: int) -> tuple[Model, dict[str, KnerexError]]:
    """The part of the model that can be bound, and the faults of the nodes that cannot, by name."""
    faults = {n.name: error for n in raw.graph.nodes if (error := _unknown(n, registry)) is not None}
    while True:
        part = _without(raw, set(faults), opset)
        try:
            return bind(part, registry, opset), faults
        except KnerexError as error:
            name = error.where.removeprefix("node ")
            if name not in part.graph.node:
                raise
            faults[name] = error


def _unknown(node: Node, registry: Registry) -> UnsupportedOpError | None:
    if is_standard(node):
        return None
    try:
        op_of(node, registry)
    except UnsupportedOpError as error:
        return error
    return None


def _without(model: Model, dropped: set[str], opset: int) -> Model:
    """The model without some nodes and without all that depends on them; what these read becomes an output."""
    graph = model.graph
    known, kept, lost = {*graph.inputs, *model.constants, ""}, [], []
    for node in graph.nodes:
        if node.name not in dropped and known.issuperset(_reads(node, opset)):
            kept.append(node)
            known.update(node.outputs)
        else:
            lost.append(node)
    ends = {t for n in kept for t in n.outputs if t} & {t for n in lost for t in _reads(n, opset)}
    outputs = (*(t for t in graph.outputs if t in known), *sorted(ends - set(graph.outputs)))
    return Model(Graph(graph.name, graph.inputs, outputs, tuple(kept), graph.types), model.constants)


def _reads(node: Node, opset: int) -> tuple[str, ...]:
    """The tensors a node needs, those that its subgraphs take from outside included."""
    has_subgraph = any(isinstance(value, onnx.GraphProto) for value in node.attrs.values())
    return host_node(node, opset).inputs if has_subgraph else node.inputs


def _judged(readable: Readable, parts: "_Parts", platform: str, registry: Registry) -> tuple[NodeCheck, ...]:
    """One row per node of the user's."""
    users, faults, bound = readable.users, readable.faults, readable.bound
    whole = {n.origin[0]: n for n in readable.raw.graph.nodes}
    typed = {n.origin[0]: n for n in bound.graph.nodes}
    rows = []
    for label, op_type in users.items():
        node = whole.get(label)
        if node is None or (label in typed and not parts.of_user(label)):
            rows.append(NodeCheck(label, op_type, "folded"))
        elif node.name in faults:
            fault = faults[node.name]
            rows.append(NodeCheck(label, op_type, "unsupported", fault.what, fault.fix))
        elif label not in typed:
            rows.append(NodeCheck(label, op_type, "unchecked", "it depends on an unsupported node"))
        else:
            native = _native(node, typed[label], bound, platform, registry)
            found = parts.placed(label, op_type, native=native)
            rows.append(NodeCheck(label, op_type, found.where, found.reason, found.suggestion))
    return tuple(rows)


def _native(raw: Node, typed: Node, bound: Model, platform: str, registry: Registry) -> bool:
    """Whether the platform's table accepts the user's own operator, whatever it is decomposed into here."""
    op = registry.get(raw.op_type)
    return (
        op is not None
        and not raw.domain
        and typed.attrs.__class__ is op.attrs
        and (refusal(replace(typed, op_type=raw.op_type), bound, platform, op) is None)
    )


@dataclass(frozen=True)
class _Parts:
    """The decomposed model, seen from the user's nodes.

    Attributes:
      by_user: label -> nodes it has a share in.
      leads: node -> the label it mainly stands for.
      places: node -> where it runs.
      hosts: activation fused into an accumulator -> the weighted node.
    """

    by_user: Mapping[str, tuple[Node, ...]]
    leads: Mapping[str, str]
    places: Mapping[str, Placement]
    hosts: Mapping[str, str]

    @classmethod
    def of(cls, model: Model, users: Mapping[str, str], platform: str, registry: Registry) -> "_Parts":
        by_user: dict[str, list[Node]] = {}
        leads = {}
        for node in model.graph.nodes:
            same = [label for label in node.origin if users[label] == node.op_type]
            leads[node.name] = (same or [*node.origin, ""])[0]  # a constant that is an output has no node of the user's
            for label in node.origin:
                by_user.setdefault(label, []).append(node)
        structure = analyse(model, TARGETS[platform], registry)
        places = {n.name: placement(n, model, platform, registry, structure.islands) for n in model.graph.nodes}
        hosts = {act: mac for mac, act in structure.fused.items()}
        return cls({u: tuple(ns) for u, ns in by_user.items()}, leads, places, hosts)

    def of_user(self, label: str) -> tuple[Node, ...]:
        return self.by_user.get(label, ())

    def placed(self, label: str, op_type: str, *, native: bool) -> Placement:
        """Where a node of the user's runs.

        Args:
          label: of the node.
          op_type: its operator.
          native: whether the platform runs that operator itself, so that it does not matter what it becomes here.
        """
        shared = self.of_user(label)
        own = [n for n in shared if self.leads[n.name] == label]
        stuck = next((n for n in own if not self._runs(n, native)), None)
        if stuck is not None:
            return _as_part(self.places[stuck.name], stuck.op_type, op_type)
        host = self.hosts.get(own[0].name) if len(own) == 1 else None if own else shared[0].name
        if host is not None:
            into = f"into {self.leads[host]}"
            fused = self.places[host].where == "NPU"
            return (
                Placement("fused", into)
                if fused
                else replace(self.places[host], reason=f"{into}, which is not on the NPU")
            )
        if len(own) > 1:
            return Placement("decomposed", f"into {', '.join(dict.fromkeys(n.op_type for n in own))}")
        return Placement("NPU", "" if own[0].op_type == op_type else f"as {own[0].op_type}")

    def _runs(self, node: Node, native: bool) -> bool:
        place = self.places[node.name]
        return place.where == "NPU" or (native and place.integer)


def _as_part(place: Placement, op_type: str, user_op: str) -> Placement:
    """What keeps a node off the NPU, told of the user's operator that it is a part of."""
    if op_type == user_op:
        return place
    named = place.reason.startswith(f"{op_type} ")
    reason = f"its {place.reason}" if named else f"as {op_type}: {place.reason}"
    return replace(place, reason=reason, suggestion=rewrite_of(user_op) if named else place.suggestion)
