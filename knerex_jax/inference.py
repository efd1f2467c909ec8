"""The published inference call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knerex_jax.data.shapes import Shape
from knerex_jax.errors import ConfigError
from knerex_jax.flow import Ops
from knerex_jax.npu_model import NpuModel
from knerex_jax.ops import REGISTRY
from knerex_jax.runtime import DataType, FixedModel, FloatModel


@dataclass(frozen=True)
class Runnable:
    """A model of any of the three kinds.

    Attributes:
      run: (inputs, data type) -> outputs, N samples in place of the batch axis.
      inputs: name -> shape of the model's input, batch axis included.
      outputs: name -> the same of its outputs, in order (one may be named twice: `order`).
      order: names of the outputs.
      platform: that it is made for; "" of a float model.
    """

    run: Callable[[Mapping[str, np.ndarray], DataType], dict[str, np.ndarray]]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    order: Sequence[str]
    platform: str = ""


def load_runnable(
    nef_file: str | Path, onnx_file: str | Path, bie_file: str | Path, model_id: int | None, ops: Ops = REGISTRY
) -> Runnable:
    """Loads the first of nef, ONNX and bie that is given ("": not).

    Raises:
      ConfigError: none is.
      KnerexError: it cannot be read.
    """
    if nef_file:
        npu = NpuModel.load(nef_file, model_id=model_id)
        program, shape = npu.program, lambda port: npu.program.buffers[port.buffer].shape
        inputs, outputs = ({p.name: shape(p) for p in side} for side in (program.inputs, program.outputs))
        return Runnable(npu.run, inputs, outputs, [p.name for p in program.outputs], program.platform)
    if onnx_file:
        model = FloatModel.load(onnx_file, ops=ops)
        graph = model.model.graph
        inputs, outputs = ({t: graph.shape(t) for t in side} for side in (graph.inputs, graph.outputs))
        return Runnable(lambda values, _: model.run(values), inputs, outputs, graph.outputs)
    if bie_file:
        fixed = FixedModel.load(bie_file)
        program = fixed.program
        inputs, outputs = ({t: program.shapes[t] for t in side} for side in (program.inputs, program.outputs))
        return Runnable(fixed.run, inputs, outputs, program.outputs, program.platform)
    raise ConfigError("no model to run", where="nef_file, onnx_file, bie_file", fix="give one of them")


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
      pre_results: one array per input, in the ONNX input's shape; or all with N samples in place of its batch axis.
      input_names: their names, in the same order.
      nef_file: a compiled model, in the simulator.
      onnx_file: a float model.
      bie_file: a fixed-point model.
      model_id: which model of the nef, where it holds several.
      data_type: "float", or "fixed" for raw codes (nef and bie).
      reordering: output names in the wanted order; default the model's.
      ops: operator records for an ONNX; a bie needs none.

    Returns:
      One array per output, in the ONNX output's shape; for N samples with these in place of its batch axis, or before
      the shape of an output without one.

    Raises:
      ConfigError: names and arrays do not correspond, no model is given, or an output does not exist.
      KnerexError: the model cannot be read, or does not take these arrays.
    """
    model = load_runnable(nef_file, onnx_file, bie_file, model_id, ops)
    return infer(model, pre_results, input_names, data_type, reordering)


def infer(
    model: Runnable,
    pre_results: Sequence[np.ndarray],
    input_names: Sequence[str],
    data_type: DataType = "float",
    reordering: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """What `kneron_inference` does with a loaded model."""
    if len(pre_results) != len(input_names):
        raise ConfigError(
            f"{len(pre_results)} arrays for {len(input_names)} names", where="pre_results, input_names",
            fix="give one array per input, in the order of input_names",
        )  # fmt: skip
    if data_type != "float" and not model.platform:
        fix = "pass bie_file, or data_type='float'"
        raise ConfigError("a float ONNX has no codes", where=f"data_type={data_type!r}", fix=fix)
    names = reordering or model.order
    for name in names:
        if name not in model.outputs:
            fix = f"the outputs are {', '.join(model.outputs)}"
            raise ConfigError(f"no output {name!r}", where="reordering", fix=fix)
    inputs = {t: np.asarray(a) for t, a in zip(input_names, pre_results, strict=True)}
    if any(a.shape != model.inputs.get(t) for t, a in inputs.items()):
        outputs = model.run(inputs, data_type)
        return [outputs[t] for t in names]
    outputs = model.run({t: a[None] for t, a in inputs.items()}, data_type)
    return [outputs[t].reshape(model.outputs[t]) for t in names]
