"""Single sources of error put into the float model: what each adds to the outputs when it acts alone, measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from knerex_jax.diagnose.frozen import Frozen, Offsets
from knerex_jax.simulate.params import Gates, Source

TRUSTED = 0.9
"""Share of an output's error that slopes have to add up to; below it the largest sources are measured alone."""

AT_ONCE = 32
"""Sources that are measured before the next ones are chosen."""

ROUNDS = 4
"""How often, at most."""

LEAST = 0.01
"""A source with a smaller share of the noise at every output need not be measured."""

Injection = tuple[Source, str]
"""A source of error, and the tensor or node that it belongs to."""

Values = Mapping[str, Any]
Inject = Callable[[Values, Offsets, Mapping[str, np.ndarray], Sequence[Injection]], np.ndarray]


def injector(frozen: Frozen, off: Gates, outputs: Sequence[str]) -> Inject:
    """A compiled step: (batch, offsets, signs, sources) -> float64 [B, sources, outputs, probes].

    Everything is float but one source, which acts as in the integer run. The result is what that changes at the
    outputs, along random vectors of signs [B, probes, *shape].

    Args:
      frozen: a plan whose errors can be switched.
      off: its switches, all at 0.
      outputs: which to look at.
    """
    known = {found: k for k, found in enumerate((s, n) for s in get_args(Source) for n in getattr(off, s))}

    def one(params: Any, inputs: Values, offsets: Offsets, signs: Values, chosen: Array) -> Array:
        plain = frozen.run(params, off, inputs, offsets)

        def alone(place: Array) -> Array:
            gates = Gates(**{s: {n: jnp.float32(place == known[s, n]) for n in held} for s, held in vars(off).items()})
            made = frozen.run(params, gates, inputs, offsets)
            return jnp.stack([jnp.tensordot(signs[t], made[t] - plain[t], plain[t].ndim) for t in outputs])

        return lax.map(alone, chosen)

    compiled = jax.jit(jax.vmap(one, (None, 0, 0, 0, None)))
    params = jax.device_put(frozen.params)

    def step(
        batch: Values, offsets: Offsets, signs: Mapping[str, np.ndarray], sources: Sequence[Injection]
    ) -> np.ndarray:
        places = np.int32([known[found] for found in sources])
        filled = np.resize(places, AT_ONCE)  # one shape, one compilation
        return np.asarray(compiled(params, batch, offsets, signs, filled), np.float64)[:, : len(places)]

    return step


def explains(slopes: Gates, errors: np.ndarray) -> bool:
    """Whether the sources add up to the errors [samples, outputs, probes] of every output."""
    left = errors - sum(v for held in vars(slopes).values() for v in held.values())
    return bool(((left**2).sum((0, 2)) <= (1 - TRUSTED) * (errors**2).sum((0, 2))).all())


def largest(slopes: Gates, errors: np.ndarray, known: frozenset[Injection]) -> tuple[Injection, ...]:
    """The sources to measure next: those with the largest share of the noise at any output that are not known yet."""
    noise = np.maximum((errors**2).sum((0, 2)), np.finfo(np.float64).tiny)
    shares = {
        (s, n): float(((v**2).sum((0, 2)) / noise).max())
        for s in get_args(Source)
        for n, v in getattr(slopes, s).items()
    }
    ranked = sorted(shares, key=lambda found: -shares[found])
    return tuple(found for found in ranked if shares[found] > LEAST and found not in known)[:AT_ONCE]
