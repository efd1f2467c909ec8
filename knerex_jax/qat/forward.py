"""The training forward: values by the emulator, gradients by the simulation in float.

Every tensor with a format has the value that the emulator's code stands for, so what is trained is what will run. How
it depends on what is trained is what the simulated plan says, whose quantizers and weights pass gradients straight
through their rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.prepare import Params, prepare
from knerex_jax.emulator.stream import over_samples, samples_at_once
from knerex_jax.qat.straight import carry, code_data, code_weights
from knerex_jax.qat.subject import Subject, Trainable
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.lower import lower_simulated
from knerex_jax.simulate.params import Quantizer, SimParams, Weights, along, sim_params, weight_steps

Forward = Callable[[Trainable, "Coded", Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]
"""(what is trained, its integers, {input: [B, *shape]}, `lower_codes` of both) -> {tensor: float32 [B, *shape]}."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coded:
    """The integers of one plan and what they stand for; new data for the same compiled step.

    Attributes:
      integers: for the emulator.
      inverse: formatted tensor -> real units per code, broadcastable against it.
      factors: formatted tensor -> codes per real unit, likewise.
      nodes: weighted node -> its dequantized weights and bias.
      steps: trained node -> real units per weight code, [O, J, 1...].
    """

    integers: Params
    inverse: Mapping[str, Any]
    factors: Mapping[str, Any]
    nodes: Mapping[str, Weights]
    steps: Mapping[str, Any]

    @classmethod
    def of(cls, subject: Subject, planned: Planned) -> "Coded":
        """The integers of a plan that the subject made."""
        program, graph = planned.program, planned.model.graph
        params = sim_params(planned, subject.registry)
        inverse = {
            t: along(planned.constants[f"tensor:{t}"]["inverse"], f.axis, len(graph.shape(t)))
            for t, f in planned.plan.formats.items()
            if f"tensor:{t}" in planned.constants
        }
        steps = {
            n.name: n.spread(weight_steps(graph.node[n.name], planned, subject.registry).astype(np.float32))
            for n in subject.nodes
        }
        factors = {t: q.factor for t, q in params.tensors.items()}
        return cls(prepare(program, planned.constants), inverse, factors, params.nodes, steps)


def lower_codes(subject: Subject, methods: Methods) -> Callable[[Params, Mapping[str, Array]], dict[str, Array]]:
    """The emulator's half of the forward pass: (integers, {input: [B, *shape]}) -> codes of every formatted tensor.

    It is compiled for itself: integers that outgrow the bounds of the methods need new ones, the other half does not.

    Args:
      subject: what is trained.
      methods: of the emulator, for the bounds of all integers it will be given.
    """
    program = subject.base.program
    taps = tuple(t for t in subject.base.plan.formats if t in program.tensor)
    return over_samples(lower_fixed(program, methods, taps), samples_at_once(program))


def lower_training(subject: Subject, taps: tuple[str, ...]) -> Forward:
    """The forward pass of a subject behind the codes; pure, differentiable in what is trained, not compiled.

    Args:
      subject: what is trained.
      taps: tensors to return.
    """
    simulate, base = lower_simulated(subject.base, taps=taps, registry=subject.registry)
    base = replace(base, constants={t: np.asarray(v) for t, v in base.constants.items()})

    def fn(
        trained: Trainable, coded: Coded, batch: Mapping[str, Array], codes: Mapping[str, Array]
    ) -> dict[str, Array]:
        held = {t: lax.stop_gradient(c.astype(jnp.float32) * coded.inverse[t]) for t, c in codes.items()}
        params = _params(subject, base, trained, coded)

        def one(sample: Mapping[str, Array], held: Mapping[str, Array]) -> dict[str, Array]:
            made = simulate(params, None, sample, held, _as_emulated)
            return {t: made[t] for t in taps}

        return jax.vmap(one)(batch, held)

    return fn


def _as_emulated(t: str, x: Array, q: Quantizer, gates: None, held: Mapping[str, Array], *, half_up: bool) -> Array:
    return code_data(x, q.factor, q.low, q.high, held[t].reshape(x.shape))


def _params(subject: Subject, base: SimParams, trained: Trainable, coded: Coded) -> SimParams:
    """What the simulation computes with: the numbers of the plan, with their gradients."""
    learned = subject.classes.factors(trained.scales)
    factors = {t: carry(learned[t], jnp.broadcast_to(f, learned[t].shape)) for t, f in coded.factors.items()}
    tensors = {t: replace(q, factor=factors[t]) for t, q in base.tensors.items()}
    made = dict(coded.nodes)
    for n in subject.nodes:
        weight = code_weights(
            trained.weights[n.name], trained.clips[n.name], jnp.asarray(n.profile), n.feeding(factors[n.x]),
            coded.steps[n.name], n.limit,
        )  # fmt: skip
        weight, bias = carry(n.form.restore(weight), coded.nodes[n.name].weight), coded.nodes[n.name].bias
        if n.name in trained.biases:
            bias = carry(trained.biases[n.name], bias)
        made[n.name] = Weights(weight, bias)
    return replace(base, tensors=tensors, nodes=made)
