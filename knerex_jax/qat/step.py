"""What is compiled of a training step: the emulator, and loss and gradients behind its codes and the teacher's values.

Both over all devices. What is left of a step has no samples in it and stays on the host: `qat.chain` takes gradients to
what is trained, `qat.optimizer` moves that, the planner makes the next integers of it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.stream import compiler_options, gradient_options, samples_at_once
from knerex_jax.errors import ConfigError
from knerex_jax.parallel.devices import AXIS, SHARED, SPLIT, first_devices, over_devices
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.forward import Coded, Reals, lower_codes, lower_training
from knerex_jax.qat.objective import Objective
from knerex_jax.qat.subject import Subject
from knerex_jax.simulate.params import Weights


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Samples of one step; every array starts with [B].

    Attributes:
      inputs: input -> [B, *shape].
      wanted: tensor -> [B, *shape] of the float model.
      labels: [B, ...] or None.
    """

    inputs: Mapping[str, Any]
    wanted: Mapping[str, Any]
    labels: Any


Inputs = Mapping[str, Array]
"""Input -> [B, *shape]."""

EmulateFn = Callable[[Coded, Inputs], Mapping[str, Array]]
"""(integers, inputs) -> codes of every formatted tensor."""

SlopesFn = Callable[[Coded, Batch, Mapping[str, Array]], tuple[Array, Reals]]
"""(integers, batch, their codes) -> the loss, and its gradients; weights of trained nodes as [O, J, *kernel]."""


def training_mesh(config: QATConfig, batch: int) -> Mesh:
    """The devices that share a batch: one for a loss of the user's, which sees the whole batch.

    Raises:
      ConfigError: there are not so many, or they do not divide the batch.
    """
    there = len(jax.local_devices())
    fit = 1 if config.loss is not None else max(d for d in range(1, there + 1) if batch % d == 0)
    count = config.train_devices or fit
    found = first_devices(count, "train_devices")
    if batch % count:
        fix = "choose a batch that the devices divide, of no more samples than there are to teach"
        raise ConfigError(f"a batch of {batch} cannot be shared by {count} devices", where="train_batch", fix=fix)
    return Mesh(found, (AXIS,))


def make_emulate(subject: Subject, methods: Methods, mesh: Mesh) -> EmulateFn:
    """The compiled emulator for all integers within the bounds that the methods were chosen for."""
    codes = over_devices(lower_codes(subject, methods), mesh)
    compiled = jax.jit(codes, compiler_options=compiler_options(jax.default_backend()))
    return lambda coded, inputs: compiled(coded.integers, inputs)


def make_slopes(objective: Objective, energy: Mapping[str, float], mesh: Mesh) -> SlopesFn:
    """The compiled loss and its gradients, for any integers."""
    forward = lower_training(objective.subject, objective.taps)
    forms = {n.name: n.form for n in objective.subject.nodes}
    at_once = samples_at_once(objective.subject.base.program) if objective.by_sample else None

    def loss(reals: Reals, coded: Coded, batch: Batch, codes: Mapping[str, Array]) -> Array:
        made = forward(reals, coded.inverse, batch.inputs, codes)
        return objective(made, batch.wanted, energy, batch.labels)

    def share(coded: Coded, batch: Batch, codes: Mapping[str, Array]) -> tuple[Array, Reals]:
        value, slopes = in_groups(partial(jax.value_and_grad(loss), coded.reals, coded), (batch, codes), at_once)
        nodes = {}
        for name, form in forms.items():
            (weight,) = jax.linear_transpose(form.restore, form.weight)(slopes.nodes[name].weight)
            nodes[name] = Weights(weight, slopes.nodes[name].bias)
        return lax.pmean((value, Reals(slopes.factors, nodes)), AXIS)

    options = gradient_options(jax.default_backend())
    return jax.jit(over_devices(share, mesh, (SHARED, SPLIT, SPLIT), SHARED), compiler_options=options)


def in_groups(fn: Callable[..., Any], arguments: Any, at_once: int | None) -> Any:
    """The mean of a function over groups of samples, one after the other: what a step holds stays in the caches.

    MobileNetV2, on a CPU: four at a time take 0.65 of the CPU time of eight at once.

    Args:
      fn: takes as many as there are arguments; gives float arrays that are means over its samples.
      arguments: a tuple of trees whose arrays start with [B].
      at_once: samples of a group, a power of two; as many as divide a batch are taken. None: all.
    """
    batch = len(jax.tree.leaves(arguments)[0])
    size = math.gcd(batch, at_once) if at_once else batch
    if size == batch:
        return fn(*arguments)
    groups = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arguments)
    first = jax.tree.map(lambda x: x[0], groups)
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fn, *first))
    total, _ = lax.scan(lambda total, group: (jax.tree.map(jnp.add, total, fn(*group)), None), none, groups)
    return jax.tree.map(lambda x: x * (size / batch), total)
