"""Graph -> a pure JAX function in float32, with taps on inner tensors."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from knerex_jax.graph.ir import Model, Node
from knerex_jax.lowering.kernels import arranged, kernel_forms
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.layout import stored
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
      fn(params, inputs) -> {tensor: array} for the model's outputs and the taps, and params: its constants, kernels of
      convolutions as these read them (`kernel_forms`). fn is pure, differentiable and not compiled;
      inputs are the arrays of one sample, with the model's own (batch 1) shapes.
      For many samples: `jax.jit(jax.vmap(fn, (None, 0)))`.
    """
    tapped = tuple(taps)
    wanted = (*model.graph.outputs, *tapped)
    return lower_stretch(model, slice(None), wanted, registry, tapped if once else None), float_params(model)


def alive(model: Model, start: int) -> tuple[str, ...]:
    """Tensors, without constants, that are there in front of a node and still needed."""
    graph = model.graph
    made = (*graph.inputs, *(t for node in graph.nodes[:start] for t in node.outputs))
    needed = {*graph.outputs, *(t for node in graph.nodes[start:] for t in node.inputs)}
    return tuple(t for t in made if t in needed and t not in model.constants)


def lower_stretch(
    model: Model, nodes: slice, wanted: Iterable[str], registry: Mapping[str, OpDef], once: Iterable[str] | None
) -> FloatFn:
    """Some nodes as a function of one sample.

    Args:
      model: typed graph and constants.
      nodes: which of the graph's.
      wanted: tensors to return.
      registry: operator records.
      once: of these, the ones that are read for themselves, where results with several readers are to be kept apart
        (as in `lower_float`); None: nothing is.

    Returns:
      fn(params of the whole model, tensors that are alive in front of the nodes) -> {tensor: array}.
    """
    graph, kernels, wanted = model.graph, kernel_forms(model), tuple(dict.fromkeys(wanted))
    readers = Counter(() if once is None else (*once, *(t for node in graph.nodes for t in node.inputs)))

    def fn(params: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        values = {**params, **{t: jnp.moveaxis(params[t], (-1, -2), (0, 1)) for t in kernels}, **inputs}
        for node in graph.nodes[nodes]:
            made = _results(node, values, registry)
            values |= {t: _once(v) if readers[t] > 1 else v for t, v in made.items()}
        return {t: values[t] for t in wanted}

    return fn


def float_params(model: Model) -> dict[str, np.ndarray]:
    """What `lower_float` gives beside the function, whatever the taps; no array but kernels of tiles is copied."""
    forms = kernel_forms(model)
    return {t: arranged(v, forms[t]) if t in forms else v for t, v in model.constants.items()}


def _once(x: Array) -> Array:
    """A result with several readers, computed once: a compiler for the CPU would repeat it for each of them.

    Along a chain of residual additions it would repeat the whole chain in every block, which costs time to compile as
    well (500 nodes: 34 s of CPU without, and growing with the square).
    """
    kept = jax.default_backend() == "cpu" and isinstance(x, Array) and x.ndim > 2
    return stored(x) if kept else x


def working_sets(model: Model) -> Iterator[int]:
    """Bytes that each node reads and makes for one sample, without constants (`batch.at_once`)."""
    types = {t: v for t, v in model.graph.types.items() if t not in model.constants}
    return (4 * sum(types[t].size for t in (*n.inputs, *n.outputs) if t in types) for n in model.graph.nodes)


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
