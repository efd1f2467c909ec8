"""Models of every kind under one face: a float ONNX, a fixed-point bie, a compiled nef."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from knerex_jax.artifacts.bie import MAGIC as BIE_MAGIC
from knerex_jax.data.sources import Source, open_source, stack_inputs
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType
from knerex_jax.nef.container import MAGIC as NEF_MAGIC
from knerex_jax.npu_model import NpuModel
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.runtime import DataType, FixedModel, FloatModel

Kind = Literal["float", "fixed", "nef"]
AnyModel = FloatModel | FixedModel | NpuModel


@dataclass(frozen=True)
class Runner:
    """A model that takes samples and gives its outputs, whatever computes them.

    Attributes:
      model: what runs.
      name: for messages and file names.
    """

    model: AnyModel
    name: str

    @property
    def kind(self) -> Kind:
        """What the model is."""
        match self.model:
            case FloatModel():
                return "float"
            case FixedModel():
                return "fixed"
            case NpuModel():
                return "nef"

    @property
    def inputs(self) -> dict[str, TensorType]:
        """Input -> element type and shape, batch axis of 1 included; coded inputs take float32."""
        match self.model:
            case FloatModel(model=model):
                return {t: model.graph.types[t] for t in model.graph.inputs}
            case FixedModel() as fixed:
                held, plain = fixed.program.shapes, fixed.program.exact
                return {
                    t: TensorType(plain[t].dtype if t in plain else "float32", held[t]) for t in fixed.program.inputs
                }
            case NpuModel(program=program):
                buffers = {p.name: program.buffers[p.buffer] for p in program.inputs}
                return {t: TensorType(b.dtype or "float32", b.shape) for t, b in buffers.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        match self.model:
            case FloatModel(model=model):
                return model.graph.outputs
            case FixedModel() as fixed:
                return fixed.program.outputs
            case NpuModel(program=program):
                return tuple(port.name for port in program.outputs)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Output -> shape, batch axis of 1 included."""
        match self.model:
            case FloatModel(model=model):
                return {t: model.graph.shape(t) for t in model.graph.outputs}
            case FixedModel(program=program):
                return {t: program.shapes[t] for t in program.outputs}
            case NpuModel(program=program):
                return {p.name: program.buffers[p.buffer].shape for p in program.outputs}

    @property
    def platform(self) -> str:
        """The platform it is made for; "" of a float model."""
        return "" if isinstance(self.model, FloatModel) else self.model.program.platform

    def run(
        self, inputs: Mapping[str, Any], data_type: DataType = "float", *, batch_size: int = 32
    ) -> dict[str, np.ndarray]:
        """Runs N samples: name -> [N, ...] in place of the model's batch axis, results likewise.

        Args:
          inputs: by input name.
          data_type: "float" for real numbers, "fixed" for codes (fixed and nef).
          batch_size: samples per compiled step; the simulator of a nef takes one after the other.

        Raises:
          ModelError: an input is missing, has the wrong shape, or holds NaN or infinity.
          ConfigError: codes of a float model.
        """
        self.check(data_type)
        match self.model:
            case FloatModel() as model:
                found = model.run(inputs, batch_size=batch_size)
            case FixedModel() as model:
                found = model.run(inputs, data_type, batch_size=batch_size)
            case NpuModel() as model:
                found = model.run(stack_inputs(inputs, self.inputs), data_type)
        return {t: found[t] for t in self.outputs}

    def spread(self, mesh: Mesh | None) -> "Runner":
        """The same model, a batch of which is shared by these devices; a nef runs on the host."""
        if mesh is None or isinstance(self.model, NpuModel):
            return self
        return replace(self, model=replace(self.model, mesh=mesh))

    def over(self, source: Source, data_type: DataType = "float", *, batch_size: int = 16) -> Iterator[dict[str, Any]]:
        """Runs a source of samples batch by batch, in constant memory; one shape is compiled.

        Yields:
          Name -> [b, ...]; the last b may be smaller.
        """
        for number, batch in enumerate(source.batches(batch_size)):
            yield self.run_padded(batch, batch_size if number else 1, data_type)

    def run_padded(self, batch: Mapping[str, Any], size: int, data_type: DataType = "float") -> dict[str, np.ndarray]:
        """`run` on a batch that is filled up to at least `size` samples, so that one shape is compiled for all."""
        count = len(next(iter(batch.values())))
        if count < size and self.kind != "nef":
            batch = {t: v[np.minimum(np.arange(size), count - 1)] for t, v in batch.items()}
        return {t: v[:count] for t, v in self.run(batch, data_type, batch_size=max(size, count)).items()}

    def check(self, data_type: str) -> None:
        """Raises ConfigError where the model has no results of that type."""
        if data_type not in ("float", "fixed"):
            raise ConfigError(f"unknown data_type {data_type!r}", where="data_type", fix="use 'float' or 'fixed'")
        if data_type == "fixed" and self.kind == "float":
            raise ConfigError("a float ONNX has no codes", where=self.name, fix="pass a bie or nef, or ask for floats")


def open_runner(
    model: AnyModel | str | Path,
    *,
    model_id: int | None = None,
    key: bytes | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ops: Mapping[str, OpDef] = REGISTRY,
) -> Runner:
    """A model, or the file that holds it: an ONNX is float, whatever it carries in its metadata.

    Args:
      model: a model, or the path of an ONNX, a bie or a nef.
      model_id: which model of a nef that holds several.
      key: opens an encrypted nef.
      input_shapes: of an ONNX with dynamic inputs.
      ops: operator records, for an ONNX.

    Raises:
      ModelError: there is no such file, or it is no model.
      ArtifactError: a bie or nef cannot be trusted.
      UnsupportedOpError: an operator of the ONNX has no rule.
    """
    match model:
        case FloatModel():
            return Runner(model, model.model.graph.name)
        case FixedModel() | NpuModel():
            return Runner(model, model.program.name)
    path = Path(model).expanduser()
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as e:
        raise ModelError(f"cannot read the model: {e.strerror}", where=str(path), fix="check the path") from e
    if start.startswith(BIE_MAGIC) or path.suffix == ".bie":
        return Runner(FixedModel.load(path), path.stem)
    if start.startswith(NEF_MAGIC) or path.suffix == ".nef":
        return Runner(NpuModel.load(path, model_id=model_id, key=key), path.stem)
    return Runner(FloatModel.load(path, input_shapes=input_shapes, ops=ops), path.stem)


def load_samples(
    data: Any,
    model: AnyModel | str | Path,
    *,
    count: int | None = None,
    preprocess: Any = None,
    layout: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """Data in any form that calibration takes, as the arrays that `run` takes: a folder of images, for example.

    Args:
      data: see `run_ptq`, np_txt.
      model: whose inputs they are for; or the path of an ONNX, a bie or a nef.
      count: the first so many; None for all.
      preprocess: for images: a preset, or a `Preprocess`.
      layout: "NCHW" or "NHWC", of arrays where it is ambiguous.
      input_shapes: of an ONNX with dynamic inputs.

    Returns:
      Input -> [N, ...] in place of the model's batch axis.

    Raises:
      ModelError: model or data cannot be read, or do not fit each other.
      ConfigError: images without preprocessing.
    """
    inputs = open_runner(model, input_shapes=input_shapes).inputs
    return open_source(data, inputs, preprocess=preprocess, layout=layout).arrays(count)
