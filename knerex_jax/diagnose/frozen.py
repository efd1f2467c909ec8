"""A plan in float whose errors are those of the integer run, each behind a switch that may stand anywhere in 0 .. 1."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array, lax

from knerex_jax.ops.opdef import OpDef
from knerex_jax.quantize.planner import Planned
from knerex_jax.simulate.lower import lower_simulated
from knerex_jax.simulate.params import Gates, Quantizer, SimParams
from knerex_jax.simulate.quantizer import finite_gradient, limit, quantize

Values = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Offsets:
    """What the integer run of one sample added to every formatted tensor, float32 of the tensor's shape.

    Attributes:
      round: by rounding it to codes.
      rest: by whatever its instruction does beyond that.
    """

    round: Mapping[str, Any]
    rest: Mapping[str, Any]


@dataclass(frozen=True)
class Frozen:
    """Two pure functions, not compiled, and what they compute with.

    Attributes:
      freeze: (params, inputs, real values of the integer run) -> `Offsets`; arrays of one sample.
      run: (params, gates, inputs, offsets) -> outputs. All gates at 0 give the float model, all at 1 the integer run;
        in between every tensor is shifted by that share of its offsets, so that outputs are continuous in the gates.
      params: of both.
    """

    freeze: Callable[[SimParams, Values, Values], Offsets]
    run: Callable[[SimParams, Gates, Values, Offsets], dict[str, Array]]
    params: SimParams


def freeze_errors(
    planned: Planned, free: Iterable[str], outputs: Iterable[str], registry: Mapping[str, OpDef]
) -> Frozen:
    """Lowers a plan so that its errors can be scaled.

    Args:
      planned: plan, planned model and integers.
      free: tensors that are not cut, and so do not follow the integer run.
      outputs: what `run` returns.
      registry: operator records.
    """
    fn, params = lower_simulated(planned, registry=registry)
    uncut, wanted = frozenset(free), tuple(outputs)

    def freeze(params: SimParams, inputs: Values, held: Values) -> Offsets:
        rounded: dict[str, Array] = {}
        missing: dict[str, Array] = {}

        def entry(t: str, x: Array, q: Quantizer, gates: None, held: Values, *, half_up: bool) -> Array:
            clip = float(t not in uncut)
            limited, coded = limit(x, q, clip), quantize(x, q, clip, half_up=half_up)
            real = coded if t in uncut else held[t]
            rounded[t], missing[t] = coded - limited, real - coded
            return real

        fn(params, None, inputs, held, entry)
        return Offsets(rounded, missing)

    def run(params: SimParams, gates: Gates, inputs: Values, offsets: Offsets) -> dict[str, Array]:
        def entry(t: str, x: Array, q: Quantizer, gates: Gates, offsets: Offsets, *, half_up: bool) -> Array:
            x = limit(x, q, 0.0 if t in uncut else gates.clip[t])
            return finite_gradient(x + gates.round[t] * offsets.round[t] + gates.rest[t] * offsets.rest[t])

        made = fn(params, gates, inputs, lax.stop_gradient(offsets), entry)
        return {t: made[t] for t in wanted}

    return Frozen(freeze, run, params)
