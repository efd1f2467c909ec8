"""Many samples through a function of one, a few at a time, so that what a step holds stays in the caches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from knerex_jax.graph.ir import Model, Node
from knerex_jax.lowering.float import FloatFn, alive, float_params, lower_stretch, working_sets
from knerex_jax.lowering.kernels import products
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.opdef import OpDef

Step = Callable[[Any, Mapping[str, Array]], Any]


def over_samples(fn: Step, at_once: int) -> Step:
    """Maps a function over samples, `at_once` of them in parallel, the groups one after the other.

    Args:
      fn: (params, inputs) of one sample, from `lower_fixed` or `lower_float`.
      at_once: samples that run together; codes do not depend on it.

    Returns:
      The same function with a leading axis of samples on inputs and results; to be compiled by the caller.
    """

    def run(params: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
        def one(sample: Mapping[str, Any]) -> dict[str, Array]:
            return fn(params, sample)

        if len(jax.tree.leaves(inputs)[0]) <= at_once:
            return jax.vmap(one)(inputs)
        return lax.map(one, inputs, batch_size=at_once)

    return run


_BUDGETS = {"cpu": 24 << 20}
_OTHER_BUDGET = 1 << 30


def at_once(sizes: Iterable[int], budget_bytes: int | None = None) -> int:
    """How many samples to run together: as many as keep the largest step of one within the budget.

    A power of two, so that usual batches divide by it; a remainder would be compiled a second time.

    On a CPU, beyond the caches and beyond what malloc keeps mapped (32 MB with glibc), every step pays for its memory
    again: MobileNetV2, 224 x 224, batch 32: 1.5 times the CPU time of 4 at a time.

    Args:
      sizes: bytes of what each step of one sample makes and reads.
      budget_bytes: for the largest of them; None: 24 MB on a CPU, 1 GB where work has to fill a device.
    """
    budget_bytes = budget_bytes or _BUDGETS.get(jax.default_backend(), _OTHER_BUDGET)
    largest = max(sizes, default=1)  # none where every output is an input
    return 1 << (max(1, min(64, budget_bytes // largest)).bit_length() - 1)


_MORE = 4
"""So many times as many samples run together behind the place where a model's second half begins."""

_SMALL = 64
"""It has to be a place where at most this part of the largest working set is alive."""

_LIGHT = 5_000_000
"""Products per node and sample up to which the calls of its kernels cost as much as they do."""


def lower_batch(model: Model, *, registry: Mapping[str, OpDef] = REGISTRY) -> tuple[FloatFn, dict[str, np.ndarray]]:
    """`lower_float` for a batch: a leading axis of samples on inputs and results, a few of them at a time."""
    run = lower_readings(model, lambda nodes: _NOTHING, outputs=model.graph.outputs, registry=registry)
    return lambda params, inputs: run(params, {}, inputs)[0], float_params(model)


@dataclass(frozen=True)
class Reading:
    """What is made of some tensors of a sample.

    Attributes:
      tensors: to be read.
      fn: (given, {tensor: value}) -> arrays.
    """

    tensors: tuple[str, ...]
    fn: Callable[[Any, Mapping[str, Array]], Mapping[str, Array]]


_NOTHING = Reading((), lambda given, values: {})

Readings = Callable[[Any, Any, Mapping[str, Array]], tuple[dict[str, Array], list[Mapping[str, Array]]]]
"""(params, given, {input: [B, *shape]}) -> outputs, and what was read, one after the other; all start with [B]."""


def lower_readings(
    model: Model,
    read: Callable[[Sequence[Node]], Reading],
    *,
    outputs: Sequence[str] = (),
    registry: Mapping[str, OpDef] = REGISTRY,
) -> Readings:
    """A batch through a model, a few samples at a time, with what is read of its tensors on the way.

    Where large tensors allow few samples only, but soon give way to many light nodes on small ones, these get more
    samples at a time: MobileNetV2, batch 8, on a CPU: 0.88 of the time.

    Args:
      model: typed graph and constants.
      read: for nodes that run together, what is read of what they make and need.
      outputs: to return.
      registry: operator records.
    """
    sizes, count = list(working_sets(model)), len(model.graph.nodes)
    few, border = at_once(sizes), _second_half(model, sizes)
    cuts = [(0, count, few)] if border is None else [(0, border, few), (border, count, _MORE * few)]
    parts = []
    for start, end, samples in cuts:
        reading, nodes = read(model.graph.nodes[start:end]), slice(start, end)
        kept = outputs if end == count else alive(model, end)
        fn = lower_stretch(model, nodes, (*kept, *reading.tensors), registry, reading.tensors)
        parts.append(over_samples(partial(_read, fn, reading, kept), samples))

    def run(params: Any, given: Any, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], list[Mapping[str, Array]]]:
        held, found = inputs, []
        for part in parts:
            held, made = part((params, given), held)
            found.append(made)
        return held, found

    return run


def _read(
    fn: FloatFn, reading: Reading, kept: Sequence[str], params: tuple[Any, Any], tensors: Mapping[str, Array]
) -> tuple[dict[str, Array], Mapping[str, Array]]:
    """One sample through a part: what goes on, and what was read."""
    values = fn(params[0], tensors)
    return {t: values[t] for t in kept}, reading.fn(params[1], {t: values[t] for t in reading.tensors})


def _second_half(model: Model, sizes: Sequence[int]) -> int | None:
    """The node from which more samples fit, with little alive in front of it; None where it does not pay.

    sizes: the model's working sets.
    """
    types, count, more = model.graph.types, len(sizes), _MORE * at_once(sizes)

    def small(k: int) -> bool:
        return 0 < 4 * sum(types[t].size for t in alive(model, k)) <= max(sizes) // _SMALL

    start = next((k for k in range(1, count // 2) if at_once(sizes[k:]) >= more and small(k)), None)
    if start is None or sum(products(n, model) for n in model.graph.nodes[start:]) > _LIGHT * (count - start):
        return None
    return start
