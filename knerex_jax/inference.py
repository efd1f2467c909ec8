"""The published inference call."""

from pathlib import Path

import numpy as np

from knerex_jax.errors import ConfigError
from knerex_jax.flow import Ops
from knerex_jax.npu_model import NpuModel
from knerex_jax.ops import REGISTRY
from knerex_jax.runtime import DataType, FixedModel, FloatModel


def kneron_inference(
    pre_results: list[np.ndarray],
    input_names: list[str],
    *,
    nef_file: str | Path = "",
    onnx_file: str | Path = "",
    bie_file: str | Path = "",
    model_id: int | None = None,
    data_type: DataType = "float",
    reordering: list[str] | None = None,
    ops: Ops = REGISTRY,
) -> list[np.ndarray]:
    """The published inference call; of several files, the nef runs before the ONNX, and that before the bie.

    Args:
      pre_results: one array per input, in the ONNX input's shape.
      input_names: their names, in the same order.
      nef_file: a compiled model, in the simulator.
      onnx_file: a float model.
      bie_file: a fixed-point model.
      model_id: which model of the nef, where it holds several.
      data_type: "float", or "fixed" for raw codes (nef and bie).
      reordering: output names in the wanted order; default the model's.
      ops: operator records for an ONNX; a bie needs none.

    Returns:
      One array per output, in the ONNX output's shape.
    """
    if len(pre_results) != len(input_names):
        raise ConfigError(
            f"{len(pre_results)} arrays for {len(input_names)} names", where="pre_results, input_names",
            fix="give one array per input, in the order of input_names",
        )  # fmt: skip
    if not (nef_file or onnx_file or bie_file):
        raise ConfigError("no model to run", where="nef_file, onnx_file, bie_file", fix="give one of them")
    inputs = dict(zip(input_names, pre_results, strict=True))
    if nef_file:
        compiled = NpuModel.load(nef_file, model_id=model_id)
        outputs, order = compiled.run(inputs, data_type), [port.name for port in compiled.program.outputs]
    elif onnx_file:
        if data_type != "float":
            raise ConfigError(
                "a float ONNX has no codes", where=f"data_type={data_type!r}", fix="pass bie_file, or data_type='float'"
            )
        model = FloatModel.load(onnx_file, ops=ops)
        outputs, order = model.run(inputs), model.model.graph.outputs
    else:
        fixed = FixedModel.load(bie_file)
        outputs, order = fixed.run(inputs, data_type), fixed.program.outputs
    names = reordering or order  # an output may be named twice
    for name in names:
        if name not in outputs:
            raise ConfigError(f"no output {name!r}", where="reordering", fix=f"the outputs are {', '.join(outputs)}")
    return [outputs[name] for name in names]
