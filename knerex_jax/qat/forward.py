"""The training forward: values by the emulator, gradients by the simulation in float.

Every tensor with a format has the value that the emulator's code stands for, so what is trained is what will run. How
it depends on the numbers that the plan's integers stand for is what the simulated plan says, whose quantizers pass
gradients straight through their rounding. From there `qat.chain` goes on to what is trained, on the host: it has no
need of samples, and a program of hundreds of small steps for weights takes long to compile.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.prepare import Params, prepare
from knerex_jax.emulator.stream import samples_at_once
from knerex_jax.lowering.batch import over_samples
from knerex_jax.ops.layout import channels_first, channels_last
from knerex_jax.qat.straight import code_data
from knerex_jax.qat.subject import Subject
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.lower import lower_simulated
from knerex_jax.simulate.params import Quantizer, Weights, along, sim_params

Forward = Callable[["Reals", Mapping[str, Any], Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]
"""(numbers of a plan, its `Coded.inverse`, {input: [B, *shape]}, `lower_codes` of both) -> {tensor: [B, *shape]}."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reals:
    """The numbers that the integers of a plan stand for, or gradients with respect to them; float32.

    Attributes:
      factors: formatted tensor -> codes per real unit, broadcastable against it.
      nodes: weighted node -> its dequantized weights and bias.
    """

    factors: Mapping[str, Any]
    nodes: Mapping[str, Weights]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coded:
    """The integers of one plan and what they stand for; new data for the same compiled step.

    Attributes:
      integers: for the emulator.
      inverse: formatted tensor -> real units per code, broadcastable against it.
      reals: what gradients are taken for.
    """

    integers: Params
    inverse: Mapping[str, Any]
    reals: Reals

    @classmethod
    def of(cls, subject: Subject, planned: Planned) -> "Coded":
        """The integers of a plan that the subject made."""
        graph = planned.model.graph
        params = sim_params(planned, subject.registry)
        inverse = {
            t: along(planned.constants[f"tensor:{t}"]["inverse"], f.axis, len(graph.shape(t)))
            for t, f in planned.plan.formats.items()
            if f"tensor:{t}" in planned.constants
        }
        reals = Reals({t: q.factor for t, q in params.tensors.items()}, params.nodes)
        return cls(prepare(planned.program, planned.constants), inverse, reals)


def lower_codes(subject: Subject, methods: Methods) -> Callable[[Params, Mapping[str, Array]], dict[str, Array]]:
    """The emulator's half of the forward pass: (integers, {input: [B, *shape]}) -> codes of every formatted tensor.

    Codes of images have their channels last, as the emulator makes them and the other half reads them. It is compiled
    for itself: integers that outgrow the bounds of the methods need new ones, the other half does not.

    Args:
      subject: what is trained.
      methods: of the emulator, for the bounds of all integers it will be given.
    """
    program = subject.base.program
    taps = tuple(t for t in subject.base.plan.formats if t in program.tensor)
    fn = lower_fixed(program, methods, taps)

    def turned(params: Params, sample: Mapping[str, Array]) -> dict[str, Array]:
        return {t: channels_last(c) if c.ndim > 2 else c for t, c in fn(params, sample).items()}

    return over_samples(turned, samples_at_once(program))


def lower_training(subject: Subject, taps: tuple[str, ...]) -> Forward:
    """The forward pass of a subject behind the codes; pure, differentiable in the numbers, not compiled.

    Args:
      subject: what is trained.
      taps: tensors to return.
    """
    simulate, base = lower_simulated(subject.base, taps=taps, registry=subject.registry)
    base = replace(base, constants={t: np.asarray(v) for t, v in base.constants.items()})

    def fn(
        reals: Reals, inverse: Mapping[str, Any], batch: Mapping[str, Array], codes: Mapping[str, Array]
    ) -> dict[str, Array]:
        codes = {t: jax.vmap(channels_first)(c) if c.ndim > 3 else c for t, c in codes.items()}
        held = {t: c.astype(jnp.float32) * inverse[t] for t, c in codes.items()}
        tensors = {t: replace(q, factor=reals.factors[t]) for t, q in base.tensors.items()}
        params = replace(base, tensors=tensors, nodes=reals.nodes)

        def one(sample: Mapping[str, Array], held: Mapping[str, Array]) -> dict[str, Array]:
            made = simulate(params, None, sample, held, _as_emulated)
            return {t: made[t] for t in taps}

        return jax.vmap(one)(batch, held)

    return fn


def _as_emulated(t: str, x: Array, q: Quantizer, gates: None, held: Mapping[str, Array], *, half_up: bool) -> Array:
    value = held[t].reshape(x.shape)
    if x.ndim <= 2:
        return code_data(x, q.factor, q.low, q.high, value)
    # Channels last, as what makes and reads images has them: else the compiler turns them around every quantizer.
    x, factor, value = map(channels_last, (x, q.factor, value))
    return channels_first(code_data(x, factor, q.low, q.high, value))
