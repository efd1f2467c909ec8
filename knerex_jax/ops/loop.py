"""Loop that runs a known number of times: its body, once per iteration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import Array

from knerex_jax.errors import ModelError, UnsupportedOpError
from knerex_jax.graph.ir import Model, Node, TensorType
from knerex_jax.graph.read import read_graph
from knerex_jax.ops.bind import bind_node, op_of
from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class LoopAttrs:
    """What a Loop of a known number of iterations is.

    Attributes:
      trip_count, condition: as in ONNX, None where absent.
      body: onnx.GraphProto.
      opset: version that the body follows.
      captured: outer tensors that the body reads, by the names they have there; they follow the carried inputs.
    """

    trip_count: int | None = None
    condition: bool | None = None
    body: Any = None
    opset: int = 0
    captured: tuple[str, ...] = ()


def _free_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Tensors that a subgraph reads from outside."""
    own = {v.name for v in (*graph.input, *graph.initializer)}
    for node in graph.node:
        inner = [name for a in node.attribute for g in (a.g, *a.graphs) for name in _free_names(g)]
        yield from (name for name in (*node.input, *inner) if name and name not in own)
        own.update(node.output)
    yield from (v.name for v in graph.output if v.name and v.name not in own)


def _always_continues(body: onnx.GraphProto) -> bool:
    """Whether the condition that the body gives is the one it was given, or the constant true."""
    made = {output: node for node in body.node for output in node.output}
    name = body.output[0].name
    while name in made and made[name].op_type == "Identity":
        name = made[name].input[0]
    if name == body.input[1].name:
        return True
    constant = read_graph(body, widen=False).constant(name)
    return constant is not None and bool(constant.all())


def _canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    body = node.attrs["body"]
    captured = tuple(dict.fromkeys(_free_names(body)))
    attrs = {"opset": opset, "captured": captured, **node.attrs}
    why = None
    if attrs.get("trip_count") is None or attrs.get("condition") is False:
        why = "without a trip count"
    elif not _always_continues(body):
        why = "that may end early"
    elif len(body.output) > len(body.input) - 1 and attrs["trip_count"] == 0:
        why = "that never runs but collects results"
    if why:
        fix = "export the model with the loop unrolled"
        raise UnsupportedOpError(f"a Loop {why} has no rule", where=f"node {node.name}", fix=fix)
    padded = (*node.inputs, *[""] * (2 - len(node.inputs)))
    return replace(node, attrs=attrs, inputs=(*padded, *captured))


def _written(node: Node, types: Mapping[str, TensorType]) -> tuple[tuple[Node, ...], Mapping[str, TensorType]]:
    """Without the captured inputs, which the body reads by the names that the graph has for them now."""
    a: LoopAttrs = node.attrs
    kept = len(node.inputs) - len(a.captured)
    names = dict(zip(a.captured, node.inputs[kept:], strict=True))
    body = onnx.GraphProto.FromString(a.body.SerializeToString())
    _rename(body, names)
    return (replace(node, inputs=node.inputs[:kept], attrs=replace(a, body=body, captured=())),), {}


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(t, t) for t in node.input]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)
    for value in graph.output:
        value.name = names.get(value.name, value.name)


def _standard_loop(a: LoopAttrs, *inputs: Any) -> tuple[Array, ...]:
    """A loop over standard operators."""
    from knerex_jax.ops import REGISTRY  # the registry holds this rule, too

    return _loop(REGISTRY, a, *inputs)


def _loop(
    registry: Mapping[str, OpDef], a: LoopAttrs, trip_count: None, condition: None, *inputs: Any
) -> tuple[Array, ...]:
    """Runs the body, in the operators of the registry, once per iteration."""
    model = read_graph(a.body, widen=False)
    carried = inputs[: len(inputs) - len(a.captured)]
    outer = dict(zip(a.captured, inputs[len(carried) :], strict=True))
    state, collected = carried, []
    for i in range(a.trip_count or 0):
        results = _run(model, registry, a.opset, (np.int64(i), np.asarray(True), *state), outer)
        state = results[1 : 1 + len(carried)]
        collected.append(results[1 + len(carried) :])
    return (*(jnp.asarray(s) for s in state), *(jnp.stack(parts) for parts in zip(*collected, strict=True)))


def _run(
    model: Model, registry: Mapping[str, OpDef], opset: int, inputs: tuple[Any, ...], outer: Mapping[str, Any]
) -> list[Any]:
    """The body once; what follows from constants alone stays a constant, since shapes may depend on it.

    Raises:
      UnsupportedOpError: a node of the body has no rule, or depends on a value that only the running model knows.
    """
    values: dict[str, Any] = {**outer, **model.constants, **dict(zip(model.graph.inputs, inputs, strict=True))}
    for node in model.graph.nodes:
        known = {t: values[t] for t in node.inputs if t and isinstance(values[t], np.ndarray | np.generic)}
        try:
            bound = bind_node(node, registry, opset, {t: values[t].shape for t in node.inputs if t}, known)
        except ModelError as error:
            raise UnsupportedOpError(error.what, where=error.where, fix=error.fix) from error
        rule, args = op_of(bound, registry).to_float, [values[t] if t else None for t in bound.inputs]
        if all(t in known for t in node.inputs if t):
            with jax.ensure_compile_time_eval():
                results = jax.tree.map(np.asarray, rule(bound.attrs, *args))
        else:
            results = rule(bound.attrs, *(None if v is None else jnp.asarray(v) for v in args))
        results = results if isinstance(results, tuple | list) else (results,)
        values.update((t, r) for t, r in zip(node.outputs, results, strict=False) if t)
    return [values[t] for t in model.graph.outputs]


OPS = (
    OpDef(
        op_type="Loop", attrs=LoopAttrs, static_inputs=((0, "trip_count"), (1, "condition")), canonical=_canonical,
        written=_written, to_float=_standard_loop, to_float_among=lambda registry: partial(_loop, registry),
    ),
)  # fmt: skip
