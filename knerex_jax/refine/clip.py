"""Clipped weights: an output channel may spend its few codes on most of its weights instead of on the largest."""

from collections.abc import Mapping

import numpy as np

from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.refine.grid import mac_instructions, weight_grid, with_weights
from knerex_jax.targets.spec import Target

_SHARES = np.arange(1.0, 0.45, -0.05)


def clip_weights(planned: Planned, target: Target, registry: Mapping[str, OpDef] = REGISTRY) -> Planned:
    """Clips the weights of every output channel where that lowers the squared error of its codes.

    Formats of tensors stay; weight radix and scale, shifts and multipliers follow from the clipped weights. The exact
    weights to come close to are those of `planned.refined`, which the clipped ones replace there.
    """
    model = planned.refined
    for mac in mac_instructions(planned):
        grid = weight_grid(planned, mac, registry)
        top = np.abs(grid.exact).max(axis=tuple(range(1, grid.exact.ndim)), keepdims=True)
        share = best_shares(grid.exact, (1 << (mac.weight_bits - 1)) - 1)
        clipped = np.clip(grid.exact, -share * top, share * top) / grid.unit
        weight = np.where(np.abs(grid.exact) > share * top, clipped, grid.form.weight)
        model = with_weights(model, mac.name, grid.form.restore(weight.astype(np.float32)), registry)
    return refine_plan(planned, model, target, registry)


def best_shares(weights: np.ndarray, limit: int) -> np.ndarray:
    """Which share of its largest magnitude each output channel is best clipped at, for codes of up to `limit`.

    Args:
      weights: float64 [O, ...].
      limit: largest code.

    Returns:
      float64 [O, 1, ...].
    """
    axes = tuple(range(1, weights.ndim))
    top = np.abs(weights).max(axis=axes, keepdims=True)
    errors = []
    for share in _SHARES:
        step = np.maximum(top * share / limit, np.finfo(np.float64).tiny)
        made = np.clip(np.rint(weights / step), -limit, limit) * step
        errors.append(((made - weights) ** 2).sum(axis=axes, keepdims=True))
    return _SHARES[np.argmin(np.stack(errors), axis=0)]
