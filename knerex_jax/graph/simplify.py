"""Any usable ONNX file -> the same function with static shapes, float32 arithmetic and no shape plumbing.

Folding is onnxslim's work, chosen by measurement (experiments/2026-11-23_simplifier). It sees a skeleton in which every
large weight stands behind a graph input of the same type, so models above 2 GiB are neither serialised nor read here.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx.inliner
from onnx import numpy_helper, shape_inference

from knerex_jax.errors import ModelError
from knerex_jax.graph.branches import take_known_branches
from knerex_jax.graph.tensors import FLOAT, HALVES, array_of, is_external, size_bytes, widened

OPSETS = range(7, 29)
"""Versions of the standard operators that can be read."""

_LARGE_FLOATS_BYTES = 4096  # larger ones cannot take part in shape arithmetic: they are hidden from the library
_LARGE_INTEGERS_BYTES = 1 << 20
_FOLD_ONLY = ["graph_fusion", "subexpression_elimination", "weight_tying"]  # fusions are ours: see knerex_jax/passes
_TYPE_ATTRIBUTES = {"to", "dtype", "stash_type"}

_log = logging.getLogger(__name__)


def load_proto(path: str | Path) -> onnx.ModelProto:
    """Parses an ONNX file; weights in external files stay on disk.

    Raises:
      ModelError: there is no such file, or it is not an ONNX model.
    """
    try:
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(
            f"cannot read the model: {error.strerror}", where=str(path), fix="check path and rights"
        ) from error
    except Exception as error:  # protobuf raises its own types, which differ between its implementations
        fix = "give a complete .onnx file (not a .pth, an archive or a git-lfs pointer); export or download it again"
        raise ModelError("this is not an ONNX model, or it is damaged", where=str(path), fix=fix) from error
    if not proto.graph.output or not proto.opset_import:
        fix = "export or download the model again: the file is empty or cut off"
        raise ModelError("the file holds no ONNX graph", where=str(path), fix=fix)
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the standard operators.

    Raises:
      ModelError: it is outside `OPSETS`.
    """
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    if version is None:
        fix = "export the model with standard ONNX operators"
        raise ModelError("the model imports no standard operators (domain ai.onnx)", where="opset_import", fix=fix)
    if version not in OPSETS:
        fix = f"export with an opset from {OPSETS[0]} to {OPSETS[-1]}, or use onnx.version_converter.convert_version"
        raise ModelError(f"opset {version} cannot be read", where="opset_import", fix=fix)
    return version


def simplify(
    proto: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None, folder: str | Path = ""
) -> onnx.ModelProto:
    """Returns an equal model in which every shape that follows from the input shapes is written down.

    A symbolic batch (axis 0) becomes 1 unless a shape is given; a fixed one stays as it is. Half-precision inputs,
    outputs and constants become float32, except weights in external files: they stay there, and `read_proto` widens
    them. Functions are inlined, custom operators kept.

    Args:
      proto: as parsed by `load_proto`; not changed.
      input_shapes: full shapes by input name, for dimensions the model leaves open. Entries below 1 mean "unknown".
      folder: where external weights lie.

    Raises:
      ModelError: unusable opset, invalid graph, contradicting shapes, or a dimension that nobody states.
    """
    opset_of(proto)
    bare, weights = _split(proto, Path(folder))
    if bare.functions:
        bare = onnx.inliner.inline_local_functions(bare)
        bare, inlined = _split(bare, Path(folder))
        weights |= inlined
    inputs = [value.name for value in bare.graph.input if value.name not in weights]
    _widen(bare.graph)
    fix_inputs(bare, inputs, input_shapes or {})
    _check(bare)
    return _join(_folded(bare), weights)


def _split(proto: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy without large weights, which become inputs, and those weights by name (not copied)."""
    bare = onnx.ModelProto(
        ir_version=max(proto.ir_version, 8),  # from 4 on initializers need not be inputs; 8 is the IR of opset 15
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        domain=proto.domain,
        model_version=proto.model_version,
        doc_string=proto.doc_string,
        opset_import=proto.opset_import,
        metadata_props=proto.metadata_props,
        functions=proto.functions,
    )
    graph, source = bare.graph, proto.graph
    graph.name, graph.doc_string = source.name or "graph", source.doc_string
    if source.sparse_initializer:
        name = source.sparse_initializer[0].values.name
        raise ModelError(
            "sparse weights cannot be read", where=f"initializer '{name}'", fix="store the weights densely"
        )
    tensors = {t.name: t for t in source.initializer}
    for node in source.node:
        if node.op_type == "Constant" and [a.name for a in node.attribute] == ["value"]:
            tensors[node.output[0]] = node.attribute[0].t
        else:
            graph.node.add().CopyFrom(node)
    graph.input.extend(v for v in source.input if v.name not in tensors)
    graph.output.extend(source.output)
    weights: dict[str, onnx.TensorProto] = {}
    for name, tensor in tensors.items():
        floats = tensor.data_type in (FLOAT, onnx.TensorProto.DOUBLE, *HALVES)
        if size_bytes(tensor) > (_LARGE_FLOATS_BYTES if floats else _LARGE_INTEGERS_BYTES):
            weights[name] = tensor
            graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        elif is_external(tensor):
            graph.initializer.append(numpy_helper.from_array(array_of(tensor, folder), name))
        else:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = name
    return bare, weights


def _join(bare: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Puts the hidden weights back that are still read."""
    graph = bare.graph
    inputs = [v for v in graph.input if v.name not in weights]
    used = {name for node in _all_nodes(graph) for name in node.input} | {v.name for v in graph.output}
    del graph.input[:]
    graph.input.extend(inputs)
    for name, tensor in weights.items():
        if name in used:
            if tensor.data_type in HALVES and not is_external(tensor):
                graph.initializer.append(numpy_helper.from_array(array_of(tensor, Path()), name))
            else:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = name
    return bare


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _widen(graph: onnx.GraphProto) -> None:
    """Turns half precision into float32 in declared types, small constants and attributes, in place."""
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = FLOAT
    for tensor in graph.initializer:
        tensor.CopyFrom(widened(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                attribute.t.CopyFrom(widened(attribute.t))
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in HALVES:
                attribute.i = FLOAT
            for inner in (attribute.g, *attribute.graphs):
                _widen(inner)


def _check(bare: onnx.ModelProto) -> None:
    """Raises ModelError unless the graph is valid; operators without a schema are left for `bind` to judge."""
    try:
        onnx.checker.check_model(bare)
    except onnx.checker.ValidationError as error:
        said = str(error).strip().splitlines()[0]
        if "No Op registered" not in said:
            fix = "export the model again and check it with onnx.checker.check_model"
            raise ModelError(
                f"the graph is not valid ONNX: {said}", where=f"graph '{bare.graph.name}'", fix=fix
            ) from error


def fix_inputs(bare: onnx.ModelProto, inputs: list[str], given: Mapping[str, tuple[int, ...]]) -> None:
    """Writes a number into every dimension of the inputs, in place."""
    unknown = [name for name in given if name not in inputs]
    if unknown:
        fix = f"the inputs are: {', '.join(inputs)}"
        raise ModelError(f"the model has no input '{unknown[0]}'", where="input shapes", fix=fix)
    values = {v.name: v for v in bare.graph.input if v.name in inputs}
    symbols: dict[str, int] = {}
    for name, value in values.items():
        for dim, size in zip(value.type.tensor_type.shape.dim, given.get(name, ()), strict=False):
            if dim.dim_param and size > 0:
                symbols.setdefault(dim.dim_param, size)
    for name, value in values.items():
        if not value.type.HasField("tensor_type"):
            fix = "replace it by one input per tensor"
            raise ModelError(f"input '{name}' is not a tensor", where=f"input '{name}'", fix=fix)
        shape = _static_shape(name, value.type.tensor_type, given.get(name), symbols)
        value.CopyFrom(onnx.helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, shape))


def _static_shape(
    name: str, declared: onnx.TypeProto.Tensor, given: tuple[int, ...] | None, symbols: Mapping[str, int]
) -> list[int]:
    """The shape of one input: what the model fixes, what is given, what a symbol means elsewhere, a batch of 1."""
    where, dims = f"input '{name}'", list(declared.shape.dim)
    if not declared.HasField("shape"):
        if given is None or min(given, default=1) < 1:
            fix = f"state it: --input-shape {name}:1,3,224,224 (its own numbers), or give calibration arrays"
            raise ModelError(f"the shape of input '{name}' is unknown", where=where, fix=fix)
        return list(given)
    if given is not None and len(given) != len(dims):
        fix = f"give {len(dims)} numbers, the batch included"
        raise ModelError(
            f"the shape {tuple(given)} has {len(given)} axes, the model's input {len(dims)}", where=where, fix=fix
        )
    shape: list[int] = []
    for axis, dim in enumerate(dims):
        said = given[axis] if given is not None and given[axis] > 0 else None
        if dim.dim_value > 0:
            if said not in (None, dim.dim_value) and axis > 0:
                what = f"axis {axis} is {dim.dim_value} in the model, but {said} in the shape given"
                raise ModelError(
                    what, where=where, fix="give data of the model's shape, or export it with a dynamic axis"
                )
            shape.append(dim.dim_value)
        else:
            shape.append(said or (1 if axis == 0 else symbols.get(dim.dim_param, 0)))
    if 0 in shape:
        axis = shape.index(0)
        label = f" ('{dims[axis].dim_param}')" if dims[axis].dim_param else ""
        example = ",".join(str(s) if s else "224" for s in shape)
        fix = f"state it: --input-shape {name}:{example} (its own numbers), or give calibration arrays"
        raise ModelError(
            f"axis {axis}{label} of input '{name}' is dynamic and nothing states its size", where=where, fix=fix
        )
    return shape


def _folded(bare: onnx.ModelProto) -> onnx.ModelProto:
    """The skeleton after the library's folding, with every shape that can be inferred."""
    import onnxslim  # it takes as long as jax: only where a model is read

    before = _inferred(bare)
    try:
        after = onnxslim.slim(_copy(before), skip_optimizations=_FOLD_ONLY)
        assert isinstance(after, onnx.ModelProto)
        assert [v.name for v in after.graph.output] == [v.name for v in before.graph.output]
        del after.graph.input[:]
        after.graph.input.extend(before.graph.input)  # the library drops inputs that nothing reads,
        after.doc_string = before.doc_string  # the documentation
        notes = {n.name: n.metadata_props for n in before.graph.node if n.name and n.metadata_props}
        for node in after.graph.node:  # and what is noted at nodes
            if not node.metadata_props:
                node.metadata_props.extend(notes.get(node.name, ()))
        again = take_known_branches(after.graph)
        _check(after)
        return _folded(after) if again else _inferred(after)
    except Exception as error:  # of any kind: the model can be read unfolded, so nobody is bothered with it
        _log.info("folding failed, going on with the unfolded graph: %s", error)
        return before


def _inferred(bare: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shapes that follow from the inputs, and only those."""
    clean = _copy(bare)
    del clean.graph.value_info[:]
    for value in clean.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(clean, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        fix = "check the input shapes given; if none were given, export the model again"
        said = " ".join(str(error).split())[:500]
        raise ModelError(
            f"types or shapes contradict one another: {said}", where=f"graph '{bare.graph.name}'", fix=fix
        ) from error


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied
