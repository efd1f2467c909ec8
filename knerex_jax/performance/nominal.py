"""A fixed program without calibration data: its shapes, widths and commands are real, its ranges are not.

What a model costs depends on none of its numbers, so every tensor gets the range -1 to 1.
"""

import numpy as np

from knerex_jax.calibrate.ranges import Cut, Ranges, TensorRange
from knerex_jax.flow import Ops, make_plan
from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.quantize.config import PTQConfig
from knerex_jax.quantize.planner import Planned
from knerex_jax.quantize.structure import analyse


def nominal_ranges(model: Model, config: PTQConfig, ops: Ops = REGISTRY) -> Ranges:
    """-1 to 1 for every tensor that a plan needs."""
    found = {}
    for tensor, axis in analyse(model, config.target, ops).observed.items():
        ones = np.ones(1 if axis is None else model.graph.shape(tensor)[axis], np.float32)
        cut = Cut(-1.0, 1.0, -ones, ones)
        found[tensor] = TensorRange(cut, cut, axis, 1)
    return Ranges(found, samples=1, pct=1.0, pct_wide=1.0)


def nominal_plan(model: Model, config: PTQConfig, ops: Ops = REGISTRY) -> Planned:
    """The plan of a decomposed model for such ranges.

    Raises:
      PlanError: no legal plan.
      UnsupportedOpError: an operator has no integer rule and does not run on the host.
    """
    return make_plan(model, nominal_ranges(model, config, ops), config, ops=ops)
