"""The real models of the tests, under one face; their stage files on ONNX Runtime; the independent oracle on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from helpers import relative_error
from oracle import compare, run_oracle

from knerex_jax import embedded
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.quantize.plan import QuantPlan
from knerex_jax.quantize.planner import Planned
from knerex_jax.runtime import FixedModel
from knerex_jax.zoo import ZOO

Arrays = Mapping[str, np.ndarray]
"""Name -> [N, ...], N samples in place of the batch axis."""


@dataclass(frozen=True)
class RealModel:
    """A model file with its data, which is made when it is asked for.

    Attributes:
      path: of the float ONNX file.
      input_shapes: what has to be stated when it is loaded; empty where the file leaves only the batch open.
      calibration: count (None: the model's default) -> arrays.
      evaluation: count (None: all) -> arrays that calibration never sees, and labels.
      metrics: (outputs, outputs of the float model, labels) -> measures.
    """

    path: Path
    input_shapes: Mapping[str, tuple[int, ...]]
    calibration: Callable[[int | None], Arrays]
    evaluation: Callable[[int | None], tuple[Arrays, np.ndarray | None]]
    metrics: Callable[..., dict[str, float]]


def _embedded() -> RealModel:
    def evaluation(count: int | None) -> tuple[Arrays, np.ndarray]:
        inputs, labels = embedded.evaluation()
        return first(inputs, count), labels[:count]

    def metrics(outputs: Arrays, reference: Arrays, labels: np.ndarray) -> dict[str, float]:
        chosen, expected = (next(iter(o.values())).argmax(axis=1) for o in (outputs, reference))
        return {"top1": float((chosen == labels).mean()), "agreement": float((chosen == expected).mean())}

    path = Path(embedded.model_path())
    return RealModel(path, {}, lambda count: first(embedded.calibration(), count), evaluation, metrics)


def _zoo(name: str) -> RealModel:
    model = ZOO[name]

    def evaluation(count: int | None) -> tuple[Arrays, np.ndarray | None]:
        data = model.evaluation(count)
        return data.inputs, data.labels

    return RealModel(model.path(), model.input_shapes or {}, model.calibration, evaluation, model.metrics)


REAL_MODELS: dict[str, Callable[[], RealModel]] = {"embedded": _embedded, **{name: partial(_zoo, name) for name in ZOO}}


def first(arrays: Arrays, count: int | None) -> dict[str, np.ndarray]:
    """The first samples; all for None."""
    return {name: array[:count] for name, array in arrays.items()}


def ort_run(model: onnx.ModelProto | Path, inputs: Arrays) -> dict[str, np.ndarray]:
    """Outputs of ONNX Runtime, sample by sample: name -> [N, ...]."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options)
    names = [o.name for o in session.get_outputs()]
    count = len(next(iter(inputs.values())))
    rows = [session.run(None, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def stage_error(
    reference: Arrays, stage: onnx.ModelProto | Path, inputs: Arrays, plan: QuantPlan | None = None
) -> float:
    """How far a stage is from the model on ONNX Runtime: largest error relative to the range of its output.

    Args:
      reference: what the model itself gives for the inputs.
      stage: the same function in another form.
      inputs: what both read.
      plan: of the scaled stage, whose outputs carry a scale each; integers carry none.
    """
    outputs = ort_run(stage, inputs)
    scales = {} if plan is None else {name: f.scale for name, f in plan.formats.items()}
    return max(relative_error(value, outputs[name] / scales.get(name, 1)) for name, value in reference.items())


def oracle_result(planned: Planned, inputs: Arrays) -> Any:
    """What the oracle makes of the decomposed ONNX (weights and biases refined, where they are) and the plan."""
    proto = to_proto(unbind(planned.refined, REGISTRY))
    return run_oracle(onnx.ModelProto.FromString(proto.SerializeToString()), planned.plan.to_json(), dict(inputs))


def every_tensor(fixed: FixedModel, inputs: Arrays) -> dict[str, np.ndarray]:
    """What the emulator holds for every tensor of the program: codes, or the elements of a plain tensor."""
    return fixed.run(inputs, "fixed", taps=tuple(fixed.program.shapes))


def oracle_mismatches(planned: Planned, fixed: FixedModel, inputs: Arrays) -> list[str]:
    """Tensors, coded and plain, in which emulator and oracle differ or that only one has; empty when all are equal."""
    return unlike_oracle(planned, every_tensor(fixed, inputs), inputs)


def unlike_oracle(planned: Planned, held: Arrays, inputs: Arrays) -> list[str]:
    """`oracle_mismatches` of what an emulator holds, `every_tensor`."""
    result = oracle_result(planned, inputs)
    return compare(held, {**result.codes, **result.plain})
