"""The real models of the tests, under one face, and their comparison with the independent oracle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from oracle import compare, run_oracle

from knerex_jax import embedded
from knerex_jax.graph.write import to_proto
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import unbind
from knerex_jax.quantize.planner import Planned
from knerex_jax.runtime import FixedModel
from knerex_jax.zoo import zoo_model


@dataclass(frozen=True)
class RealModel:
    """A model file with its calibration and evaluation data."""

    path: Path
    calibration: Mapping[str, np.ndarray]
    evaluation: tuple[Mapping[str, np.ndarray], np.ndarray | None]
    metrics: Callable[..., dict[str, float]]


def _embedded() -> RealModel:
    def metrics(outputs: Any, reference: Any, labels: Any) -> dict[str, float]:
        chosen, expected = (next(iter(o.values())).argmax(axis=1) for o in (outputs, reference))
        return {"top1": float((chosen == labels).mean()), "agreement": float((chosen == expected).mean())}

    return RealModel(Path(embedded.model_path()), embedded.calibration(), embedded.evaluation(), metrics)


def _zoo(name: str) -> Callable[[], RealModel]:
    def make() -> RealModel:
        model = zoo_model(name)
        data = model.evaluation()
        return RealModel(model.path(), model.calibration(), (data.inputs, data.labels), model.metrics)

    return make


REAL_MODELS: dict[str, Callable[[], RealModel]] = {
    "embedded": _embedded,
    **{name: _zoo(name) for name in ("A1", "A2", "A3_front", "A3_back", "A9")},
}


def oracle_codes(planned: Planned, inputs: Mapping[str, np.ndarray]) -> Any:
    """What the oracle makes of the decomposed ONNX and the plan."""
    proto = to_proto(unbind(planned.model, REGISTRY))
    return run_oracle(onnx.ModelProto.FromString(proto.SerializeToString()), planned.plan.to_json(), dict(inputs))


def oracle_mismatches(planned: Planned, fixed: FixedModel, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Tensors (and constants of weighted nodes) that differ between emulator and oracle; empty when all are equal."""
    result = oracle_codes(planned, inputs)
    codes = fixed.run(inputs, "fixed", taps=tuple(t for t, _ in planned.program.tensors))
    return compare(codes, result.codes)
