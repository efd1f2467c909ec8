"""Plans for small test models: exact ranges, one call from net to planned model and its emulation."""

from collections.abc import Mapping

import jax
import numpy as np

from knerex_jax.artifacts.bie import Bie
from knerex_jax.calibrate.ranges import Cut, Ranges, TensorRange
from knerex_jax.graph.ir import Model
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.quantize.solve import RangePolicy
from knerex_jax.quantize.structure import analyse
from knerex_jax.runtime import FixedModel
from knerex_jax.targets import TARGETS

WIDTHS = {"int8": WidthRequest(), "w8a16": WidthRequest(15, 8, 15, 15), "int16": WidthRequest(15, 15, 15, 15)}
EVERY_CHANNEL = RangePolicy(evidence=1)
"""Small tensors have few values; without the rule of evidence their channels get formats of their own."""


def float_values(model: Model, inputs: Mapping[str, np.ndarray], taps: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Float values of tensors, [N, ...] in place of the batch axis; [N, *shape] where axis 0 is no batch of 1."""
    values = _by_sample(model, inputs, taps)
    return {t: v[:, 0] if v.shape[1:2] == (1,) else v for t, v in values.items()}


def _by_sample(model: Model, inputs: Mapping[str, np.ndarray], taps: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Float values of tensors, [N, *shape]."""
    fn, params = lower_float(model, taps=taps)
    shapes = {t: model.graph.shape(t) for t in model.graph.inputs}
    batch = {t: a.reshape(-1, *shapes[t]) for t, a in inputs.items()}
    values = jax.jit(jax.vmap(fn, (None, 0)))(params, batch)
    return {t: np.asarray(v) for t, v in values.items()}


def exact_ranges(model: Model, inputs: Mapping[str, np.ndarray], platform: str) -> Ranges:
    """Minimum and maximum of every observed tensor."""
    observed = analyse(model, TARGETS[platform], REGISTRY).observed
    values = _by_sample(model, inputs, tuple(observed))
    found = {}
    for t, axis in observed.items():
        v = values[t]
        rows = v.reshape(1, -1) if axis is None else np.moveaxis(v, axis + 1, 0).reshape(v.shape[axis + 1], -1)
        cut = Cut(float(v.min()), float(v.max()), rows.min(axis=1), rows.max(axis=1))
        found[t] = TensorRange(cut, cut, axis, rows.shape[1])
    return Ranges(found, samples=len(next(iter(inputs.values()))), pct=1.0, pct_wide=1.0)


def plan(
    model: Model,
    inputs: Mapping[str, np.ndarray],
    platform: str = "720",
    width: str = "int8",
    policy: RangePolicy = EVERY_CHANNEL,
) -> Planned:
    """The planned model for ranges measured on these inputs."""
    return plan_model(model, exact_ranges(model, inputs, platform), WIDTHS[width], TARGETS[platform], policy=policy)


def fixed_model(planned: Planned) -> FixedModel:
    return FixedModel(Bie(planned.program, planned.constants, planned.plan, {}))
