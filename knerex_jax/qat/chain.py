"""From gradients of the numbers a plan computes with to gradients of what is trained; on the host, like the planner."""

from typing import Any

import jax
import numpy as np

from knerex_jax.qat.forward import Reals
from knerex_jax.qat.straight import weight_slopes
from knerex_jax.qat.subject import Subject, Trainable
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.params import weight_steps


def slopes_of_trained(subject: Subject, trained: Trainable, planned: Planned, reals: Reals, slopes: Reals) -> Trainable:
    """Gradients with respect to what is trained.

    Args:
      subject: what is trained.
      trained: its values.
      planned: the plan they make.
      reals: the numbers of that plan.
      slopes: gradients with respect to them, but the weights of trained nodes are [O, J, *kernel].

    Returns:
      Like `trained`; 0 where a gradient is not finite, so that nothing is moved by what is no number.
    """
    slopes = jax.tree.map(_finite, slopes)
    factors = {t: np.asarray(f) for t, f in reals.factors.items()}
    to_factors = {t: np.array(s) for t, s in slopes.factors.items()}
    to_weights, to_clips = {}, {}
    for n in subject.nodes:
        step = n.spread(weight_steps(planned.model.graph.node[n.name], planned, subject.registry).astype(np.float32))
        to_weights[n.name], to_clips[n.name], to_factor = weight_slopes(
            slopes.nodes[n.name].weight, trained.weights[n.name], trained.clips[n.name], n.profile,
            n.feeding(factors[n.x]), step, n.limit,
        )  # fmt: skip
        to_factors[n.x] += n.fed(to_factor, factors[n.x].shape)
    to_biases = {name: slopes.nodes[name].bias for name in trained.biases}
    to_log2 = {t: np.log(2) * factors[t] * s for t, s in to_factors.items()}
    made = Trainable(to_weights, to_biases, to_clips, subject.classes.slopes(trained.scales, to_log2))
    return jax.tree.map(_finite, made)


def _finite(slope: Any) -> np.ndarray:
    slope = np.asarray(slope)
    return np.where(np.isfinite(slope), slope, np.float32(0))
