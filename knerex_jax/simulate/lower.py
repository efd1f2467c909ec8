"""Plan -> a pure JAX function in float32 that behaves like its integers, every source of error behind a switch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops import REGISTRY
from knerex_jax.ops.bind import op_of
from knerex_jax.ops.opdef import OpDef
from knerex_jax.program.primitives import Const, Island, Lookup, Table
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.params import Gates, Quantizer, SimParams, Weights, along, mac_form, sim_params
from knerex_jax.simulate.quantizer import quantize

_NEAREST = (Const, Lookup, Table, Island)
"""Instructions whose results are rounded in float, ties to even; all others shift integers."""

SimFn = Callable[..., dict[str, Array]]

Entry = Callable[..., Array]
"""(tensor, value, its quantizer, gates, held, half_up) -> the value that a formatted tensor goes on with."""


def lower_simulated(
    planned: Planned, *, taps: Iterable[str] = (), registry: Mapping[str, OpDef] = REGISTRY
) -> tuple[SimFn, SimParams]:
    """Lowers a plan to float operations.

    The planned graph runs in float; every tensor with a format goes through its quantizer, every weighted node
    computes with the real numbers that its integers stand for. What integers add to that (requantization by a 15-bit
    multiplier, narrow accumulators, interpolation weights, tables of islands) is left out.

    Args:
      planned: plan, planned model and integers.
      taps: inner tensors to return beside the outputs.
      registry: operator records.

    Returns:
      fn(params, gates, inputs, held=None, entry) -> {tensor: float32 array} for the outputs and the taps, and params.
      fn is pure, differentiable in params, gates and inputs, and not compiled; inputs are arrays of one sample. `gates`
      are `Gates`, or None for everything as planned (which is cheaper: one multiplication by the weights instead of
      two). `held` gives tensors the values they go on with, e.g. those of the emulator: the switch `rest` of a tensor
      adds what is missing to its value; gradients pass as without it. `entry` replaces what happens to a tensor with a
      format.
    """
    graph, formats = planned.model.graph, planned.plan.formats
    wanted = dict.fromkeys((*graph.outputs, *taps))
    shifted = {t for i in planned.program.instructions if not isinstance(i, _NEAREST) for t in i.outputs}
    axes = {
        n: mac_form(graph.node[n], planned, registry).axis % len(graph.shape(graph.node[n].outputs[0]))
        for n in planned.plan.weight_bits
    }

    def fn(
        params: SimParams,
        gates: Gates | None,
        inputs: Mapping[str, Array],
        held: Mapping[str, Array] | None = None,
        entry: Entry = _as_planned,
    ) -> dict[str, Array]:
        def formatted(t: str, x: Array) -> Array:
            return x if t not in formats else entry(t, x, params.tensors[t], gates, held, half_up=t in shifted)

        values: dict[str, Any] = dict(params.constants)
        values |= {t: formatted(t, x) for t, x in inputs.items()}
        for node in graph.nodes:
            args = [values[t] if t else None for t in node.inputs]
            rule = op_of(node, registry).to_float
            if node.name in axes:
                results: Any = _weighted(rule, node, args, params.nodes[node.name], gates, axes[node.name])
            else:
                results = rule(node.attrs, *args)
            results = results if isinstance(results, tuple | list) else (results,)
            made = {t: r for t, r in zip(node.outputs, results, strict=False) if t}
            values |= {t: formatted(t, r) for t, r in made.items()}
        return {t: values[t] for t in wanted}

    return fn, sim_params(planned, registry)


def _as_planned(
    t: str, x: Array, q: Quantizer, gates: Gates | None, held: Mapping[str, Array] | None, *, half_up: bool
) -> Array:
    clip, round, rest = (1.0, 1.0, 1.0) if gates is None else (gates.clip[t], gates.round[t], gates.rest[t])
    x = quantize(x, q, clip, round, half_up=half_up)
    return x if held is None or t not in held else x + rest * lax.stop_gradient(held[t] - x)


def _weighted(
    rule: Callable[..., Array], node: Node, args: list[Any], coded: Weights, gates: Gates | None, axis: int
) -> Array:
    """A node with constant weights; it is linear in weight and bias, so that their errors are terms of a sum."""
    x, weight, *more = args

    def result(weight: Any, bias: Any) -> Array:
        """With a bias for inputs that have one, of whatever shape."""
        return rule(node.attrs, x, weight, *([bias, *more[1:]] if more else []))

    if gates is None:
        y = result(coded.weight, None if not more or more[0] is None else jnp.zeros_like(more[0]))
        return y + along(coded.bias, axis, y.ndim)
    y = result(weight, more[0] if more else None)
    zero = None if not more or more[0] is None else jnp.zeros_like(more[0])
    y = y + gates.weight[node.name] * result(coded.weight - weight, zero)
    own = 0.0 if zero is None else jnp.ravel(more[0])
    return y + gates.bias[node.name] * along(jnp.broadcast_to(coded.bias - own, coded.bias.shape), axis, y.ndim)
