"""The published inference call."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knerex_jax.errors import ConfigError
from knerex_jax.flow import Ops
from knerex_jax.npu_model import NpuModel
from knerex_jax.ops import REGISTRY
from knerex_jax.runner import Runner
from knerex_jax.runtime import DataType, FixedModel, FloatModel


def load_first(
    nef_file: str | Path, onnx_file: str | Path, bie_file: str | Path, model_id: int | None, ops: Ops = REGISTRY
) -> Runner:
    """Loads the first of nef, ONNX and bie that is given ("": not).

    Raises:
      ConfigError: none is.
      KnerexError: it cannot be read, or is of another kind.
    """
    if nef_file:
        return Runner(NpuModel.load(nef_file, model_id=model_id), Path(nef_file).stem)
    if onnx_file:
        return Runner(FloatModel.load(onnx_file, ops=ops), Path(onnx_file).stem)
    if bie_file:
        return Runner(FixedModel.load(bie_file), Path(bie_file).stem)
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
    model = load_first(nef_file, onnx_file, bie_file, model_id, ops)
    return run_arrays(model, pre_results, input_names, data_type, reordering)


def run_arrays(
    model: Runner,
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
    model.check(data_type)
    shapes = model.output_shapes
    names = reordering or model.outputs  # an output may be named twice
    for name in names:
        if name not in shapes:
            fix = f"the outputs are {', '.join(shapes)}"
            raise ConfigError(f"no output {name!r}", where="reordering", fix=fix)
    inputs = {t: np.asarray(a) for t, a in zip(input_names, pre_results, strict=True)}
    taken = model.inputs
    if any(t not in taken or a.shape != taken[t].shape for t, a in inputs.items()):
        outputs = model.run(inputs, data_type)
        return [outputs[t] for t in names]
    outputs = model.run({t: a[None] for t, a in inputs.items()}, data_type)
    return [outputs[t].reshape(shapes[t]) for t in names]
