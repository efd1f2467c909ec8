"""Graph -> a pure JAX function in float32, with taps on inner tensors."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jax import Array

from knerex_jax.graph.ir import Model
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.opdef import OpDef

FloatFn = Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]


def lower_float(
    model: Model, *, taps: Iterable[str] = (), registry: Mapping[str, OpDef] = REGISTRY
) -> tuple[FloatFn, dict[str, np.ndarray]]:
    """Lowers a bound model.

    Args:
      model: typed graph and constants.
      taps: inner tensors to return beside the outputs.
      registry: operator records.

    Returns:
      fn(params, inputs) -> {tensor: array} for the model's outputs and the taps, and params, its constants. fn is pure,
      differentiable and not compiled; inputs are the arrays of one sample, with the model's own (batch 1) shapes.
      For many samples: `jax.jit(jax.vmap(fn, (None, 0)))`.
    """
    graph = model.graph
    wanted = dict.fromkeys((*graph.outputs, *taps))

    def fn(params: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        values = {**params, **inputs}
        for node in graph.nodes:
            args = [values[t] if t else None for t in node.inputs]
            results = op_of(node, registry).to_float(node.attrs, *args)
            results = results if isinstance(results, tuple | list) else (results,)
            values.update((t, r) for t, r in zip(node.outputs, results, strict=False) if t)
        return {t: values[t] for t in wanted}

    return fn, dict(model.constants)
