"""Losses of training graphs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from knerex_jax.ops.opdef import OpDef


@dataclass(frozen=True)
class LossAttrs:
    """Targets equal to ignore_index do not count; reduction: none, sum or mean."""

    ignore_index: int | None = None
    reduction: str = "mean"


def _likelihood_loss(a: LossAttrs, x: Array, target: Array, weight: Array | None = None) -> Array:
    counts = jnp.ones(target.shape, bool) if a.ignore_index is None else target != a.ignore_index
    target = jnp.where(counts, target, 0)
    share = jnp.where(counts, jnp.ones((), x.dtype) if weight is None else weight[target], 0)
    loss = -jnp.take_along_axis(x, target[:, None], axis=1)[:, 0] * share
    if a.reduction == "none":
        return loss
    return loss.sum() / share.sum() if a.reduction == "mean" else loss.sum()


def _cross_entropy(a: LossAttrs, x: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
    log_probability = jax.nn.log_softmax(x, axis=1)
    return _likelihood_loss(a, log_probability, target, weight), log_probability


OPS = (
    OpDef(op_type="NegativeLogLikelihoodLoss", attrs=LossAttrs, to_float=_likelihood_loss),
    OpDef(op_type="SoftmaxCrossEntropyLoss", attrs=LossAttrs, to_float=_cross_entropy),
)
