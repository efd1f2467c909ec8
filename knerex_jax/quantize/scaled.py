"""The scaled graph: every tensor t becomes t * scale, by folding scales into constants. Section 2 of the contract.

It is a float model that ONNX Runtime can run; at scale 1 it is the planned graph. Which rule a node needs follows from
what its operator states about scales: weights absorb them, operators that share one scale are homogeneous and stay as
they are, and whatever has a scale of its own is wrapped in explicit multiplications.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.activation import ClipAttrs
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.opdef import NoAttrs, OpDef
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.structure import Structure, is_weighted


def scale_model(model: Model, structure: Structure, plan: QuantPlan, registry: Mapping[str, OpDef] = REGISTRY) -> Model:
    """The scaled model of a planned graph; run in float it gives each output times its scale."""
    scaler = _Scaler(model, plan)
    graph = model.graph
    for node in graph.nodes:
        op = op_of(node, registry)
        inputs = tuple(scaler.model_inputs.get(t, t) for t in node.inputs)
        if node.name in structure.plain:
            scaler.nodes.append(node)
        elif is_weighted(node, model, registry):
            scaler.fold(node, inputs, op)
        elif node.name in structure.islands or not structure.own.isdisjoint(node.outputs):
            scaler.wrap(node, inputs)
        elif op.activation is not None:
            scaler.activation(node, inputs, op)
        else:
            scaler.nodes.append(replace(node, inputs=inputs))
    return Model(replace(graph, nodes=tuple(scaler.nodes), types=scaler.types), scaler.constants)


@dataclass
class _Scaler:
    """The scaled graph under construction."""

    model: Model
    plan: QuantPlan
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    model_inputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants.update(self.model.constants)
        self.types.update(graph.types)
        self.formats = dict(self.plan.formats)
        for name, act in self.plan.fused.items():
            # A value before its fused activation is scaled like the activation's output, or not at all.
            after = self.plan.formats[graph.node[act].outputs[0]]
            plain = graph.node[act].op_type == "HardSwish"
            held = replace(after, scale=np.ones_like(after.scale)) if plain else after
            self.formats[graph.node[name].outputs[0]] = held
        for t in graph.inputs:
            if t in self.formats:
                self.model_inputs[t] = self.times(t, self.scale(t), f"{t}/scaled")

    def scale(self, tensor: str) -> np.ndarray:
        """Scale of a tensor of the planned graph, float64, broadcastable against it."""
        f, rank = self.formats[tensor], len(self.model.graph.shape(tensor))
        return f.scale.astype(np.float64).reshape([-1 if len(f.scale) > 1 and i == f.axis else 1 for i in range(rank)])

    def constant(self, name: str, value: np.ndarray) -> str:
        value = np.ascontiguousarray(value, np.float32)
        self.constants[name], self.types[name] = value, TensorType("float32", value.shape)
        return name

    def times(self, tensor: str, factor: np.ndarray, result: str) -> str:
        """Multiplies a computed tensor by a constant; returns the tensor itself where the factor is 1."""
        if (factor == 1).all():
            return tensor
        self.types.setdefault(result, self.types[tensor])
        self.append(f"{result}/mul", "Mul", (tensor, self.constant(f"{result}/factor", factor)), result)
        return result

    def append(self, name: str, op_type: str, inputs: tuple[str, ...], output: str) -> None:
        self.nodes.append(Node(name, op_type, inputs, (output,), NoAttrs()))

    def fold(self, node: Node, inputs: tuple[str, ...], op: OpDef) -> None:
        """W * s_y / s_x and b * s_y."""
        assert op.mac is not None
        form = op.mac(node, self.model)
        s_y = np.broadcast_to(self.formats[node.outputs[0]].scale, (len(form.weight),)).astype(np.float64)
        s_x = np.broadcast_to(self.formats[node.inputs[0]].scale, (int(form.feeding.max()) + 1,)).astype(np.float64)
        spread = (...,) + (None,) * (form.weight.ndim - 2)
        weight = form.weight.astype(np.float64) * s_y[:, None][spread] / s_x[form.feeding][spread]
        folded = [inputs[0], self.constant(f"{node.name}/weight.scaled", form.restore(weight))]
        if form.bias is not None:
            folded.append(self.constant(f"{node.name}/bias.scaled", form.bias * s_y))
        self.nodes.append(replace(node, inputs=(*folded, *inputs[len(folded) :])))

    def activation(self, node: Node, inputs: tuple[str, ...], op: OpDef) -> None:
        """A clip's bounds are scaled, per channel as Max and Min with vectors; other activations are homogeneous."""
        assert op.activation is not None
        act, y, scale = op.activation(node, self.model), node.outputs[0], self.scale(node.outputs[0])
        if act.kind != "clip":
            self.nodes.append(replace(node, inputs=inputs))
            return
        bounds = {"Max": act.low, "Min": act.high}
        scaled = {kind: None if bound is None else bound * scale for kind, bound in bounds.items()}
        if scale.size == 1:
            low, high = (None if v is None else float(np.float32(v.reshape(()))) for v in scaled.values())
            self.nodes.append(replace(node, inputs=inputs, attrs=ClipAttrs(low, high)))
            return
        x = inputs[0]
        steps = [(kind, v) for kind, v in scaled.items() if v is not None]
        for i, (kind, vector) in enumerate(steps):
            out = y if i == len(steps) - 1 else f"{y}/{kind.lower()}"
            self.types[out] = self.types[y]
            name = f"{node.name}/{kind.lower()}"
            self.append(name, kind, (x, self.constant(f"{name}/bound", vector)), out)
            x = out

    def wrap(self, node: Node, inputs: tuple[str, ...]) -> None:
        """1 / s_x before the node, s_y behind it."""
        plain = [
            self.times(scaled, 1.0 / self.scale(t), f"{node.name}/input{i}.unscaled") if t in self.formats else t
            for i, (t, scaled) in enumerate(zip(node.inputs, inputs, strict=True))
        ]
        made = tuple(f"{t}/unscaled" if t in self.formats else t for t in node.outputs)
        self.nodes.append(replace(node, inputs=tuple(plain), outputs=made))
        for y, raw in zip(node.outputs, made, strict=True):
            if raw == y:
                continue
            self.types[raw] = self.types[y]
            if self.times(raw, self.scale(y), y) == raw:
                self.append(f"{y}/identity", "Identity", (raw,), y)
