"""What training lowers: the noise at the outputs, beside it that of inner tensors and a loss of the user's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from knerex_jax.data.functions import user_failure
from knerex_jax.errors import ConfigError
from knerex_jax.lowering.float import lower_float
from knerex_jax.qat.config import QATConfig
from knerex_jax.qat.subject import Subject
from knerex_jax.refine.noise import FLAT
from knerex_jax.refine.sensitivity import judged_outputs, judged_tensors


@dataclass(frozen=True)
class Objective:
    """The loss of one subject under one config.

    Attributes:
      subject: what is trained.
      config: weights of the parts.
      sigmoids: outputs that a sigmoid outside the model follows.
    """

    subject: Subject
    config: QATConfig
    sigmoids: frozenset[str] = frozenset()

    @cached_property
    def judged(self) -> tuple[str, ...]:
        """Tensors whose noise counts: the real outputs, and what goes into a last softmax or sigmoid instead of it."""
        return judged_tensors(self.subject.base.model)

    @cached_property
    def real_outputs(self) -> tuple[str, ...]:
        """What a loss of the user's sees."""
        model = self.subject.base.model
        return tuple(t for t in model.graph.outputs if t not in model.exact)

    @cached_property
    def inner(self) -> tuple[str, ...]:
        """Outputs of the trained nodes; none where their error does not count."""
        ys = dict.fromkeys(n.y for n in self.subject.nodes)
        return tuple(t for t in ys if t not in self.judged) if self.config.inner_weight else ()

    @cached_property
    def taps(self) -> tuple[str, ...]:
        """Tensors that the loss needs of the training forward."""
        outputs = self.real_outputs if self.config.loss is not None else ()
        return tuple(dict.fromkeys((*self.judged, *self.inner, *outputs)))

    @property
    def by_sample(self) -> bool:
        """Whether the loss of a batch is the mean of its samples' losses: not known of a user's."""
        return self.config.loss is None

    def float_values(self) -> tuple[Callable[[Any, Mapping[str, Array]], dict[str, Array]], Any]:
        """(params, {input: [B, *shape]}) -> {tensor: [B, *shape]} of the float model, for `taps`; and its params."""
        fn, params = lower_float(self.subject.base.model, taps=self.taps, registry=self.subject.registry)

        def values(params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            made = jax.vmap(lambda sample: fn(params, sample))(batch)
            return {t: made[t] for t in self.taps}

        return values, params

    def __call__(
        self, made: Mapping[str, Array], wanted: Mapping[str, Array], energy: Mapping[str, Array], labels: Any
    ) -> Array:
        """The loss of a batch, a scalar.

        Args:
          made: tensor -> float32 [B, *shape] of the training forward.
          wanted: the same of the float model.
          energy: tensor -> mean energy of one sample, so that every batch is judged alike.
          labels: of the samples, or None.
        """
        noise = [_energy(self.counted(t, made[t]) - self.counted(t, wanted[t])) / energy[t] for t in self.judged]
        loss = self.config.distillation_weight * jnp.mean(jnp.stack(noise))
        if self.inner:
            shares = [_energy(made[t] - wanted[t]) / energy[t] for t in self.inner]
            loss = loss + self.config.inner_weight * jnp.mean(jnp.stack(shares))
        if self.config.loss is not None:
            ours, theirs = ({t: _in_batch(v[t]) for t in self.real_outputs} for v in (made, wanted))
            loss = loss + self.config.loss_weight * self.own_loss(ours, theirs, labels)
        return loss

    def counted(self, tensor: str, x: Any) -> Any:
        """What counts of a judged tensor's values: what is not cut where a sigmoid behind it is flat."""
        return x.clip(-FLAT, FLAT) if tensor in self._flat else x

    @cached_property
    def _flat(self) -> frozenset[str]:
        """Judged tensors that nothing but sigmoids outside the model see."""
        held = judged_outputs(self.subject.base.model)
        return frozenset(t for t, outputs in held.items() if self.sigmoids.issuperset(outputs))

    def own_loss(self, ours: Mapping[str, Any], theirs: Mapping[str, Any], labels: Any) -> Any:
        """The user's loss of a batch, a scalar.

        Raises:
          HookError: it failed; with the line.
          ConfigError: it is no scalar.
        """
        assert self.config.loss is not None
        try:
            found = self.config.loss(ours, theirs, labels)
        except Exception as e:  # whatever the user's code raises
            raise user_failure(e, "loss") from e
        if jnp.shape(found):
            fix = "return the mean over the batch"
            raise ConfigError(f"the loss has the shape {jnp.shape(found)}, not a number", where="loss", fix=fix)
        return found


def _energy(x: Array) -> Array:
    """Mean energy of a sample of the batch."""
    return jnp.sum(x**2) / x.shape[0]


def _in_batch(x: Array) -> Array:
    """[B, 1, ...] -> [B, ...]: the samples take the place of the model's batch axis."""
    return x[:, 0] if x.ndim > 1 and x.shape[1] == 1 else x
