"""Refined constants (learned weights, adjusted biases) of one plan carried over to another."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from knerex_jax.fixedpoint.qformat import QFormat
from knerex_jax.graph.ir import Model
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.program import Constants
from knerex_jax.quantize.planner import Planned, refine_plan
from knerex_jax.refine.bias_nodes import with_biases
from knerex_jax.refine.grid import with_weights
from knerex_jax.simulate.params import sim_params
from knerex_jax.targets import TARGETS

_BIAS = 2


def as_stored(planned: Planned, constants: Constants, registry: Mapping[str, OpDef]) -> Planned:
    """A plan with the integers of a file; where they are others, its refined model is what they stand for.

    Args:
      planned: made again from ranges, so without refinement.
      constants: of the file, for the same program.
      registry: operator records.
    """
    stored = replace(planned, constants=constants)
    real, model = sim_params(stored, registry).nodes, planned.model
    for name in planned.plan.weight_bits:
        if not _equal(planned.constants[name], constants[name], "weight"):
            model = with_weights(model, name, np.asarray(real[name].weight), registry)
    biases = {n: np.asarray(real[n].bias) for n in real if not _equal(planned.constants[n], constants[n], "bias")}
    return replace(stored, refined=with_biases(model, biases))


def carried_over(base: Planned, made: Planned, registry: Mapping[str, OpDef]) -> Planned:
    """Another plan of the same model with the refined constants of the first.

    Nodes between tensors whose formats are the same have the same integers; the others are quantized from the refined
    constants.
    """
    if base.refined is base.model:
        return made
    refined = refine_plan(made, _refined(base, made.model, registry), TARGETS[made.plan.platform], registry)
    before = {i.name: i for i in base.program.instructions}
    same = [
        i.name
        for i in refined.program.instructions
        if before.get(i.name) == i and all(_same_format(base, made, t) for t in (*i.inputs, *i.outputs))
    ]
    constants = {**refined.constants, **{n: base.constants[n] for n in same if n in base.constants}}
    return replace(refined, constants=constants)


def _refined(base: Planned, model: Model, registry: Mapping[str, OpDef]) -> Model:
    """A model with the constants of weighted nodes that were refined in another one."""
    biases = {}
    for name in base.plan.weight_bits:
        if name not in model.graph.node:
            continue
        old, new = base.model.graph.node[name], base.refined.graph.node[name]
        index = op_of(new, registry).weight
        assert index is not None, f"{name} has no weights"
        weight = base.refined.constants[new.inputs[index]]
        if not np.array_equal(weight, base.model.constants[old.inputs[index]]):
            model = with_weights(model, name, weight, registry)
        bias = _bias(base.refined, name)
        if bias is not None and not np.array_equal(bias, _bias(base.model, name)):
            biases[name] = bias
    return with_biases(model, biases)


def _bias(model: Model, name: str) -> np.ndarray | None:
    inputs = model.graph.node[name].inputs
    return model.constants[inputs[_BIAS]] if len(inputs) > _BIAS and inputs[_BIAS] else None


def _equal(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], key: str) -> bool:
    return np.array_equal(ours[key], theirs[key])


def _same_format(base: Planned, made: Planned, tensor: str) -> bool:
    a, b = (p.plan.formats.get(tensor) for p in (base, made))
    return a is b if a is None or b is None else _numbers(a) == _numbers(b)


def _numbers(f: QFormat) -> tuple[int, list[int], list[float]]:
    return f.bits, f.radix.tolist(), f.scale.tolist()
