"""ONNX models as they are read, changed and written before they become graphs of ours."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from knerex_jax.data.shapes import Shape
from knerex_jax.errors import ModelError
from knerex_jax.files import writable_folder, write_atomic
from knerex_jax.graph.ir import TensorType
from knerex_jax.graph.simplify import fix_inputs, load_proto
from knerex_jax.graph.tensors import element_type, static_shape
from knerex_jax.suggest import nearest

OnnxModel = str | Path | onnx.ModelProto
"""A model: the path of its file, or what that holds."""

_LARGEST = 2**31 - 1  # bytes that protobuf can serialise


def name_of(model: OnnxModel) -> str:
    """What messages call it."""
    return "the loaded model" if isinstance(model, onnx.ModelProto) else str(model)


def proto_of(model: OnnxModel, *, weights: bool = False) -> onnx.ModelProto:
    """A copy that may be changed; of a file, weights in other files stay there unless `weights` are wanted.

    Raises:
      ModelError: there is no such file, or it is not an ONNX model.
    """
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        return proto
    proto = load_proto(model)
    return with_weights(proto, model) if weights else proto


def with_weights(proto: onnx.ModelProto, model: OnnxModel) -> onnx.ModelProto:
    """The same with the weights that `model` has in other files read into it, in place.

    Raises:
      ModelError: such a file is missing.
    """
    if not isinstance(model, onnx.ModelProto):
        try:
            onnx.load_external_data_for_model(proto, str(Path(model).resolve().parent))
        except (OSError, onnx.checker.ValidationError) as e:
            fix = "put the file of the weights beside the model: it belongs to it"
            raise ModelError(f"cannot read the weights: {e}", where=str(model), fix=fix) from e
    return proto


def input_names(proto: onnx.ModelProto) -> list[str]:
    """Names of the inputs that are not weights."""
    weights = {t.name for t in proto.graph.initializer}
    return [v.name for v in proto.graph.input if v.name not in weights]


def static_inputs(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, TensorType]:
    """Types of the inputs, open dimensions filled in: by `shapes`, a batch of 1.

    Raises:
      ModelError: a dimension that nobody states, an unknown input, or a contradiction.
    """
    names = input_names(proto)
    heads = onnx.ModelProto()
    heads.graph.input.extend(v for v in proto.graph.input if v.name in names)
    fix_inputs(heads, names, shapes)
    return {v.name: TensorType(element_type(v), static_shape(v) or ()) for v in heads.graph.input}


def overwrite_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> None:
    """Gives inputs other shapes, in place; shapes that followed from the old ones are forgotten.

    Raises:
      ModelError: there is no such input, or it has another number of axes.
    """
    held = {v.name: v for v in proto.graph.input if v.name in input_names(proto)}
    for name, shape in shapes.items():
        if name not in held:
            raise ModelError(f"the model has no input '{name}'", where="shapes", fix=nearest(name, held))
        kind = held[name].type.tensor_type
        if kind.HasField("shape") and len(kind.shape.dim) != len(shape):
            what = f"the shape {tuple(shape)} has {len(shape)} axes, the model's input {len(kind.shape.dim)}"
            raise ModelError(what, where=f"input '{name}'", fix=f"give {len(kind.shape.dim)} numbers, batch included")
        held[name].CopyFrom(onnx.helper.make_tensor_value_info(name, kind.elem_type, [n or None for n in shape]))
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the types and shapes that follow from the inputs.

    Raises:
      ModelError: they contradict one another.
    """
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as e:
        said = " ".join(str(e).split())[:300]
        fix = "give shapes that fit the model: sizes inside it (Reshape, Gemm) may be fixed"
        raise ModelError(f"shapes contradict one another: {said}", where="shapes", fix=fix) from e


def checked(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The same model, found valid; above 2 GiB it cannot be looked at.

    Raises:
      ModelError: it is not valid ONNX.
    """
    if proto.ByteSize() <= _LARGEST:
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as e:
            said = str(e).strip().splitlines()[0]
            if "No Op registered" not in said:  # operators of one's own have no schema
                raise ModelError(f"not valid ONNX: {said}", where=where, fix="export the model again") from e
    return proto


def save_proto(proto: onnx.ModelProto, path: str | Path) -> Path:
    """Writes a model whole or not at all; above 2 GiB its weights go to `<path>.data`.

    Raises:
      ArtifactError: the folder cannot be written.
    """
    path = Path(path)
    writable_folder(path.parent)
    if proto.ByteSize() <= _LARGEST:
        write_atomic(path, proto.SerializeToString())
        return path
    data = f"{path.name}.data"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx.save(proto_of(proto), Path(folder, path.name), save_as_external_data=True, location=data)
        for name in (data, path.name):
            os.replace(Path(folder, name), path.with_name(name))
    return path
