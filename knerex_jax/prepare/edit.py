"""Cutting a model, giving its inputs other shapes and its tensors other names."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
import onnx.utils

from knerex_jax.data.shapes import Shape
from knerex_jax.errors import ModelError
from knerex_jax.prepare.protos import (
    OnnxModel,
    checked,
    inferred,
    input_names,
    name_of,
    overwrite_shapes,
    proto_of,
    save_proto,
    with_weights,
)
from knerex_jax.suggest import nearest


def edit_onnx(
    model: OnnxModel,
    output: str | Path | None = None,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    shapes: Mapping[str, Shape] | None = None,
    rename: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Cuts a model with `onnx.utils`, then changes shapes, then names; the result is checked with `onnx.checker`.

    Args:
      model: not changed.
      output: where to write the result, if anywhere.
      inputs: tensors that shall be the inputs, inner ones too; default those of the model that are still needed.
      outputs: tensors that shall be the outputs; default the model's.
      shapes: input of the result -> its full shape, 0 for a dimension left open; all other shapes follow anew.
      rename: old -> new name of tensors of the result.

    Raises:
      ModelError: the model cannot be read, a tensor does not exist, the inputs do not suffice, or shapes contradict.
      ArtifactError: the result cannot be written.
    """
    proto = proto_of(model)
    if inputs or outputs:
        proto = _cut(inferred(proto), list(inputs), list(outputs), name_of(model))
    if shapes:
        overwrite_shapes(proto, shapes)
        proto = inferred(proto)
    if rename:
        _rename(proto, rename)
    proto = checked(with_weights(proto, model), name_of(model))
    if output is not None:
        save_proto(proto, output)
    return proto


def _cut(proto: onnx.ModelProto, inputs: list[str], outputs: list[str], where: str) -> onnx.ModelProto:
    """The part between two sets of tensors."""
    weights = {t.name for t in proto.graph.initializer}
    made = {t: n for n in proto.graph.node for t in n.output if t}
    for name in (*inputs, *outputs):
        if name not in made and name not in input_names(proto):
            known = [*input_names(proto), *made]
            what = f"'{name}' is a weight" if name in weights else f"the model has no tensor '{name}'"
            raise ModelError(what, where=where, fix=nearest(name, [t for t in known if t not in weights]))
    outputs = list(dict.fromkeys(outputs)) or [v.name for v in proto.graph.output]
    reached = _needed(made, set(inputs), outputs)
    missing = [t for t in input_names(proto) if t in reached and t not in inputs]
    if inputs and missing:
        what = f"the outputs also depend on '{missing[0]}', past the inputs {', '.join(inputs)}"
        raise ModelError(what, where=where, fix=f"add --inputs {missing[0]}, or cut elsewhere")
    unread = [t for t in inputs if t not in reached]
    if unread:
        fix = "leave it out, or add an output behind it"
        raise ModelError(f"no output depends on '{unread[0]}'", where=where, fix=fix)
    inputs = list(dict.fromkeys(inputs)) or missing
    cut = onnx.utils.Extractor(proto).extract_model(inputs, outputs)
    kept = {*inputs, *(t for n in cut.graph.node for t in n.output)}
    values = [v for v in cut.graph.value_info if v.name in kept and v.name not in {*inputs, *outputs}]
    del cut.graph.value_info[:]
    cut.graph.value_info.extend(values)
    cut.graph.name, cut.doc_string = proto.graph.name, proto.doc_string
    cut.metadata_props.extend(proto.metadata_props)
    return cut


def _needed(made: Mapping[str, onnx.NodeProto], stops: set[str], outputs: Iterable[str]) -> set[str]:
    """All tensors that the outputs depend on, up to the stops."""
    found, stack = set(), list(outputs)
    while stack:
        t = stack.pop()
        if t in found:
            continue
        found.add(t)
        if t in made and t not in stops:
            stack.extend(_reads(made[t]))
    return found


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, its subgraphs included."""
    inner = [g for a in node.attribute for g in (a.g, *a.graphs)]
    return [t for t in node.input if t] + [t for g in inner for n in g.node for t in _reads(n)]


def _rename(proto: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Renames tensors wherever they are written or read, in place."""
    graph = proto.graph
    taken = {t for n in graph.node for t in (*n.input, *n.output)} | {v.name for v in (*graph.input, *graph.output)}
    for old, new in names.items():
        if old not in taken or not old:
            raise ModelError(f"the model has no tensor '{old}'", where="rename", fix=nearest(old, sorted(taken - {""})))
        if not new or (new in taken and new not in names) or list(names.values()).count(new) > 1:
            raise ModelError(f"the name '{new}' is taken", where="rename", fix="choose a name that no tensor has")
    _rename_in(graph, names)


def _rename_in(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(t, t) for t in side]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename_in(inner, names)
