"""Two ONNX models, run on ONNX Runtime on the same inputs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from knerex_jax.data.samples import sample_dtype
from knerex_jax.data.shapes import Shape, shapes_from_data
from knerex_jax.data.sources import Sample, open_source
from knerex_jax.errors import ConfigError, ModelError
from knerex_jax.graph.ir import TensorType
from knerex_jax.graph.read import declared_shapes
from knerex_jax.metrics import snr_db
from knerex_jax.ort_session import REFUSALS, open_session
from knerex_jax.prepare.protos import OnnxModel, proto_of, static_inputs

TOLERANCE = 1e-4
"""Largest difference, relative to the largest magnitude of the output, at which two float outputs are alike."""

RANDOM_SAMPLES = 3
"""How many random inputs are compared by default."""

FIRST = "the first model"
"""What errors call a first model that has no path."""


@dataclass(frozen=True)
class OutputDifference:
    """How far an output of two models is apart.

    Attributes:
      name: of the output (in the first model).
      shape: of one sample.
      max_abs: largest absolute difference.
      relative: that, divided by the largest magnitude of the first model's output.
      snr_db: of the second model's output, pooled over all samples, in dB.
      alike: whether `relative` is within the tolerance; integers and booleans have to be equal.
    """

    name: str
    shape: Shape
    max_abs: float
    relative: float
    snr_db: float
    alike: bool


@dataclass(frozen=True)
class Comparison:
    """What two models give for the same inputs.

    Attributes:
      outputs: in the first model's order.
      samples: how many inputs were compared.
      tolerance: relative to the largest magnitude of each output.
    """

    outputs: tuple[OutputDifference, ...]
    samples: int
    tolerance: float

    @property
    def alike(self) -> bool:
        """Whether all outputs are."""
        return all(o.alike for o in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinite dB (equal outputs) as text."""
        rows = [asdict(o) | {"snr_db": o.snr_db if np.isfinite(o.snr_db) else str(o.snr_db)} for o in self.outputs]
        return {"alike": self.alike, "samples": self.samples, "tolerance": self.tolerance, "outputs": rows}


def compare_onnx(
    first: OnnxModel,
    second: OnnxModel,
    data: Any = None,
    *,
    samples: int | None = None,
    tolerance: float = TOLERANCE,
    input_shapes: Mapping[str, Shape] | None = None,
    preprocess: Any = None,
    layout: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Runs two models on ONNX Runtime and compares their outputs, by name, or by place where all names differ.

    Args:
      first: the reference.
      second: must have the same inputs, and as many outputs.
      data: inputs in any form `run_ptq` takes ; None for random ones: normal floats, integers 0 and 1.
      samples: how many; default all data, or 3 random ones.
      tolerance: relative to the largest magnitude of an output.
      input_shapes: for dimensions that the models leave open, where the data do not state them.
      preprocess: for images, as for calibration.
      layout: of arrays where it is ambiguous.
      seed: of the random inputs.

    Raises:
      ModelError: a model cannot be read or run, inputs or outputs do not correspond, or data do not fit.
      ConfigError: no samples.
    """
    if samples is not None and samples < 1:
        raise ConfigError(f"{samples} samples", where="samples", fix="compare one sample at least")
    heads = [proto_of(first), proto_of(second)]  # both can be read, before anything runs
    types = static_inputs(
        heads[0], {**shapes_from_data(declared_shapes(heads[0]), data, layout), **(input_shapes or {})}
    )
    runners = [_Runner.of(first, FIRST), _Runner.of(second, "the second model")]
    names = _corresponding(runners, set(types))
    if data is None:
        given = _random(types, samples or RANDOM_SAMPLES, seed)
    else:
        batches = open_source(data, types, preprocess=preprocess, layout=layout).batches(1)
        given = itertools.islice(batches, samples)
    made = [[runner.run(inputs, types) for runner in runners] for inputs in given]
    rows = []
    for a, b in names:
        x, y = (np.stack([m[k][t] for m in made]) for k, t in enumerate((a, b)))
        rows.append(_difference(a, x, y, tolerance))
    return Comparison(tuple(rows), len(made), tolerance)


@dataclass(frozen=True)
class _Runner:
    """A model in ONNX Runtime."""

    name: str
    session: ort.InferenceSession

    @classmethod
    def of(cls, model: OnnxModel, place: str) -> "_Runner":
        """A session; `place` names a model without a path."""
        loaded = isinstance(model, onnx.ModelProto)
        held, name = (model.SerializeToString(), place) if loaded else (str(model), str(model))
        try:
            return cls(name, open_session(held))
        except REFUSALS as e:
            raise _refused(e, name) from e

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.session.get_outputs()]

    def run(self, inputs: Sample, types: Mapping[str, TensorType]) -> dict[str, np.ndarray]:
        """One inference; values take the element type that this model wants (half precision, say)."""
        kinds = {i.name: i.type for i in self.session.get_inputs()}
        feed = {
            t: v.reshape(types[t].shape).astype(_NUMPY.get(kinds[t], v.dtype)) for t, v in inputs.items() if t in kinds
        }
        try:
            return dict(zip(self.outputs, map(np.asarray, self.session.run(None, feed)), strict=True))
        except REFUSALS as e:
            raise _refused(e, self.name) from e


_NUMPY = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(float)": np.float32}


def _refused(error: Exception, name: str) -> ModelError:
    said = " ".join(str(error).split())[:300]
    return ModelError(f"ONNX Runtime cannot run the model: {said}", where=name, fix="check it with knerex check")


def _corresponding(runners: Sequence[_Runner], inputs: set[str]) -> list[tuple[str, str]]:
    """Pairs of outputs; the second model must not want inputs that the first does not have."""
    first, second = runners
    extra = [i.name for i in second.session.get_inputs() if i.name not in inputs]
    if extra:
        fix = f"compare models with the same inputs: {', '.join(sorted(inputs))}"
        raise ModelError(f"the first model has no input '{extra[0]}'", where=second.name, fix=fix)
    a, b = first.outputs, second.outputs
    if set(a) == set(b):
        return [(t, t) for t in a]
    if len(a) != len(b) or set(a) & set(b):
        fix = "compare models with the same outputs; knerex edit --rename gives them other names"
        raise ModelError(f"the outputs differ: {', '.join(a)}; {', '.join(b)}", where=second.name, fix=fix)
    return list(zip(a, b, strict=True))


def _random(types: Mapping[str, TensorType], count: int, seed: int) -> Iterator[Sample]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            t: (rng.normal(size=ty.shape) if ty.real else rng.integers(0, 2, ty.shape)).astype(sample_dtype(ty.dtype))
            for t, ty in types.items()
        }


def _difference(name: str, a: np.ndarray, b: np.ndarray, tolerance: float) -> OutputDifference:
    """Of one output, [samples, ...] each. Equal infinities, and NaN where both have it, are no difference."""
    if a.shape != b.shape:
        fix = "compare models of the same shapes"
        raise ModelError(f"its shapes differ: {a.shape[1:]} and {b.shape[1:]}", where=f"output '{name}'", fix=fix)
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    finite = np.isfinite(x)
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.abs(x - y))
    gap = float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max(initial=0.0))
    largest = float(np.abs(x[finite]).max(initial=0.0))
    relative = gap / largest if largest else (0.0 if gap == 0 else float("inf"))
    alike = relative <= tolerance if a.dtype.kind == "f" else gap == 0
    reference = np.where(finite, x, 0.0)
    snr = snr_db(reference, np.where(same, reference, y))
    return OutputDifference(name, a.shape[1:], gap, relative, snr, bool(alike))
