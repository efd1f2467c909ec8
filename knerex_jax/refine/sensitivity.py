"""What widths cost at the outputs of the model, measured with the integers of real plans on one compiled emulator."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from knerex_jax.data.batches import filled_batches
from knerex_jax.data.sources import stack_inputs
from knerex_jax.emulator.fixed import lower_fixed
from knerex_jax.emulator.methods import Methods
from knerex_jax.emulator.stream import compiler_options, samples_at_once
from knerex_jax.emulator.trust import methods_here
from knerex_jax.emulator.wide import embed, widen
from knerex_jax.errors import ConfigError
from knerex_jax.graph.ir import Graph, Model, Node
from knerex_jax.lowering.batch import over_samples
from knerex_jax.lowering.float import lower_float
from knerex_jax.ops.build import softmax_difference
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.bounds import bound_program, join
from knerex_jax.program.program import Constants, Program
from knerex_jax.quantize.planner import Planned

Fixed = tuple[Program, Constants]
"""A program and its integers."""


@dataclass(frozen=True)
class Reference:
    """Samples, and what the float model makes of them.

    Attributes:
      inputs: name -> [N, *shape], the model's batch axis of 1 included.
      outputs: name -> float64 [N, *shape], of the tensors that are judged.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def run_float(model: Model, inputs: Mapping[str, Any], registry: Mapping[str, OpDef], batch_size: int) -> Reference:
    """Runs the float model.

    Args:
      model: decomposed.
      inputs: name -> [N, ...] in place of the batch axis.
      registry: operator records.
      batch_size: samples per compiled step.

    Raises:
      ModelError: the inputs do not fit the model.
      ConfigError: no output is a real number, so there is nothing to measure.
    """
    judged = judged_tensors(model)
    types = {t: model.graph.types[t] for t in model.graph.inputs}
    held = {t: a.reshape(-1, *types[t].shape) for t, a in stack_inputs(inputs, types).items()}
    fn, params = lower_float(model, taps=judged, registry=registry)
    step, params = jax.jit(jax.vmap(fn, (None, 0))), jax.device_put(params)
    count = len(next(iter(held.values())))
    parts = [(step(params, batch), n) for batch, n in filled_batches(held, min(batch_size, count))]
    if not judged:
        fix = "cut what makes integers of the output (ArgMax, TopK) off the model"
        raise ConfigError("sensitivity needs an output of real numbers", where=model.graph.name, fix=fix)
    outputs = {t: np.concatenate([np.asarray(made[t], np.float64)[:n] for made, n in parts]) for t in judged}
    return Reference(held, outputs)


_SATURATING = ("Sigmoid", "HardSigmoid", "Tanh")


def judged_tensors(model: Model) -> tuple[str, ...]:
    """The real outputs of a model; of a softmax or a sigmoid what goes into it, because its ends hide any noise."""
    return tuple(judged_outputs(model))


def judged_outputs(model: Model) -> dict[str, tuple[str, ...]]:
    """`judged_tensors` -> the outputs of the model that each of them stands for."""
    graph = model.graph
    found: dict[str, tuple[str, ...]] = {}
    for output in graph.outputs:
        t = output
        while (maker := graph.producer.get(t)) is not None:
            if maker.op_type in _SATURATING or maker.op_type in ("Reshape", "Transpose"):
                before = maker.inputs[0]
            elif (scores := _softmax_scores(maker, graph)) is not None:
                before = scores
            else:
                break
            t = before
        if t not in model.exact:
            found[t] = (*found.get(t, ()), output)
    return found


def _softmax_scores(node: Node, graph: Graph) -> str | None:
    """The operand of a decomposed softmax whose last node this is: exp(x - max) times the reciprocal of its sum."""
    if node.op_type != "Mul":
        return None
    exps = [m for t in node.inputs if (m := graph.producer.get(t)) is not None and m.op_type == "Exp"]
    inner = graph.producer.get(exps[0].inputs[0]) if exps else None
    return inner.inputs[0] if inner is not None and softmax_difference(inner, graph) else None


@dataclass(frozen=True)
class WideEmulator:
    """Plans that differ in widths, on one compiled program.

    Attributes:
      program: the widened form of theirs.
      methods: for the joined bounds of all of them.
      taps: tensors to return; None for the outputs.
      plans_at_once: how many run side by side; it changes speed alone.
    """

    program: Program
    methods: Methods
    taps: tuple[str, ...] | None = None
    plans_at_once: int = 1

    @classmethod
    def of(
        cls, plans: Iterable[Fixed], *, taps: tuple[str, ...] | None = None, plans_at_once: int = 1
    ) -> "WideEmulator":
        """The emulator for plans of one widened program."""
        held = list(plans)
        program, bounds = widen(held[0][0]), join([bound_program(*p) for p in held])
        return cls(program, methods_here(program, bounds), taps, plans_at_once)

    @cached_property
    def _step(self) -> Callable[..., Any]:
        fn = over_samples(lower_fixed(self.program, self.methods, self.taps), samples_at_once(self.program))
        return jax.jit(jax.vmap(fn, (0, None)), compiler_options=compiler_options(jax.default_backend()))

    def run(
        self, plans: Sequence[Fixed], inputs: Mapping[str, np.ndarray], *, batch_size: int = 16
    ) -> Iterable[list[dict[str, np.ndarray]]]:
        """Codes of outputs or taps, plan by plan and batch by batch.

        Args:
          plans: whose bounds `of` has seen.
          inputs: name -> [N, *shape].
          batch_size: samples per compiled step.

        Yields:
          For every plan a list of batches, name -> codes int16 [batch, *shape]; the last batch may be filled up.
        """
        k, size = self.plans_at_once, min(batch_size, len(next(iter(inputs.values()))))
        for start in range(0, len(plans), k):
            chunk = [plans[min(start + j, len(plans) - 1)] for j in range(k)]
            params = jax.tree.map(lambda *leaves: np.stack(leaves), *(embed(*p) for p in chunk))
            params = jax.device_put(params)
            made = [jax.tree.map(np.asarray, self._step(params, batch)) for batch, _ in filled_batches(inputs, size)]
            for j in range(min(k, len(plans) - start)):
                yield [{t: codes[j] for t, codes in batch.items()} for batch in made]


def output_noise(
    plans: Sequence[Fixed], reference: Reference, *, batch_size: int = 16, plans_at_once: int = 1
) -> np.ndarray:
    """Noise of every plan at the judged tensors, relative to the float model: float64 [plans].

    Energy of the error over energy of the signal, pooled over the samples, and its mean over the tensors: 1 / SNR.
    Plans of equal widened form share one compilation.
    """
    noise = np.zeros(len(plans))
    forms: dict[Program, list[int]] = {}
    for k, (program, _) in enumerate(plans):
        forms.setdefault(widen(program), []).append(k)
    for places in forms.values():
        chosen = [plans[k] for k in places]
        emulator = WideEmulator.of(chosen, taps=tuple(reference.outputs), plans_at_once=plans_at_once)
        runs = emulator.run(chosen, reference.inputs, batch_size=batch_size)
        for k, plan, batches in zip(places, chosen, runs, strict=True):
            noise[k] = np.mean([_relative(t, want, plan, batches) for t, want in reference.outputs.items()])
    return noise


def _relative(tensor: str, want: np.ndarray, plan: Fixed, batches: list[dict[str, np.ndarray]]) -> float:
    program, constants = plan
    inverse, axis = np.asarray(constants[f"tensor:{tensor}"]["inverse"], np.float64), program.tensor[tensor].axis
    inverse = inverse.reshape([-1 if axis is not None and k == axis + 1 else 1 for k in range(want.ndim)])
    got = np.concatenate([b[tensor] for b in batches])[: len(want)].astype(np.float64) * inverse
    signal = float(np.sum(want**2))
    error = float(np.sum((got - want) ** 2))
    return error / signal if signal else float(error > 0)


def lean(planned: Planned, base: Planned | None = None) -> Fixed:
    """A plan's program and integers; arrays that equal the base's are the base's, so that many plans fit in memory."""
    if base is None:
        return planned.program, planned.constants
    shared = {}
    for name, made in planned.constants.items():
        known = base.constants.get(name, {})
        shared[name] = {k: known[k] if k in known and _same(v, known[k]) else v for k, v in made.items()}
    return planned.program, shared


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)
