"""Raw attributes -> typed operators, once after reading, and back again before writing."""

import dataclasses
import types as python_types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import jax
import numpy as np
import onnx

from knerex_jax.errors import ModelError, UnsupportedOpError
from knerex_jax.graph.ir import Graph, Model, Node, TensorType, prune
from knerex_jax.graph.write import WRITTEN_OPSET
from knerex_jax.ops.host import HOST, HostAttrs, is_host, is_standard, raw_host_node, typed_host_node
from knerex_jax.ops.opdef import OpDef

_VECTORS = frozenset({("TopK", "k")})
"""Static inputs that hold one number but must be vectors in ONNX."""

_CEIL_MENDED = 22
"""Before, ONNX infers one place too many for a pool with ceil_mode whose last window would begin in the padding."""

_ONNX_NAMES = {"int64": "int64", "float32": "float", "bool": "bool"}


def bind(model: Model, registry: Mapping[str, OpDef], opset: int = WRITTEN_OPSET) -> Model:
    """Gives every node its one canonical form, with attributes of the operator's own dataclass.

    Static inputs move into the attributes, missing ones take the default of ONNX, and every tensor gets a type from the
    operator's float rule.

    Args:
      model: as read from a file.
      registry: op_type -> record. For an operator of another domain, "domain::op_type" is looked up first.
      opset: version of the standard operators that the nodes follow.

    Raises:
      UnsupportedOpError: an operator has no record.
      ModelError: an attribute is unknown, a static input is computed, or a shape does not follow.
    """
    source, constants = model.graph, model.constants
    types: dict[str, TensorType] = {t: source.types[t] for t in (*source.inputs, *constants)}
    misread: set[str] = set()  # what has another shape than ONNX infers, and what follows from it
    nodes = []
    for raw in source.nodes:
        try:
            shapes = {t: types[t].shape for t in raw.inputs if t}
            node = bind_node(raw, registry, opset, shapes, constants)
            made = output_types(op_of(node, registry), node, types, constants)
            check_complete(node, len(made))
        except UnsupportedOpError:
            if not is_standard(raw):
                raise
            node = typed_host_node(raw, opset, types, constants)
            made = output_types(HOST, node, types, constants)
        for name, held in zip(node.outputs, made, strict=False):
            declared = source.types.get(name)
            if not name or held is None:
                continue
            if declared is None or declared.shape == held.shape:
                types[name] = held
            elif (opset < _CEIL_MENDED and raw.attrs.get("ceil_mode")) or not misread.isdisjoint(raw.inputs):
                misread.add(name)
                types[name] = held
            else:
                what = f"output '{name}' is declared {declared.shape}, but {node.op_type} gives {held.shape}"
                fix = "check the input shapes given; otherwise report this model: its operator is computed wrongly"
                raise ModelError(what, where=f"node {node.name}", fix=fix)
        nodes.append(node)
    graph = Graph(source.name, source.inputs, source.outputs, tuple(nodes), types)
    return prune(Model(graph, constants))


def bind_node(
    raw: Node,
    registry: Mapping[str, OpDef],
    opset: int,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> Node:
    """One node in the canonical form of its record, with typed attributes; the arguments are those of `bind`.

    Args:
      raw: with a dict of attributes.
      registry: operator records.
      opset: version of the standard operators.
      shapes: of the node's inputs.
      constants: values by name; static inputs have to be among them.

    Raises:
      UnsupportedOpError: its operator has no record, or the record does not know this form.
      ModelError: an attribute is unknown, or a static input is computed.
    """
    op = op_of(raw, registry)
    node = op.canonical(_absorbed(raw, op, constants), opset, shapes)
    if node.op_type != raw.op_type:
        op = op_of(node, registry)
        node = _absorbed(node, op, constants)
    return dataclasses.replace(node, attrs=_typed(node, op))


def unbind(model: Model, registry: Mapping[str, OpDef]) -> Model:
    """Gives every node the attributes and inputs of ONNX, ready for writing; the inverse of `bind`."""
    constants, types = dict(model.constants), dict(model.graph.types)
    nodes = []
    for node in _written(model, registry, types):
        op = op_of(node, registry)
        if is_host(op):
            nodes.append(raw_host_node(node, WRITTEN_OPSET))
            continue
        schema = _schema(node.op_type, node.domain)
        own = {f.name: f.default for f in dataclasses.fields(node.attrs)}
        attrs = {name: getattr(node.attrs, name) for name in own}
        inputs = list(node.inputs)
        for index, field in op.static_inputs:
            value = attrs.pop(field, None)
            if value is None:
                continue
            declared = None if schema is None or index >= len(schema.inputs) else schema.inputs[index]
            first = types[node.inputs[0]].dtype if node.inputs and node.inputs[0] else None
            array = _input_array(node, field, value, first, declared)
            name = _fresh(f"{node.name}.{field}", types)
            constants[name], types[name] = array, TensorType(array.dtype.name, array.shape)
            inputs += [""] * (index + 1 - len(inputs))
            inputs[index] = name
        raw = {k: v for k, v in attrs.items() if _is_written(k, v, own[k], schema)}
        nodes.append(dataclasses.replace(node, inputs=tuple(inputs), attrs=raw))
    return Model(dataclasses.replace(model.graph, nodes=tuple(nodes), types=types), constants)


def _written(model: Model, registry: Mapping[str, OpDef], types: dict[str, TensorType]) -> Iterator[Node]:
    """The typed nodes of the file; the types of tensors that are new are added to `types`."""
    for node in model.graph.nodes:
        parts, inner = op_of(node, registry).written(node, types)
        types.update(inner)
        yield from parts


def op_of(node: Node, registry: Mapping[str, OpDef]) -> OpDef:
    """The record of a node's operator; that of the host for a node bound to it.

    Raises:
      UnsupportedOpError: there is none.
    """
    if isinstance(node.attrs, HostAttrs):
        return HOST
    key = node.op_type if not node.domain else f"{node.domain}::{node.op_type}"
    if key not in registry and node.domain and not onnx.defs.has(node.op_type):
        key = node.op_type  # a custom operator may be registered by its bare name, unless a standard one has it too
    if key not in registry:
        domain = f"domain '{node.domain}'" if node.domain else "the standard domain"
        raise UnsupportedOpError(
            f"operator {node.op_type} of {domain} has no rule",
            where=f"node {node.name}",
            fix=f'write an OpDef for it and pass ops={{**REGISTRY, "{key}": MY_OP}}, or replace it in the model',
        )
    op = registry[key]
    return op if op.to_float_among is None else dataclasses.replace(op, to_float=op.to_float_among(registry))


def check_complete(node: Node, made: int) -> None:
    """Raises UnsupportedOpError if a node wants more outputs than its float rule makes."""
    if missing := [name for name in node.outputs[made:] if name]:
        fix = "leave that output out of the model"
        what = f"the rule of {node.op_type} does not make output '{missing[0]}'"
        raise UnsupportedOpError(what, where=f"node {node.name}", fix=fix)


def output_types(
    op: OpDef, node: Node, types: Mapping[str, TensorType], constants: Mapping[str, np.ndarray]
) -> tuple[TensorType | None, ...]:
    """Types of a typed node's outputs, by abstract evaluation of its float rule; None where one is not wanted.

    Raises:
      ModelError: the rule does not accept the shapes.
      UnsupportedOpError: a shape depends on the data.
    """
    if isinstance(node.attrs, HostAttrs):
        return node.attrs.makes
    inputs = tuple(types[t] if t else None for t in node.inputs)
    try:
        try:
            return _abstract(op.to_float, node.attrs, inputs)
        except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
            arrays = tuple(constants.get(t) if t else None for t in node.inputs)  # its shape depends on a constant
            return _evaluated(op.to_float, node.attrs, inputs, arrays)
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        what = f"the shape of an output of {node.op_type} depends on the data"
        fix = "make its inputs constants, or cut the model before this node"
        raise UnsupportedOpError(what, where=f"node {node.name}", fix=fix) from error
    except (TypeError, ValueError, IndexError, AssertionError) as error:
        shapes = ", ".join(f"{t}: {types[t].shape}" for t in node.inputs if t)
        said = " ".join(str(error).split())[:300]
        fix = "check the input shapes given; the model runs nowhere with these"
        raise ModelError(
            f"{node.op_type} does not accept ({shapes}): {said}", where=f"node {node.name}", fix=fix
        ) from error


def _abstract(
    to_float: Callable[..., Any], attrs: Any, inputs: tuple[TensorType | None, ...]
) -> tuple[TensorType, ...]:
    try:
        hash(attrs)
    except TypeError:
        return _evaluated(to_float, attrs, inputs, (None,) * len(inputs))
    return _abstract_cached(to_float, attrs, inputs)


@lru_cache(maxsize=4096)
def _abstract_cached(
    to_float: Callable[..., Any], attrs: Any, inputs: tuple[TensorType | None, ...]
) -> tuple[TensorType, ...]:
    return _evaluated(to_float, attrs, inputs, (None,) * len(inputs))


def _evaluated(
    to_float: Callable[..., Any],
    attrs: Any,
    inputs: Sequence[TensorType | None],
    arrays: Sequence[np.ndarray | None],
) -> tuple[TensorType, ...]:
    """Output types for inputs of these types, some of which have known values."""
    free = [i for i, (held, array) in enumerate(zip(inputs, arrays, strict=True)) if held is not None and array is None]

    def call(*given: Any) -> Any:
        full: list[Any] = list(arrays)
        for i, value in zip(free, given, strict=True):
            full[i] = value
        return to_float(attrs, *full)

    held = [inputs[i] for i in free]
    structs = [(h.shape, np.dtype(h.dtype)) for h in held if h is not None]
    with jax.enable_x64(True):  # as ONNX counts: indices and shapes have 64 bits
        out = jax.eval_shape(call, *(jax.ShapeDtypeStruct(*s) for s in structs))
    many = out if isinstance(out, tuple | list) else (out,)
    return tuple(TensorType(np.dtype(o.dtype).name, tuple(o.shape)) for o in many)


def _absorbed(node: Node, op: OpDef, constants: Mapping[str, np.ndarray]) -> Node:
    """The node with its static inputs as attributes; inputs behind a gap keep their place."""
    attrs, inputs = dict(node.attrs), list(node.inputs)
    for index, field in op.static_inputs:
        if index >= len(inputs) or not inputs[index]:
            continue
        array = constants.get(inputs[index])
        if array is None:
            what = f"input {index} ({field}) of {node.op_type} is computed by the model, but must be a constant"
            fix = "state all input shapes (--input-shape); if that is not enough, export the model with fixed shapes"
            raise ModelError(what, where=f"node {node.name}", fix=fix)
        attrs[field] = array.item() if array.ndim == 0 else tuple(array.ravel().tolist())
        inputs[index] = ""
    while inputs and not inputs[-1]:
        inputs.pop()
    return dataclasses.replace(node, attrs=attrs, inputs=tuple(inputs))


def _typed(node: Node, op: OpDef) -> Any:
    """The operator's dataclass from a dict of attributes."""
    hints = _hints(op.attrs)
    own = {f.name: f.default for f in dataclasses.fields(op.attrs)}
    unknown = sorted(set(node.attrs) - set(hints))
    if unknown:
        fix = f"{node.op_type} knows {', '.join(hints) or 'no attributes'}; remove it, or extend the OpDef"
        raise ModelError(f"unknown attribute '{unknown[0]}' of {node.op_type}", where=f"node {node.name}", fix=fix)
    schema = _schema(node.op_type, node.domain)
    static = {field for _, field in op.static_inputs}
    values = {}
    for field, hint in hints.items():
        if field in node.attrs:
            values[field] = _coerced(node.attrs[field], hint)
        elif schema is not None and field in schema.attributes and field not in static:
            default = _default(schema.attributes[field])
            if default is not None and not _same(default, own[field]):
                values[field] = _coerced(default, hint)
    return op.attrs(**values)


def _default(declared: onnx.defs.OpSchema.Attribute) -> Any:
    """The value ONNX gives an attribute that is absent; None if there is none."""
    if declared.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    value = value.decode() if isinstance(value, bytes) else value
    return tuple(value) if isinstance(value, list) else value


def _same(a: Any, b: Any) -> bool:
    """Equality as a file sees it, where numbers are float32."""
    return np.float32(a) == np.float32(b) if isinstance(a, float) and isinstance(b, float) else a == b


@cache
def _hints(attrs: type) -> dict[str, Any]:
    resolved = typing.get_type_hints(attrs)
    return {f.name: resolved[f.name] for f in dataclasses.fields(attrs)}


def _coerced(value: Any, hint: Any) -> Any:
    """The value in the Python type its field is declared with."""
    union = typing.get_origin(hint) in (typing.Union, python_types.UnionType)
    kinds = [typing.get_origin(h) or h for h in (typing.get_args(hint) if union else (hint,))]
    if isinstance(value, np.ndarray) and np.ndarray not in kinds and Any not in kinds:
        value = value.item() if value.ndim == 0 else tuple(value.ravel().tolist())
    if isinstance(value, tuple) and tuple not in kinds and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and tuple in kinds and not {int, float, bool} & set(kinds):
        value = (value,)
    if isinstance(value, int) and bool in kinds and int not in kinds:
        return bool(value)
    if isinstance(value, int) and float in kinds and int not in kinds:
        return float(value)
    return value


def _schema(op_type: str, domain: str) -> onnx.defs.OpSchema | None:
    """Schema of an operator in the form that is written; None for a custom one."""
    if domain or not onnx.defs.has(op_type):
        return None
    known = onnx.defs.has(op_type, WRITTEN_OPSET, "")
    return onnx.defs.get_schema(op_type, WRITTEN_OPSET) if known else onnx.defs.get_schema(op_type)


def _is_written(field: str, value: Any, absent: Any, schema: onnx.defs.OpSchema | None) -> bool:
    """Whether an attribute says anything: known to the schema, present, and not what its absence means."""
    if value is None:
        return False
    if schema is None:
        return True
    declared = schema.attributes.get(field)
    if declared is None:
        return False
    if declared.required or isinstance(value, np.ndarray):
        return True
    default = _default(declared)
    return value != () and not _same(value, absent if default is None else default)


def _input_array(
    node: Node, field: str, value: Any, first: str | None, declared: onnx.defs.OpSchema.FormalParameter | None
) -> np.ndarray:
    """A static input as ONNX wants it: of the first input's type where they share one, else int64, float32 or bool."""
    array = np.asarray(value)
    dtype = {"f": "float32", "b": "bool"}.get(array.dtype.kind if array.size else "i", "int64")
    if declared is not None and f"tensor({_ONNX_NAMES[dtype]})" not in declared.types:
        dtype = next((d for d, name in _ONNX_NAMES.items() if f"tensor({name})" in declared.types), dtype)
    schema = _schema(node.op_type, node.domain)
    if first and declared is not None and schema is not None and declared.type_str == schema.inputs[0].type_str:
        dtype = first
    array = array.astype(dtype)
    return array.reshape(1) if (node.op_type, field) in _VECTORS else array


def _fresh(stem: str, taken: Mapping[str, object]) -> str:
    name, count = stem, 1
    while name in taken:
        name, count = f"{stem}_{count}", count + 1
    return name
