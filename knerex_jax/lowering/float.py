"""Graph -> a pure JAX function in float32, with taps on inner tensors."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.layout import Format, Layout

from knerex_jax.graph.ir import Model, Node
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.opdef import OpDef

FloatFn = Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]


def lower_float(
    model: Model, *, taps: Iterable[str] = (), registry: Mapping[str, OpDef] = REGISTRY, once: bool = False
) -> tuple[FloatFn, dict[str, np.ndarray]]:
    """Lowers a bound model.

    Args:
      model: typed graph and constants.
      taps: inner tensors to return beside the outputs.
      registry: operator records.
      once: on a CPU, results with several readers (a tap is one) are kept apart from them: faster where few tensors are
        returned.

    Returns:
      fn(params, inputs) -> {tensor: array} for the model's outputs and the taps, and params, its constants. fn is pure,
      differentiable and not compiled; inputs are the arrays of one sample, with the model's own (batch 1) shapes.
      For many samples: `jax.jit(jax.vmap(fn, (None, 0)))`.
    """
    graph = model.graph
    tapped = tuple(taps)
    wanted = dict.fromkeys((*graph.outputs, *tapped))
    readers = Counter((*tapped, *(t for node in graph.nodes for t in node.inputs)) if once else ())

    def fn(params: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        values = {**params, **inputs}
        for node in graph.nodes:
            made = _results(node, values, registry)
            values |= {t: _once(v) if readers[t] > 1 else v for t, v in made.items()}
        return {t: values[t] for t in wanted}

    return fn, dict(model.constants)


def _once(x: Array) -> Array:
    """A result with several readers, computed once: a compiler for the CPU would repeat it for each of them.

    Along a chain of residual additions it would repeat the whole chain in every block, which costs time to compile as
    well (500 nodes: 34 s of CPU without, and growing with the square). A barrier fixes the layout: channels last.
    """
    if jax.default_backend() != "cpu" or not isinstance(x, Array) or x.ndim < 3:
        return x
    return jnp.moveaxis(lax.optimization_barrier(jnp.moveaxis(x, 1, -1)), -1, 1)


def working_sets(model: Model) -> Iterator[int]:
    """Bytes that each node reads and makes for one sample, without constants (`stream.at_once`)."""
    types = {t: v for t, v in model.graph.types.items() if t not in model.constants}
    return (4 * sum(types[t].size for t in (*n.inputs, *n.outputs) if t in types) for n in model.graph.nodes)


def put_params(model: Model, params: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Constants on the device; weights of convolutions lie there as the lowering reads them, with channels last.

    Their shapes and values stay as they are. In ONNX's own order every call on a CPU would turn them again, which takes
    as long as the convolutions of a small model (A2, batch 8: 44 % of the time).

    Args:
      model: whose constants these are.
      params: from `lower_float`.
    """
    placed = {t: jax.device_put(v) for t, v in params.items()}
    for node in model.graph.nodes if jax.default_backend() == "cpu" else ():
        if node.op_type == "Conv" and (weight := placed.get(node.inputs[1])) is not None:
            turned = Layout((*range(2, weight.ndim), 1, 0))
            placed[node.inputs[1]] = jax.device_put(weight, Format(turned, weight.sharding))
    return placed


def walk_float(
    model: Model, inputs: Mapping[str, np.ndarray], *, registry: Mapping[str, OpDef] = REGISTRY
) -> Iterator[tuple[Node, dict[str, Array]]]:
    """Runs one sample node by node; yields each node with what it made. Tensors are dropped behind their last reader.

    Args:
      model: typed graph and constants.
      inputs: name -> array of the model's own (batch 1) shape.
      registry: operator records.
    """
    last = {t: k for k, node in enumerate(model.graph.nodes) for t in node.inputs}
    held: dict[str, Array] = {t: jnp.asarray(v) for t, v in inputs.items()}
    for k, node in enumerate(model.graph.nodes):
        constants = {t: jnp.asarray(model.constants[t]) for t in node.inputs if t in model.constants}
        made = _results(node, {**constants, **held}, registry)
        held = {t: v for t, v in (held | made).items() if last.get(t, -1) > k}
        yield node, made


def _results(node: Node, values: Mapping[str, Array], registry: Mapping[str, OpDef]) -> dict[str, Array]:
    """What one node makes."""
    args = [values[t] if t else None for t in node.inputs]
    results = op_of(node, registry).to_float(node.attrs, *args)
    results = results if isinstance(results, tuple | list) else (results,)
    return {t: r for t, r in zip(node.outputs, results, strict=False) if t}
