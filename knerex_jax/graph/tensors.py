"""ONNX tensors as numpy arrays, external files included; half precision becomes float32 on the way in."""

from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import numpy_helper

from knerex_jax.errors import ModelError

FLOAT = int(onnx.TensorProto.FLOAT)
HALVES = (int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16))

_SUB_BYTE = {
    code: 8 // bits
    for bits, names in ((4, ("INT4", "UINT4", "FLOAT4E2M1")), (2, ("INT2", "UINT2")))
    for code in (getattr(onnx.TensorProto, name, None) for name in names)
    if code is not None
}
"""Element types that share a byte -> how many do."""


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the values lie in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Size of the values as an array, without looking at them (strings: 0)."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    return int(np.prod(tensor.dims, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor in float32 if it is of half precision, else the very same."""
    return numpy_helper.from_array(array_of(tensor, Path()), tensor.name) if tensor.data_type in HALVES else tensor


def array_of(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """The values as an array; an external tensor is read from disk straight into it.

    Raises:
      ModelError: the external file is missing, too short, or lies outside the model's folder.
    """
    try:
        array = _external(tensor, folder) if is_external(tensor) else numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        fix = "export or download the model again"
        raise ModelError(f"damaged weights: {error}", where=f"initializer '{tensor.name}'", fix=fix) from error
    return array.astype(np.float32) if tensor.data_type in HALVES else array


def _external(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    where = f"initializer '{tensor.name}'"
    entries = {e.key: e.value for e in tensor.external_data}
    location = PurePosixPath(entries.get("location", "").replace("\\", "/"))
    if not location.parts or location.is_absolute() or ".." in location.parts or ":" in location.parts[0]:
        fix = "store the weights beside the model, for example with onnx.save(..., save_as_external_data=True)"
        raise ModelError(f"weights outside the model's folder: '{location}'", where=where, fix=fix)
    path = folder / location
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = int(np.prod(tensor.dims, dtype=np.int64))
    offset = int(entries.get("offset", 0))
    together = _SUB_BYTE.get(tensor.data_type)
    try:
        if together is None:
            array = np.fromfile(path, dtype, count, offset=offset)
        else:
            array = np.fromfile(path, np.uint8, -(-count // together), offset=offset)
    except OSError as error:
        fix = f"put the file '{location}' beside the model: it belongs to it"
        raise ModelError(f"cannot read the weights: {error.strerror}", where=f"{where}, {path}", fix=fix) from error
    if array.size < (count if together is None else -(-count // together)):
        fix = "export or download the model and this file again"
        raise ModelError(f"the file of the weights is too short: {path}", where=where, fix=fix)
    if together is None:
        return array.reshape(tuple(tensor.dims))
    packed = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=array.tobytes())
    return numpy_helper.to_array(packed)


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The shape if every dimension is a number, else None."""
    held = value.type.tensor_type
    if not held.HasField("shape") or not all(d.HasField("dim_value") for d in held.shape.dim):
        return None
    return tuple(int(d.dim_value) for d in held.shape.dim)


def element_type(value: onnx.ValueInfoProto) -> str:
    """Name of the element type as numpy spells it."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name
