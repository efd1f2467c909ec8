"""RNN, GRU and LSTM: one scan over time per direction."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from knerex_jax.graph.ir import Node
from knerex_jax.ops.opdef import OpDef

Activation = Callable[[Array], Array]
Step = Callable[[tuple[Array, ...], Array], tuple[Array, ...]]
"""(state, the input's share of the gates at one time) -> new state, whose first entry is the output."""


@dataclass(frozen=True)
class RecurrentAttrs:
    """As in ONNX; layout 1 puts the batch before time."""

    activations: tuple[str, ...] | None = None
    activation_alpha: tuple[float, ...] | None = None
    activation_beta: tuple[float, ...] | None = None
    clip: float | None = None
    direction: str = "forward"
    hidden_size: int | None = None
    layout: int = 0


@dataclass(frozen=True)
class GRUAttrs(RecurrentAttrs):
    """linear_before_reset: whether the reset gate works on the product with the state instead of on the state."""

    linear_before_reset: int = 0


@dataclass(frozen=True)
class LSTMAttrs(RecurrentAttrs):
    """input_forget: whether the forget gate is 1 minus the input gate."""

    input_forget: int = 0


_PLAIN: dict[str, Activation] = {
    "relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softsign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
}  # fmt: skip

_WITH_NUMBERS: dict[str, tuple[float, float | None, Callable[..., Array]]] = {
    "affine": (1.0, 0.0, lambda x, a, b: a * x + b),
    "scaledtanh": (1.0, 1.0, lambda x, a, b: a * jnp.tanh(b * x)),
    "hardsigmoid": (0.2, 0.5, lambda x, a, b: jnp.clip(a * x + b, 0, 1)),
    "leakyrelu": (0.01, None, lambda x, a, b: jnp.where(x >= 0, x, a * x)),
    "thresholdedrelu": (1.0, None, lambda x, a, b: jnp.where(x > a, x, 0)),
    "elu": (1.0, None, lambda x, a, b: jnp.where(x >= 0, x, a * (jnp.exp(x) - 1))),
}
"""Name -> default alpha, default beta (None: it has none), function."""


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float], clip: float | None) -> Activation:
    key = name.lower()
    if key in _WITH_NUMBERS:
        alpha, beta, formula = _WITH_NUMBERS[key]
        function = partial(formula, a=next(alphas, alpha), b=None if beta is None else next(betas, beta))
    elif key in _PLAIN:
        function = _PLAIN[key]
    else:
        raise ValueError(f"unknown activation {name!r}")
    return function if clip is None else lambda x: function(jnp.clip(x, -clip, clip))


def _activations(a: RecurrentAttrs, default: tuple[str, ...], directions: int) -> list[tuple[Activation, ...]]:
    """The functions of each direction; numbers are handed out in the order of the functions that need them."""
    names = a.activations or default * directions
    alphas, betas = iter(a.activation_alpha or ()), iter(a.activation_beta or ())
    found = [_activation(name, alphas, betas, a.clip) for name in names]
    n = len(default)
    return [tuple(found[i * n : (i + 1) * n]) for i in range(directions)]


def _product(x: Array, w: Array) -> Array:
    return jnp.matmul(x, w.T, precision=lax.Precision.HIGHEST)


def _scan(step: Step, gates: Array, state: tuple[Array, ...], lengths: Array | None, *, reverse: bool) -> Any:
    """Outputs [T, B, H] and last state; a sample stands still at times beyond its length, where its output is 0."""

    def advance(state: tuple[Array, ...], now: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        time, share = now
        new = step(state, share)
        if lengths is None:
            return new, new[0]
        runs = (time < lengths)[:, None]
        return tuple(jnp.where(runs, n, s) for n, s in zip(new, state, strict=True)), jnp.where(runs, new[0], 0)

    state, y = lax.scan(advance, state, (jnp.arange(gates.shape[0]), gates), reverse=reverse)
    return y, state


def _recurrent(
    a: RecurrentAttrs, x: Array, w: Array, r: Array, b: Array | None, lengths: Array | None,
    initial: tuple[Array | None, ...], steps: list[Step],
) -> tuple[Array, ...]:  # fmt: skip
    """Runs all directions; steps[d] adds the recurrent part to the input's, which is computed here for all times."""
    if a.layout:
        x = jnp.swapaxes(x, 0, 1)
        initial = tuple(None if s is None else jnp.swapaxes(s, 0, 1) for s in initial)
    outputs, states = [], []
    for d, step in enumerate(steps):
        gates = _product(x, w[d])
        if b is not None:
            gates = gates + b[d, : w.shape[1]]
        zeros = jnp.zeros((x.shape[1], r.shape[-1]), x.dtype)
        state = tuple(zeros if s is None else s[d] for s in initial)
        y, last = _scan(step, gates, state, lengths, reverse=d == 1 or a.direction == "reverse")
        outputs.append(y)
        states.append(last)
    y = jnp.stack(outputs, axis=1)
    last = tuple(jnp.stack(parts) for parts in zip(*states, strict=True))
    if a.layout:
        return jnp.transpose(y, (2, 0, 1, 3)), *(jnp.swapaxes(s, 0, 1) for s in last)
    return y, *last


def _recurrent_bias(b: Array | None, d: int, w: Array) -> Array | float:
    return 0.0 if b is None else b[d, w.shape[1] :]


def _rnn(
    a: RecurrentAttrs, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    def cell(d: int, f: Activation) -> Step:
        return lambda state, gates: (f(gates + _product(state[0], r[d]) + _recurrent_bias(b, d, w)),)

    steps = [cell(d, *functions) for d, functions in enumerate(_activations(a, ("Tanh",), w.shape[0]))]
    return _recurrent(a, x, w, r, b, lengths, (h,), steps)


def _gru(
    a: GRUAttrs, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    def cell(d: int, f: Activation, g: Activation) -> Step:
        size = w.shape[1] // 3
        bias = jnp.broadcast_to(jnp.asarray(_recurrent_bias(b, d, w), x.dtype), (3 * size,))

        def step(state: tuple[Array, ...], gates: Array) -> tuple[Array, ...]:
            (held,) = state
            open_gates = f(gates[:, : 2 * size] + _product(held, r[d, : 2 * size]) + bias[: 2 * size])
            update, reset = jnp.split(open_gates, 2, axis=-1)
            candidate, own = r[d, 2 * size :], bias[2 * size :]
            if a.linear_before_reset:
                new = g(gates[:, 2 * size :] + reset * (_product(held, candidate) + own))
            else:
                new = g(gates[:, 2 * size :] + _product(reset * held, candidate) + own)
            return ((1 - update) * new + update * held,)

        return step

    steps = [cell(d, *functions) for d, functions in enumerate(_activations(a, ("Sigmoid", "Tanh"), w.shape[0]))]
    return _recurrent(a, x, w, r, b, lengths, (h,), steps)


def _lstm(
    a: LSTMAttrs, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None, c: Array | None = None, peepholes: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    def cell(d: int, f: Activation, g: Activation, out: Activation) -> Step:
        peep_i, peep_o, peep_f = (0.0, 0.0, 0.0) if peepholes is None else jnp.split(peepholes[d], 3)

        def step(state: tuple[Array, ...], gates: Array) -> tuple[Array, ...]:
            held, memory = state
            gates = gates + _product(held, r[d]) + _recurrent_bias(b, d, w)
            i, o, forget, new = jnp.split(gates, 4, axis=-1)
            i = f(i + peep_i * memory)
            forget = 1 - i if a.input_forget else f(forget + peep_f * memory)
            memory = forget * memory + i * g(new)
            return f(o + peep_o * memory) * out(memory), memory

        return step

    functions = _activations(a, ("Sigmoid", "Tanh", "Tanh"), w.shape[0])
    return _recurrent(a, x, w, r, b, lengths, (h, c), [cell(d, *fs) for d, fs in enumerate(functions)])


def _rnn_canonical(node: Node, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> Node:
    directions = 2 if node.attrs.get("direction") == "bidirectional" else 1
    return replace(node, attrs={"activations": ("Tanh",) * directions, **node.attrs})


OPS = (
    OpDef(op_type="RNN", attrs=RecurrentAttrs, canonical=_rnn_canonical, to_float=_rnn),
    OpDef(op_type="GRU", attrs=GRUAttrs, to_float=_gru),
    OpDef(op_type="LSTM", attrs=LSTMAttrs, to_float=_lstm),
)
