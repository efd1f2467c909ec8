"""Sessions of ONNX Runtime, and what it raises of models that it cannot run."""

from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)

REFUSALS = (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
    RuntimeError,
)
"""What it raises of models that it cannot run."""

KEEPS_INT8 = "session.qdqisint8allowed"
"""Option of a session: "1" keeps int8 codes where x86 would get uint8, a rewriting that fails for some models."""


def open_session(model: bytes | str | Path, *, keep_int8: bool = False) -> ort.InferenceSession:
    """A session on the CPU that prints nothing: what it has to say comes with its exceptions.

    Raises:
      one of REFUSALS.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if keep_int8:
        options.add_session_config_entry(KEEPS_INT8, "1")
    held = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(held, options, providers=["CPUExecutionProvider"])
