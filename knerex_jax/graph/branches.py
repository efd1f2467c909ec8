"""If nodes whose condition is known: the branch taken moves into the graph. Exporters write them around Squeeze."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper, numpy_helper


def take_known_branches(graph: onnx.GraphProto) -> bool:
    """Replaces every If whose condition is a constant by the branch it takes, in place; says whether there was one."""
    known = {t.name: bool(numpy_helper.to_array(t).all()) for t in graph.initializer if t.data_type == t.BOOL}
    for node in graph.node:
        if node.op_type == "Constant" and [a.name for a in node.attribute] == ["value"]:
            known[node.output[0]] = bool(numpy_helper.to_array(node.attribute[0].t).all())
    nodes: list[onnx.NodeProto] = []
    found = False
    for node in graph.node:
        if node.op_type == "If" and not node.domain and node.input[0] in known:
            taken = "then_branch" if known[node.input[0]] else "else_branch"
            branch = next(a.g for a in node.attribute if a.name == taken)
            nodes.extend(_spliced(graph, node, branch))
            found = True
        else:
            nodes.append(node)
    if found:
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return found


def _spliced(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a branch under names of their own, ending in the outputs of the If."""
    prefix = f"{node.name or node.output[0]}/"
    made = [t.name for t in branch.initializer] + [t for n in branch.node for t in n.output if t]
    names = {t: prefix + t for t in made}
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = names[tensor.name]
    for inner in branch.node:
        yield _renamed(inner, names, prefix)
    for source, target in zip(branch.output, node.output, strict=True):
        if target:
            yield helper.make_node("Identity", [names[source.name]], [target], name=prefix + target)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name if node.name else ""
    _rename(copy, names)
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Applies new names to a node and to the subgraphs in it (ONNX forbids them to reuse outer names)."""
    node.input[:] = [names.get(t, t) for t in node.input]
    node.output[:] = [names.get(t, t) for t in node.output]
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for nested in inner.node:
                _rename(nested, names)
            for output in inner.output:
                output.name = names.get(output.name, output.name)
