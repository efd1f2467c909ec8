"""One training step, compiled: loss and gradients over all devices, and the optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from knerex_jax.emulator.methods import Methods
from knerex_jax.errors import ConfigError
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.forward import Coded, lower_training
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.straight import limits
from knerex_jax.qat.subject import Subject, Trainable

_AXIS = "data"

_MOMENTUM = 0.9
_DECAY = 0.99
"""Of the mean of the gradients, and of their mean squares: runs are short."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Samples of one step; every array starts with [B].

    Attributes:
      inputs: input -> [B, *shape].
      labels: [B, ...] or None.
    """

    inputs: Mapping[str, Any]
    labels: Any


StepFn = Callable[[Trainable, Any, Coded, Batch, Any], tuple[Trainable, Any, Array]]
"""(trained, state of the optimizer, integers of `trained`, batch, share of the training done) -> the next two, loss."""


def schedule(config: QATConfig) -> optax.Schedule:
    """Learning rate by step: up in a line, down along a cosine."""
    warmup = min(config.warmup, config.steps // 4)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate, config.learning_rate, warmup, max(config.steps, warmup + 1)
    )


def make_optimizer(config: QATConfig, units: Trainable) -> optax.GradientTransformation:
    """Momentum in units of what is usual for each number; groups that are not to be trained stay where they are.

    Adam would move every number by as much, however little it matters, and codes of few bits would flip at random. Here
    the step of a number follows its gradient, and the gradients of an array are scaled by their mean square alone.
    """
    trains = Trainable(config.train_weights, config.train_biases, config.train_clips, config.train_scales)
    groups = {f: getattr(trains, f) for f in ("weights", "biases", "clips", "scales")}
    units = Trainable(**{f: jax.tree.map(lambda u, on=on: u * on, getattr(units, f)) for f, on in groups.items()})

    in_units = optax.stateless(lambda updates, _: jax.tree.map(lambda u, unit: u * unit, updates, units))
    # Once for the gradients, so that they are those of the numbers in these units, and once for the steps.
    return optax.chain(
        in_units, _scale_by_array(), in_units, optax.scale_by_learning_rate(schedule(config)),
    )  # fmt: skip


class ArrayState(NamedTuple):
    """Of `_scale_by_array`: steps, mean of the gradients, and by array the mean of their mean squares."""

    count: Array
    mean: Any
    square: Any


def _scale_by_array() -> optax.GradientTransformation:
    """Momentum over the root mean square of all gradients of an array: as Adam, but not number by number."""

    def init(params: Any) -> ArrayState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ArrayState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(lambda _: jnp.zeros(()), params))

    def update(updates: Any, state: ArrayState, params: Any = None) -> tuple[Any, ArrayState]:
        count = state.count + 1
        mean = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, state.mean, updates)
        square = jax.tree.map(lambda s, g: _DECAY * s + (1 - _DECAY) * jnp.mean(g**2), state.square, updates)
        fresh, full = 1 - _MOMENTUM**count, 1 - _DECAY**count
        made = jax.tree.map(
            lambda m, s: (m / fresh) * lax.rsqrt(jnp.maximum(s / full, jnp.finfo(jnp.float32).tiny)), mean, square
        )
        return made, ArrayState(count, mean, square)

    return optax.GradientTransformation(init, update)


def settled(subject: Subject, trained: Trainable, coded: Coded, share: Any) -> Trainable:
    """Weights pulled toward the codes that they round to, by a share of the way.

    Without, weights halfway between two codes flip at every step, and the noise of that is what the training ends with.
    Source: Nagel et al., Overcoming Oscillations in Quantization-Aware Training, 2022 (dampening, here decoupled).
    """
    weights = {}
    for n in subject.nodes:
        w, step = trained.weights[n.name], coded.steps[n.name]
        bound = limits(trained.clips[n.name], n.profile)
        code = jnp.rint(w / step) * step
        weights[n.name] = jnp.where(jnp.abs(w) < bound, w + share * (code - w), w)
    return replace(trained, weights=weights)


def training_mesh(config: QATConfig, batch: int) -> Mesh:
    """The devices that share a batch.

    Raises:
      ConfigError: there are not so many, or they do not divide the batch.
    """
    found = jax.devices()
    count = config.devices or max(d for d in range(1, len(found) + 1) if batch % d == 0)
    if count > len(found):
        fix = f"use at most {len(found)}"
        raise ConfigError(f"there are {len(found)} devices", where=f"devices={count}", fix=fix)
    if batch % count:
        fix = "choose a batch that the devices divide"
        raise ConfigError(f"a batch of {batch} cannot be shared by {count} devices", where="train_batch", fix=fix)
    return Mesh(found[:count], (_AXIS,))


def place(mesh: Mesh, replicated: Any, batch: Batch | None = None) -> Any:
    """Arrays on the devices: everywhere, and a batch in shares."""
    held = jax.device_put(replicated, NamedSharding(mesh, P()))
    return held if batch is None else (held, jax.device_put(batch, NamedSharding(mesh, P(_AXIS))))


def make_step(
    objective: Objective, methods: Methods, optimizer: optax.GradientTransformation, energy: Mapping[str, float],
    mesh: Mesh,
) -> StepFn:  # fmt: skip
    """The compiled step for all integers within the bounds that the methods were chosen for."""
    config = objective.config
    forward = lower_training(objective.subject, methods, objective.taps)
    reference = objective.float_values()

    def loss(trained: Trainable, coded: Coded, batch: Batch) -> Array:
        wanted = reference(batch.inputs)
        return objective(forward(trained, coded, batch.inputs), wanted, energy, batch.labels)

    def share(trained: Trainable, coded: Coded, batch: Batch) -> tuple[Array, Trainable]:
        return lax.pmean(jax.value_and_grad(loss)(trained, coded, batch), _AXIS)

    everywhere = (P(), P(), P(_AXIS))
    gradients = jax.shard_map(share, mesh=mesh, in_specs=everywhere, out_specs=P(), check_vma=False)

    @jax.jit
    def step(trained: Trainable, state: Any, coded: Coded, batch: Batch, done: Any) -> tuple[Trainable, Any, Array]:
        value, slopes = gradients(trained, coded, batch)
        # What no gradient reaches must not be moved by one that is not a number.
        slopes = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), slopes)
        updates, state = optimizer.update(slopes, state, trained)
        trained = settled(objective.subject, optax.apply_updates(trained, updates), coded, config.damping * done)
        return trained, state, value

    return step
