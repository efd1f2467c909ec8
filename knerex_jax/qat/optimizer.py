"""How gradients move what is trained: Adam, in units of what is usual for each number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.subject import Trainable

_DECAY = 0.99
"""Of the mean square of the gradients: runs are short."""


def schedule(config: QATConfig) -> optax.Schedule:
    """Learning rate by step: up in a line, down along a cosine."""
    warmup, rate = min(config.warmup, config.steps // 4), config.learning_rate
    assert rate is not None, "`QATConfig.for_weights` chooses it"
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else rate, rate, warmup, max(config.steps, warmup + 1))


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of one training. It works on one vector: an array of its own for every weight compiles for long.

    Attributes:
      init: trained values -> state of the optimizer.
      update: (trained values, gradients, state) -> the next values, on the host, and the next state.
    """

    init: Callable[[Trainable], Any]
    update: Callable[[Trainable, Trainable, Any], tuple[Trainable, Any]]


def make_optimizer(config: QATConfig, units: Trainable) -> Optimizer:
    """The optimizer of a config; groups that are not to be trained stay where they are.

    Args:
      config: of the training.
      units: how far a step of learning rate 1 goes.
    """
    trains = Trainable(config.train_weights, config.train_biases, config.train_clips, config.train_scales)
    groups = ("weights", "biases", "clips", "scales")
    reach = _vector([np.float32(getattr(trains, g)) * u for g in groups for u in jax.tree.leaves(getattr(units, g))])
    adam = optax.chain(optax.scale_by_adam(b2=_DECAY), optax.scale_by_learning_rate(schedule(config)))

    @jax.jit
    def moved(trained: Any, slopes: Any, state: Any) -> tuple[Any, Any]:
        updates, state = adam.update(slopes, state)
        return trained + updates * reach, state

    def update(trained: Trainable, slopes: Trainable, state: Any) -> tuple[Trainable, Any]:
        vector, state = moved(_vector(trained), _vector(slopes), state)
        return _like(trained, np.asarray(vector)), state

    return Optimizer(lambda trained: adam.init(jnp.asarray(_vector(trained))), update)


def _vector(tree: Any) -> np.ndarray:
    """All numbers of a tree, float32."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float32)


def _like(tree: Trainable, vector: np.ndarray) -> Trainable:
    """The tree that a vector was made of, with its numbers."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(vector, ends[:-1])
    return jax.tree.unflatten(structure, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])
