"""Element types as ONNX numbers them, and what this process of jax can hold of them."""

from typing import Any

import jax
import numpy as np
import onnx

from knerex_jax.errors import UnsupportedOpError

_WITHOUT_RULES = ("object", "str", "float8", "float4", "int2", "uint2", "int4", "uint4")


def numpy_type(code: int) -> np.dtype:
    """The numpy type of an ONNX element type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))


def check_ordinary(*dtypes: Any) -> None:
    """Raises UnsupportedOpError unless all are numbers of 8 bits or more, of which floats have 16 or more."""
    for dtype in dtypes:
        if (name := np.dtype(dtype).name).startswith(_WITHOUT_RULES):
            fix = "use integers, or floats of at least 16 bits"
            raise UnsupportedOpError(f"{name} has no float rule", where="an element type", fix=fix)


def held(dtype: Any) -> np.dtype:
    """The type in which jax holds it: 64 bits only where the caller has enabled them."""
    return jax.dtypes.canonicalize_dtype(dtype)


def int64() -> np.dtype:
    """The type of ONNX's indices and sizes."""
    return held(np.int64)
