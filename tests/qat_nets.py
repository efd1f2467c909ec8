"""Plans of a small model with every kind of node that training has a rule for."""

import numpy as np
from helpers import samples
from mixed_net import mixed_net
from planning import EVERY_CHANNEL, exact_ranges

from knerex_jax.quantize.planner import Planned, plan_model
from knerex_jax.quantize.request import WidthRequest
from knerex_jax.targets import TARGETS

CASES = {
    "720 int8": ("720", WidthRequest()),
    "730 w4a8": ("730", WidthRequest(weights=4)),
    "720 int16": ("720", WidthRequest(15, 15, 15, 15)),
    "520 int8": ("520", WidthRequest()),
}
COUNT = 24


def planned_case(name: str) -> tuple[Planned, dict[str, np.ndarray]]:
    """A plan of `mixed_net`, and samples."""
    model = mixed_net()
    inputs = samples(model, COUNT)
    platform, request = CASES[name]
    ranges = exact_ranges(model, inputs, platform)
    return plan_model(model, ranges, request, TARGETS[platform], policy=EVERY_CHANNEL), inputs
