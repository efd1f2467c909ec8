"""One training step, compiled: loss and gradients over all devices, and the optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh

from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.stream import compiler_options
from knerex_jax.errors import ConfigError
from knerex_jax.parallel.devices import AXIS, SHARED, SPLIT, first_devices, over_devices
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.forward import Coded, lower_codes, lower_training
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.subject import Subject, Trainable

_DECAY = 0.99
"""Of the mean square of the gradients: runs are short."""


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


EmulateFn = Callable[[Coded, Batch], Mapping[str, Array]]
"""(integers, batch) -> codes of every formatted tensor."""

StepFn = Callable[[Trainable, Any, Coded, Batch, Mapping[str, Array]], tuple[Trainable, Any, Array]]
"""(trained, state of the optimizer, integers of `trained`, batch, their codes) -> the next two, and the loss."""


def schedule(config: QATConfig) -> optax.Schedule:
    """Learning rate by step: up in a line, down along a cosine."""
    warmup = min(config.warmup, config.steps // 4)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate, config.learning_rate, warmup, max(config.steps, warmup + 1)
    )


def make_optimizer(config: QATConfig, units: Trainable) -> optax.GradientTransformation:
    """Adam in units of what is usual for each number; groups that are not to be trained stay where they are."""
    trains = Trainable(config.train_weights, config.train_biases, config.train_clips, config.train_scales)
    groups = {f: getattr(trains, f) for f in ("weights", "biases", "clips", "scales")}
    units = Trainable(**{f: jax.tree.map(lambda u, on=on: u * on, getattr(units, f)) for f, on in groups.items()})

    in_units = optax.stateless(lambda updates, _: jax.tree.map(lambda u, unit: u * unit, updates, units))
    return optax.chain(optax.scale_by_adam(b2=_DECAY), in_units, optax.scale_by_learning_rate(schedule(config)))


def training_mesh(config: QATConfig, batch: int) -> Mesh:
    """The devices that share a batch.

    Raises:
      ConfigError: there are not so many, or they do not divide the batch.
    """
    there = len(jax.local_devices())
    count = config.train_devices or max(d for d in range(1, there + 1) if batch % d == 0)
    found = first_devices(count, "train_devices")
    if batch % count:
        fix = "choose a batch that the devices divide"
        raise ConfigError(f"a batch of {batch} cannot be shared by {count} devices", where="train_batch", fix=fix)
    return Mesh(found, (AXIS,))


def make_emulate(subject: Subject, methods: Methods, mesh: Mesh) -> EmulateFn:
    """The compiled emulator for all integers within the bounds that the methods were chosen for."""
    codes = over_devices(lower_codes(subject, methods), mesh)
    compiled = jax.jit(codes, compiler_options=compiler_options(jax.default_backend()))
    return lambda coded, batch: compiled(coded.integers, batch.inputs)


def make_step(
    objective: Objective, optimizer: optax.GradientTransformation, energy: Mapping[str, float], mesh: Mesh
) -> StepFn:
    """The compiled step, for any integers."""
    forward = lower_training(objective.subject, objective.taps)
    reference = objective.float_values()

    def loss(trained: Trainable, coded: Coded, batch: Batch, codes: Mapping[str, Array]) -> Array:
        made = forward(trained, coded, batch.inputs, codes)
        return objective(made, reference(batch.inputs), energy, batch.labels)

    def share(trained: Trainable, *data: Any) -> tuple[Array, Trainable]:
        return lax.pmean(jax.value_and_grad(loss)(trained, *data), AXIS)

    gradients = over_devices(share, mesh, (SHARED, SHARED, SPLIT, SPLIT), SHARED)

    @jax.jit
    def step(
        trained: Trainable, state: Any, coded: Coded, batch: Batch, codes: Mapping[str, Array]
    ) -> tuple[Trainable, Any, Array]:
        value, slopes = gradients(trained, coded, batch, codes)
        # What no gradient reaches must not be moved by one that is not a number.
        slopes = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), slopes)
        updates, state = optimizer.update(slopes, state, trained)
        return optax.apply_updates(trained, updates), state, value

    return step
